"""Rendezvous hashing: a key's order of preference among replicas, which others' coming and going does not change."""

from __future__ import annotations

import numpy as np
import xxhash
from numpy.typing import NDArray

_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))
_FACTORS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # of splitmix64


def hash_name(name: str) -> int:
    """64 bits of a name."""
    return xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogatepass"))


def weights(key: str, hashed_names: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """How much a key prefers each of these, the largest most.

    Args:
        hashed_names: [R] `hash_name` of each.
    """
    mixed = hashed_names ^ np.uint64(hash_name(key))
    for shift, factor in zip(_SHIFTS, _FACTORS, strict=False):
        mixed = (mixed ^ (mixed >> shift)) * factor
    return mixed ^ (mixed >> _SHIFTS[2])
