"""What a record is filed under."""

from __future__ import annotations

from collections.abc import Mapping

import msgpack
import xxhash


def content_digest(*parts: bytes | memoryview) -> str:
    """xxh3-128 of the parts, as 32 hex digits. Lengths are hashed too, so that moving a boundary changes it."""
    digest = xxhash.xxh3_128()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def template_key(image: bytes | memoryview, settings: Mapping[str, str | int | float | bool | None]) -> str:
    """Key of a template: everything that changes one of its activations.

    Args:
        image: the pixels that the model sees.
        settings: namespace, model id and revision, dtype, resolution, scheduler and steps, seed, template prompt,
            adapters, codec version ... The order of the entries does not matter, the types of the values do.
    Returns:
        32 hex digits (xxh3-128).
    """
    return content_digest(image, msgpack.packb(sorted(settings.items())))
