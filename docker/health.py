"""Whether a process of ours answers: exit code 0, or 1 and the reason. For health checks of containers.

    python health.py ADDRESS

An http:// address, such as /readyz of a server, has to answer 200. At another address, such as unix:/path, there has to
be a cache service, if the path ends in cache.sock, and else a replica: one whose device has been at one step for longer
than a server waits, by its default, hangs, though its process answers.
"""

from __future__ import annotations

import asyncio
import sys
import urllib.request
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from instgenie_cache.wire.address import Address

SECONDS = 5.0  # for the answer; what is imported to ask for it takes long on a busy machine, whoever is asked


async def check(text: str) -> None:
    """Raise whatever comes of an address where nobody answers, or where a replica hangs."""
    from instgenie_cache.wire.address import Address

    address = Address.parse(text)
    if text.endswith("cache.sock"):
        await check_cache(address)
    else:
        await check_replica(address)


async def check_cache(address: Address) -> None:
    """Raise whatever comes of it where no cache service answers."""
    from instgenie_cache.client.cache_client import CacheClient

    async with asyncio.timeout(SECONDS):
        await (await CacheClient.connect(address, client="health check")).close()


async def check_replica(address: Address) -> None:
    """Raise whatever comes of it where it does not answer, or hangs."""
    from instgenie.replica.remote_replica import RemoteReplica
    from instgenie_server.fleet.card_limits import limits_of
    from instgenie_server.fleet.hung import longest_seconds

    async with asyncio.timeout(SECONDS):
        replica = await RemoteReplica.connect(address, client="health check")
        try:
            stats = await replica.stats()
            most_seconds = longest_seconds(replica.costs, limits_of(replica.model).rows)
        finally:
            await replica.close()
    if stats.step_age_seconds > most_seconds:
        raise TimeoutError(f"at one step for {stats.step_age_seconds:.0f} s, longer than {most_seconds:.0f} s")


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
