from __future__ import annotations

import pytest

from instgenie_server.api_error import ApiError
from instgenie_server.intake.form import FilePart, Form
from instgenie_server.intake.uploads import MAX_IMAGES, Uploads, read_uploads

A, B, MASK = FilePart("a.png", b"a"), FilePart("b.png", b"b"), FilePart("mask.png", b"m")


@pytest.mark.parametrize("name", ["image", "image[]"])
def test_the_first_image_is_edited(name: str) -> None:
    assert read_uploads(Form(files={name: [A, B]})) == Uploads(b"a")
    assert read_uploads(Form(files={"mask": [MASK], name: [B]})) == Uploads(b"b", b"m")


@pytest.mark.parametrize(
    ("files", "param"),
    [
        ({}, "image"),
        ({"mask": [MASK]}, "image"),
        ({"image": [A], "image[]": [B]}, "image"),
        ({"image[]": [A] * (MAX_IMAGES + 1)}, "image"),
        ({"image": [A], "prompt": [B]}, "prompt"),
    ],
)
def test_other_files_are_refused(files: dict[str, list[FilePart]], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        read_uploads(Form(files=files))
    assert (caught.value.status, caught.value.param) == (400, param)
