"""Where segments lie in packed tensors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instgenie.errors import ShapeError
from instgenie.models.segment import Layout, Segment

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
    assert torch.equal(layout.per_token(rows, layout.image_rows).expand(sum(images), 2), expected)


def test_layout_of_segments() -> None:
    def segment(text: int, image: int) -> Segment:
        return Segment(torch.zeros(image, 2), torch.zeros(image, 3), torch.zeros(text, 2), torch.zeros(2), 0.5)

    layout = Layout.of([segment(3, 2), segment(1, 4)], CPU)
    assert (layout.text_lengths, layout.image_lengths) == ([3, 1], [2, 4])
    with pytest.raises(ShapeError):
        Layout.of([], CPU)
    with pytest.raises(ShapeError):
        Layout.of([segment(3, 2), segment(1, 0)], CPU)
