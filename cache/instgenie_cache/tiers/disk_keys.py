"""What the disk tier files records and manifests under: a range of keys is a template."""

from __future__ import annotations

import struct

from instgenie_cache.errors import CacheError, RecordFormatError
from instgenie_cache.records.manifest import Manifest, decode_manifest
from instgenie_cache.records.record import RecordKey

MAX_NAME_BYTES = 400  # of a template's name in UTF-8; LMDB's keys have at most 511 bytes
_STEP_AND_BLOCK = struct.Struct(">QQ")


def template_prefix(template: str) -> bytes:
    """What the keys of a template's records begin with, and no other template's.

    Raises:
        CacheError: the name is too long, or holds a zero.
    """
    name = template.encode(errors="surrogatepass")
    if not 0 < len(name) <= MAX_NAME_BYTES or b"\0" in name:
        raise CacheError(f"a template's name has 1 to {MAX_NAME_BYTES} bytes and no zero among them, got {template!r}")
    return name + b"\0"


def manifest_key(template: str) -> bytes:
    """Where a manifest is filed."""
    return template_prefix(template)[:-1]


def record_key(key: RecordKey) -> bytes:
    """Where a record is filed. Keys sort by step, then block."""
    return template_prefix(key.template) + _STEP_AND_BLOCK.pack(key.step, key.block)


def filed_manifest(name: bytes, value: bytes) -> Manifest:
    """Read a manifest that was filed under a name.

    Raises:
        RecordFormatError: it is broken, or another template's.
    """
    manifest = decode_manifest(value)
    if manifest.template.encode(errors="surrogatepass") != name:
        raise RecordFormatError(f"the manifest of {manifest.template} is filed under {name!r}")
    return manifest
