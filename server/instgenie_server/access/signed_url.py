"""Addresses that open one path until a time, without headers: a path, `exp` in seconds since 1970, and `sig`."""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import re


class UrlSigner:
    """Signs paths, so that a result's address can be opened by whoever was given it."""

    def __init__(self, secret: bytes, lifetime_seconds: float) -> None:
        self._secret = secret
        self._lifetime_seconds = lifetime_seconds

    def sign(self, path: str, now: float) -> str:
        """The path with a query that `is_valid` accepts; `now` in seconds since 1970."""
        expires = str(math.ceil(now + self._lifetime_seconds))
        return f"{path}?exp={expires}&sig={self._signature(path, expires)}"

    def is_valid(self, path: str, expires: str, signature: str, now: float) -> bool:
        """Whether the signature is ours for this path and the time is not over."""
        if not re.fullmatch(r"[0-9]{1,12}", expires) or not signature.isascii():
            return False
        return hmac.compare_digest(self._signature(path, expires), signature) and now < int(expires)

    def _signature(self, path: str, expires: str) -> str:
        message = f"instgenie-url-1\n{expires}\n{path}".encode()  # what varies in form comes last
        digest = hmac.digest(self._secret, message, hashlib.sha256)
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
