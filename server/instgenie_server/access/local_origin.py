"""A server on loopback without keys trusts this machine's programs; web pages of others must not borrow that trust.

A page on any site can make the browser post a form to 127.0.0.1, and can point a name of its own there (DNS rebinding)
to read the replies. Both show: in `Origin`, and in `Host`.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from instgenie_server.access.exposure import is_loopback
from instgenie_server.api_error import ApiError


def foreign_origin(host: str | None, origin: str | None, public_url: str | None) -> ApiError | None:
    """403 if the request comes from, or through, a name that is neither this machine's nor the public one.

    Args:
        host, origin: the headers; programs other than browsers send no origin.
    """
    for header, url in (("host", f"//{host}" if host else None), ("origin", origin)):
        if url is not None and not _is_own(url, public_url):
            message = (
                f"the {header} {url.lstrip('/')[:200]!r} is not this machine: a server without API keys answers only "
                "local requests; set public_url if it stands behind a proxy"
            )
            return ApiError(403, message, "permission_error", None, f"foreign_{header}")
    return None


def _is_own(url: str, public_url: str | None) -> bool:
    name = _hostname(url)
    return name is not None and (is_loopback(name) or (public_url is not None and name == _hostname(public_url)))


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname  # of `Origin: null`, which sandboxed pages send, None
    except ValueError:
        return None
