"""A process with a Ray cluster: it prints the address, then does what the lines of its standard input say.

A process of its own, since importing Ray changes the logs of whoever does, and fixes how it proves who it is.
"""

from __future__ import annotations

import sys
from typing import Any

from ray.cluster_utils import Cluster


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    machines: list[Any] = []
    try:
        tell(cluster.address)
        for line in sys.stdin:
            if line == "add\n":
                machines.append(cluster.add_node(num_cpus=1))
            elif line == "kill\n":
                cluster.remove_node(machines.pop(), allow_graceful=False)
            tell(line.strip())
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
