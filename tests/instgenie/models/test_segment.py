"""Where segments lie in packed tensors."""

from __future__ import annotations

from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instgenie.errors import ShapeError
from instgenie.models.buckets import bucket
from instgenie.models.parts import per_token
from instgenie.models.segment import Layout, Segment, packed

CPU = torch.device("cpu")
LENGTHS = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 5)), min_size=1, max_size=4)


@settings(deadline=None, max_examples=25)
@given(LENGTHS)
def test_join_puts_each_segments_text_before_its_image(lengths: list[tuple[int, int]]) -> None:
    texts, images = [text for text, _ in lengths], [image for _, image in lengths]
    layout = Layout(texts, images, CPU)
    # Each token names its segment, its kind and its place.
    text = torch.tensor([(s, 0, i) for s, n in enumerate(texts) for i in range(n)], dtype=torch.int64).view(-1, 3)
    image = torch.tensor([(s, 1, i) for s, n in enumerate(images) for i in range(n)])
    joint = layout.join(text, image)
    assert joint.tolist() == sorted(torch.cat([text, image]).tolist())
    assert layout.joint_lengths == [sum(pair) for pair in lengths]
    parted_text, parted_image = layout.part(joint)
    assert torch.equal(parted_text, text)
    assert torch.equal(parted_image, image)


@settings(deadline=None, max_examples=25)
@given(LENGTHS)
def test_per_token_gives_each_token_its_segments_row(lengths: list[tuple[int, int]]) -> None:
    images = [image for _, image in lengths]
    layout = Layout([text for text, _ in lengths], images, CPU)
    rows = torch.arange(2 * len(images)).view(-1, 2)
    expected = torch.tensor([rows[s].tolist() for s, n in enumerate(images) for _ in range(n)])
    assert torch.equal(per_token(rows, layout.image_rows).expand(sum(images), 2), expected)


@settings(deadline=None, max_examples=25)
@given(LENGTHS, st.randoms(use_true_random=False))
def test_padding_is_behind_all_segments_and_belongs_to_none(lengths: list[tuple[int, int]], random: Random) -> None:
    texts, images = [text for text, _ in lengths], [image for _, image in lengths]
    plain, padded = Layout(texts, images, CPU), Layout(texts, images, CPU, bucket)
    text, image = torch.randn(sum(texts), 2), torch.randn(sum(images), 2)
    wide_text, wide_image = packed([text], padded.text_size), packed([image], padded.image_size)
    assert {len(wide_text) % 16, len(wide_image) % 16, padded.joint_size % 16} == {0}
    joint = padded.join(wide_text, wide_image)
    assert torch.equal(joint, packed([plain.join(text, image)], padded.joint_size))
    assert torch.equal(torch.cat(padded.part(joint)), torch.cat([wide_text, wide_image]))
    for rows, size in (
        (padded.text_rows, padded.text_size),
        (padded.image_rows, padded.image_size),
        (padded.joint_rows, padded.joint_size),
    ):
        assert rows is not None  # of one segment too: compiled code wants them
        assert len(rows) == size
    active = [torch.tensor(sorted(random.sample(range(n), random.randint(1, n)))) for n in images]
    (narrow, rows), (wide, wide_rows) = plain.narrow(active), padded.narrow(active)
    assert wide.image_lengths == narrow.image_lengths == [len(part) for part in active]
    assert len(wide_rows) == wide.image_size
    assert torch.equal(wide_rows[: len(rows)], rows)


def test_layout_of_segments() -> None:
    def segment(text: int, image: int) -> Segment:
        return Segment(torch.zeros(image, 2), torch.zeros(image, 3), torch.zeros(text, 2), torch.zeros(2), 0.5)

    layout = Layout.of([segment(3, 2), segment(1, 4)], CPU)
    assert (layout.text_lengths, layout.image_lengths) == ([3, 1], [2, 4])
    with pytest.raises(ShapeError):
        Layout.of([], CPU)
    with pytest.raises(ShapeError):
        Layout.of([segment(3, 2), segment(1, 0)], CPU)
