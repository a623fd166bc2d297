"""Whose request is this?"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from instgenie_server.access.exposure import is_loopback, key_required
from instgenie_server.access.key_file import KeyFile
from instgenie_server.access.key_ring import KeyRing
from instgenie_server.access.key_verifier import KeyVerifier
from instgenie_server.access.local_origin import foreign_origin
from instgenie_server.access.signed_url import UrlSigner
from instgenie_server.api_error import ApiError, unauthorized
from instgenie_server.settings import Settings

LOCAL_TENANT = "local"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks.

    Attributes:
        tenant: whose jobs and templates the request may see; empty for a signed address.
        key_id: None where keys are not needed, and for a signed address.
        signed: the request has no key, but an address that we signed for this very path.
    """

    tenant: str
    key_id: str | None = None
    signed: bool = False

    def may_see(self, tenant: str) -> bool:
        """Whether what belongs to the tenant, and lies under the request's path, may be shown."""
        return self.signed or self.tenant == tenant


LOCAL = Identity(LOCAL_TENANT)
SIGNED = Identity("", signed=True)


@dataclass(frozen=True, slots=True)
class Caller:
    """What of a request says who asks.

    Attributes:
        path: decoded, without the query.
        headers: by lower-case name.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    remote: str


class Authenticator:
    """Tells callers apart: by API key, by a signed address, or, where keys are not needed, not at all."""

    def __init__(
        self, settings: Settings, verifier: KeyVerifier, signer: UrlSigner, clock: Callable[[], float] = time.time
    ) -> None:
        self._required = key_required(settings)
        self._loopback = is_loopback(settings.host)
        self._public_url = settings.public_url
        self._verifier = verifier
        self._signer = signer
        self._clock = clock

    async def identify(self, caller: Caller) -> Identity:
        """Who asks. Keys are not looked at where none is needed: some clients always send one.

        Raises:
            ApiError: 401 without a key or with a wrong one; 403 for an address with a wrong or expired signature, or
                a web page of another site; 429 for too many wrong keys.
        """
        if not self._required:
            if self._loopback:
                error = foreign_origin(caller.headers.get("host"), caller.headers.get("origin"), self._public_url)
                if error is not None:
                    raise error
            return LOCAL
        authorization = caller.headers.get("authorization")
        if authorization is not None:
            scheme, _, text = authorization.partition(" ")
            if scheme.lower() != "bearer":
                raise unauthorized("send the API key as `Authorization: Bearer ig-...`")
            key = await self._verifier.verify(text.strip(), caller.remote)
            return Identity(key.tenant, key.id)
        if "sig" in caller.query:
            return self._by_signature(caller)
        raise unauthorized("an API key is needed: send it as `Authorization: Bearer ig-...`")

    def trusts_without_key(self, caller: Caller) -> bool:
        """Whether a request for metrics needs no key: on loopback, unless a proxy passes it on for someone else."""
        return self._loopback and not caller.headers.keys() & {"forwarded", "x-forwarded-for", "x-real-ip"}

    def signed_path(self, path: str) -> str:
        """The path with a signature, with which it can be read for a while by whoever has it."""
        return self._signer.sign(path, self._clock())

    def close(self) -> None:
        """Stop verifying."""
        self._verifier.close()

    def _by_signature(self, caller: Caller) -> Identity:
        expires, signature = caller.query.get("exp", ""), caller.query["sig"]
        is_reading = caller.method in ("GET", "HEAD")
        if not is_reading or not self._signer.is_valid(caller.path, expires, signature, self._clock()):
            message = "this address has expired, or was not made by this server"
            raise ApiError(403, message, "permission_error", None, "invalid_signature")
        return SIGNED


def make_authenticator(settings: Settings) -> Authenticator:
    """The authenticator that the settings describe."""
    secret = settings.auth.url_secret
    signer = UrlSigner(
        secrets.token_bytes(32) if secret is None else secret.get_secret_value().encode(), settings.auth.url_seconds
    )
    verifier = KeyVerifier(KeyRing(KeyFile(settings.data_dir)), settings.auth.failures_per_minute)
    return Authenticator(settings, verifier, signer)
