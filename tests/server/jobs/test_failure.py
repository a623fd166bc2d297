"""Which errors end a job, and what its client learns."""

from __future__ import annotations

import pytest

from instgenie.errors import MaskError, ReplicaError, TemplateNotCachedError
from instgenie_server.api_error import busy, invalid, too_large, unavailable
from instgenie_server.jobs.errors import CorruptFileError, JobStoreError, MissingFileError, PictureFileError
from instgenie_server.jobs.failure import exhausted, lasting_failure


@pytest.mark.parametrize(
    ("error", "code", "param", "message"),
    [
        (MaskError("mask", "is empty"), "invalid_input", "mask", "mask: is empty"),
        (TemplateNotCachedError("not cached"), "template_not_cached", "cache", "not cached"),
        (invalid("bad", "image"), "invalid_input", "image", "bad"),
        (too_large("large", "image"), "too_large", "image", "large"),
        (MissingFileError("/secret/path"), "input_lost", None, "the stored upload can no longer be read"),
        (CorruptFileError("/secret/path"), "input_lost", None, "the stored upload can no longer be read"),
    ],
)
def test_what_lasts(error: Exception, code: str, param: str | None, message: str) -> None:
    assert lasting_failure(error) == {"message": message, "code": code, "param": param}


@pytest.mark.parametrize(
    "error",
    [
        ReplicaError("down"),
        PictureFileError("busy"),
        JobStoreError("full"),
        unavailable("no decoder"),
        busy("later", 1.0),
        invalid("image: decoding takes longer than 20 seconds", "image", "decoding_too_slow"),
        ValueError("?"),
        MemoryError(),
    ],
)
def test_what_another_attempt_may_get_through(error: Exception) -> None:
    assert lasting_failure(error) is None


def test_last_words() -> None:
    detail = exhausted(ReplicaError("the device is gone"))
    assert detail["message"] == "the edit failed 3 times, at last with: the device is gone"
    detail = exhausted(invalid("image: decoding takes longer than 20 seconds", "image", "decoding_too_slow"))
    assert detail["message"] == "the edit failed 3 times, at last with: image: decoding takes longer than 20 seconds"
    detail = exhausted(KeyError("/secret/path"))
    assert detail == {
        "message": "the edit failed 3 times, at last with: KeyError",
        "code": "edit_failed",
        "param": None,
    }
