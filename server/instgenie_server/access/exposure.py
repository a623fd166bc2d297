"""Who can reach the server, and whether it may start like that."""

from __future__ import annotations

import ipaddress
from collections.abc import Sized

import structlog

from instgenie_server.operator_error import ExposureError
from instgenie_server.settings import Settings

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens at the host. Names but `localhost` are not looked up: no."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.lower().rstrip(".") == "localhost"
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


def key_required(settings: Settings) -> bool:
    """Whether requests need an API key: as set, else where the server is bound beyond loopback."""
    required = settings.auth.required
    return not is_loopback(settings.host) if required is None else required


def check_exposure(settings: Settings, keys: Sized) -> None:
    """Refuse to be open to the network by oversight; warn where it is meant.

    Raises:
        ExposureError: bound beyond loopback, keys are required, and there are none.
    """
    if key_required(settings):
        if not keys and not is_loopback(settings.host):
            raise ExposureError(
                f"{settings.host} can be reached from the network, but there are no API keys in {settings.data_dir}: "
                f"make one with `instgenie keys add TENANT --data-dir {settings.data_dir}`, or set host to 127.0.0.1; "
                "auth.required = false lets everybody in"
            )
        if not keys:
            log.warning("no API keys: every request will be refused until `instgenie keys add TENANT`")
    elif not is_loopback(settings.host):
        log.warning("auth.required is false: whoever reaches the server can use it", host=settings.host)
