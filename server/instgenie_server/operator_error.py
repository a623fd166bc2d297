"""Errors that whoever runs the server can mend. The command line tells them in one line.

OperatorError
 +- SettingsError  settings that are unknown, or outside their limits
 +- KeyFileError   the file of API keys cannot be read or written
 +- ExposureError  the server would be open to the network without keys
"""

from __future__ import annotations

from collections.abc import Sequence


class OperatorError(Exception):
    """Any of them."""


class SettingsError(OperatorError):
    """All that is wrong with the settings, each in words of its own."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


class KeyFileError(OperatorError):
    """The file of API keys; the message names it."""


class ExposureError(OperatorError):
    """Settings that would let strangers in."""
