"""Names of jobs: `edit-` and 26 characters that sort by time of acceptance."""

from __future__ import annotations

import secrets

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's: no letter that is taken for a digit
_TIME_CHARACTERS = 11  # 55 bits of microseconds last for a thousand years
_RANDOM_CHARACTERS = 15
RANDOM_BITS = 5 * _RANDOM_CHARACTERS


def job_id(now: float, randomness: int) -> str:
    """The name of a job accepted then.

    Args:
        now: seconds since 1970.
        randomness: 0 <= randomness < 2**RANDOM_BITS; names that cannot be guessed need good ones.
    """
    return f"edit-{_digits(round(now * 1e6), _TIME_CHARACTERS)}{_digits(randomness, _RANDOM_CHARACTERS)}"


def new_job_id(now: float) -> str:
    """A name that no other job has."""
    return job_id(now, secrets.randbits(RANDOM_BITS))


def _digits(number: int, length: int) -> str:
    return "".join(_ALPHABET[(number >> 5 * place) & 31] for place in reversed(range(length)))
