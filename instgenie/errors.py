"""Errors of the engine.

InstGenIEError
 +- InvalidInputError      the caller's input is at fault; `parameter` names it
 |   +- PictureError       not a picture, too small or too long
 |   |   +- TooManyPixelsError
 |   +- MaskError          empty, or of another size than the picture
 |   +- ParameterError     a number or a choice outside its limits
 +- TemplateNotCachedError  records were required and are not there
 +- DeadlineError          an edit that cannot be done by its deadline
 +- ReplicaError           a replica could not do its work
 |   +- TooManyPinsError    it keeps as many templates from being evicted as it may
 |   +- ReplicaLostError    it ended or is out of reach: the same order may succeed once it is back
 |       +- ReplicaAwayError   it was away already: the order was not begun
 +- CheckpointError        the model folder cannot be read or is of no known family
 +- ShapeError             tensors whose shapes do not belong together
"""

from __future__ import annotations


class InstGenIEError(Exception):
    """Any error that this package raises on purpose."""


class InvalidInputError(InstGenIEError):
    """The input is at fault: the message names the value and the limit, `parameter` the input."""

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(f"{parameter}: {message}")
        self.parameter = parameter


class PictureError(InvalidInputError):
    """A picture that cannot be edited."""


class TooManyPixelsError(PictureError):
    """A picture that is larger than pictures may be."""


class MaskError(InvalidInputError):
    """A mask that selects nothing, or does not belong to the picture."""


class ParameterError(InvalidInputError):
    """A setting outside its limits."""


class TemplateNotCachedError(InstGenIEError):
    """An edit that may only use records, of a template that has none."""


class DeadlineError(InstGenIEError):
    """An edit that was given up because its deadline passed, or will have before it is done."""


class ReplicaError(InstGenIEError):
    """A replica that failed or was closed; the message says at what."""


class TooManyPinsError(ReplicaError):
    """Templates that are not pinned, since a replica's front ends have pinned as many as they may."""


class ReplicaLostError(ReplicaError):
    """A replica that ended, or that cannot be reached any more, before the work was done: no fault of the order."""


class ReplicaAwayError(ReplicaLostError):
    """There is no replica at the moment, or it makes place for another one: the work counts as not begun."""


class CheckpointError(InstGenIEError):
    """A model folder that cannot be used."""


class ShapeError(InstGenIEError, ValueError):
    """Tensors whose shapes do not belong together."""
