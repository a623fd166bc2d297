"""Whether a process of ours answers: exit code 0, or 1 and the reason. For health checks of containers.

    python health.py ADDRESS

An http:// address, such as /readyz of a server, has to answer 200. At another address, such as unix:/path, there has to
be a cache service, if the path ends in cache.sock, and else a replica.
"""

from __future__ import annotations

import asyncio
import sys
import urllib.request

SECONDS = 5.0


async def check(text: str) -> None:
    """Raise whatever comes of an address where nobody answers."""
    from instgenie.replica.remote_replica import RemoteReplica
    from instgenie_cache.client.cache_client import CacheClient
    from instgenie_cache.wire.address import Address

    address = Address.parse(text)
    async with asyncio.timeout(SECONDS):
        if text.endswith("cache.sock"):
            await (await CacheClient.connect(address, client="health check")).close()
        else:
            replica = await RemoteReplica.connect(address, client="health check")
            await replica.stats()
            await replica.close()


def main(text: str) -> int:
    try:
        if text.startswith("http://"):
            urllib.request.urlopen(text, timeout=SECONDS).close()  # raises where the status is 400 or more
        else:
            asyncio.run(check(text))
    except Exception as error:  # noqa: BLE001 - whatever it is, it does not answer
        sys.stderr.write(f"{text}: {error!r}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
