"""What the error of an attempt means for its job."""

from __future__ import annotations

from typing import Any

from instgenie.errors import InvalidInputError, ReplicaError, TemplateNotCachedError
from instgenie_server.api_error import ApiError
from instgenie_server.jobs.errors import CorruptFileError, MissingFileError
from instgenie_server.jobs.job import MAX_ATTEMPTS


def lasting_failure(error: BaseException) -> dict[str, Any] | None:
    """The detail of a job that fails for good with this error; None for one that another attempt may get through."""
    match error:
        case InvalidInputError():
            return _detail(str(error), "invalid_input", error.parameter)
        case TemplateNotCachedError():
            return _detail(str(error), "template_not_cached", "cache")
        case ApiError(code="decoding_too_slow"):  # it was not when the job was accepted
            return None
        case ApiError() if error.status < 500 and error.retry_after is None:
            return _detail(error.message, error.code or "invalid_input", error.param)
        case MissingFileError() | CorruptFileError():
            return _detail("the stored upload can no longer be read", "input_lost", None)
        case _:
            return None


def exhausted(error: BaseException) -> dict[str, Any]:
    """The detail of a job whose last attempt ended with this error."""
    # Of errors that nobody foresaw the client learns no more than the kind: their words may tell of our insides.
    reason = str(error) if isinstance(error, (ReplicaError, ApiError)) else type(error).__name__
    return _detail(f"the edit failed {MAX_ATTEMPTS} times, at last with: {reason}", "edit_failed", None)


def _detail(message: str, code: str, param: str | None) -> dict[str, Any]:
    return {"message": message, "code": code, "param": param}
