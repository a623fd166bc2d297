"""What makes a template visible: its manifest, written after all of its records.

offset  bytes  field
0       4      magic b"IGM3"
4       8      xxh3-64 of the rest, little endian
12      ...    msgpack array: template, steps, blocks, record_bytes, cost_ms, created, note
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import msgpack
import xxhash

from instgenie_cache.errors import CacheError, ChecksumError, RecordFormatError
from instgenie_cache.records.record import FORMAT_VERSION
from instgenie_cache.records.template_size import TemplateSize

MAGIC = f"IGM{FORMAT_VERSION}".encode()
_PREFIX = struct.Struct("<4sQ")
MAX_NOTE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Manifest:
    """A committed template.

    Attributes:
        cost_ms: what it took to compute the records, as their writer said.
        created: seconds since 1970, UTC.
        note: what the writer wants its readers to know; the cache does not read it.
    """

    template: str
    size: TemplateSize
    cost_ms: float
    created: float
    note: bytes = b""

    @property
    def writing(self) -> str:
        """What tells this writing of the template from others of it: its time, as 16 hex digits."""
        return struct.pack(">d", self.created).hex()


def check_note(note: bytes) -> None:
    """Raise `CacheError` where a note is longer than notes may be."""
    if len(note) > MAX_NOTE_BYTES:
        raise CacheError(f"a note of {len(note)} bytes, {MAX_NOTE_BYTES} are allowed")


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest as bytes that `decode_manifest` reads back."""
    size = manifest.size
    body: bytes = msgpack.packb(
        (
            manifest.template,
            size.steps,
            size.blocks,
            size.record_bytes,
            manifest.cost_ms,
            manifest.created,
            manifest.note,
        )
    )
    return _PREFIX.pack(MAGIC, xxhash.xxh3_64_intdigest(body)) + body


def decode_manifest(data: bytes | memoryview) -> Manifest:
    """Read a manifest.

    Raises:
        RecordFormatError: not a manifest of this version.
        ChecksumError: it is not what was written.
    """
    view = memoryview(data)
    if len(view) < _PREFIX.size:
        raise RecordFormatError(f"a manifest has at least {_PREFIX.size} bytes, got {len(view)}")
    magic, checksum = _PREFIX.unpack_from(view)
    if magic != MAGIC:
        raise RecordFormatError(f"expected magic {MAGIC!r}, got {magic!r}")
    body = view[_PREFIX.size :]
    if xxhash.xxh3_64_intdigest(body) != checksum:
        raise ChecksumError("a manifest does not match its xxh3-64")
    try:
        template, *counts, cost_ms, created, note = msgpack.unpackb(body)
        steps, blocks, record_bytes = counts
        fits = isinstance(template, str) and all(type(count) is int and count >= 0 for count in counts)
        fits = fits and isinstance(note, bytes) and len(note) <= MAX_NOTE_BYTES
        size = TemplateSize(steps, blocks, record_bytes)
        manifest = Manifest(template, size, float(cost_ms), float(created), note)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise RecordFormatError(f"unreadable manifest: {error!r}") from error
    if not (fits and 0 <= manifest.cost_ms < math.inf):
        raise RecordFormatError(f"unreadable manifest: {manifest}")
    return manifest
