"""API keys: `ig-`, the key's id, a dot, the secret. Only a hash of the secret is kept."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Container
from dataclasses import dataclass
from datetime import datetime

ID_BYTES = 4
SECRET_BYTES = 24
SALT_BYTES = 16
HASH_BYTES = 32
KEY_PATTERN = r"ig-([0-9a-f]{8})\.([A-Za-z0-9_-]{22,128})"
TENANT_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


@dataclass(frozen=True, slots=True)
class ScryptCost:
    """What one hash costs: 128 * n * r bytes and, with the defaults, some 50 to 90 ms of a core.

    Raises:
        ValueError: scrypt cannot work so, or the file of keys could stall the server.
    """

    n: int = 2**14
    r: int = 8
    p: int = 1

    def __post_init__(self) -> None:
        if not (2 <= self.n <= 2**20 and self.n.bit_count() == 1):
            raise ValueError(f"scrypt's n is {self.n}, but must be a power of 2 from 2 to {2**20}")
        if not (1 <= self.r <= 32 and 1 <= self.p <= 16):
            raise ValueError(f"scrypt's r is {self.r} and p {self.p}, but must be 1 to 32 and 1 to 16")


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key as the server keeps it."""

    id: str
    tenant: str
    created_at: datetime
    cost: ScryptCost
    salt: bytes
    hash: bytes

    def __post_init__(self) -> None:
        if not re.fullmatch(TENANT_PATTERN, self.tenant):
            raise ValueError(
                f"{self.tenant[:80]!r} is no name of a tenant: use 1 to 64 letters, digits, dots, underscores and "
                "hyphens, and begin with a letter or a digit"
            )

    @property
    def name(self) -> str:
        """How people see it: the key without its secret."""
        return f"ig-{self.id}"


def make_key(
    tenant: str, now: datetime, taken: Container[str] = (), cost: ScryptCost | None = None
) -> tuple[str, StoredKey]:
    """A new key, in full for its owner, and as it is stored.

    Args:
        taken: ids that are in use.
    Raises:
        ValueError: not a name for a tenant.
    """
    key_id = secrets.token_hex(ID_BYTES)
    while key_id in taken:
        key_id = secrets.token_hex(ID_BYTES)
    secret, salt, cost = secrets.token_urlsafe(SECRET_BYTES), secrets.token_bytes(SALT_BYTES), cost or ScryptCost()
    return f"ig-{key_id}.{secret}", StoredKey(key_id, tenant, now, cost, salt, _scrypt(secret, salt, cost))


def split_key(text: str) -> tuple[str, str] | None:
    """Id and secret of a key in full; None if it cannot be one."""
    match = re.fullmatch(KEY_PATTERN, text)
    return (match[1], match[2]) if match else None


def matches(secret: str, key: StoredKey) -> bool:
    """Whether the secret is the key's; as slow as `ScryptCost` says, without holding the interpreter's lock."""
    return hmac.compare_digest(_scrypt(secret, key.salt, key.cost), key.hash)


def decoy(now: datetime, cost: ScryptCost) -> StoredKey:
    """A key that no secret matches, so that an unknown id takes as long as a wrong secret."""
    return StoredKey("", "none", now, cost, secrets.token_bytes(SALT_BYTES), secrets.token_bytes(HASH_BYTES))


def _scrypt(secret: str, salt: bytes, cost: ScryptCost) -> bytes:
    memory_bytes = 128 * cost.r * (cost.n + cost.p + 2)  # OpenSSL's own count; its default limit is 32 MiB
    return hashlib.scrypt(
        secret.encode(), salt=salt, n=cost.n, r=cost.r, p=cost.p, maxmem=2 * memory_bytes, dklen=HASH_BYTES
    )
