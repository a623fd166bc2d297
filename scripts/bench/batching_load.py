"""What a replica is asked for in the benchmark of batching: masks, templates and times of arrival. Pure, but for files.

Masks are ellipses whose share of the picture is drawn from the quantiles of a production trace of 970 templates, with a
mean of 0.11 (figures of the artifact of FlashPS, EuroSys '26). Templates are the package's samples and what becomes of
them by turning and mirroring; which one an edit is of follows Zipf's law, for the trace's own popularities are not
published. Arrivals are a Poisson process. The same seed draws the same edits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from instgenie.checkpoint import BUILTIN
from instgenie.orders import CachePolicy, EditOrder, Pixels, WarmOrder

SIDE = 256  # pixels of a picture; the embedded model sees it at 192, as 24 x 24 tokens
MASK_SHARES = (  # at 0, .05, .10, ... 1
    0.0157, 0.0376, 0.0484, 0.0548, 0.0612, 0.0673, 0.0722, 0.0761, 0.0822, 0.0884, 0.0952,
    0.1028, 0.1103, 0.1192, 0.1278, 0.1390, 0.1545, 0.1768, 0.2082, 0.2446, 0.4209,
)  # fmt: skip
ZIPF_EXPONENT = 1.1
ASPECTS = (0.5, 2.0)
PROMPTS = ("a watermelon", "a pear", "a cat", "a car", "a rainbow", "nothing", "a mushroom", "a tree")
SAMPLES = ("meadow", "sky", "table")
_MOST_TEMPLATES = 8 * len(SAMPLES)

Mask = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Arrival:
    """An order and when it comes, in seconds from the beginning."""

    seconds: float
    order: EditOrder


def draw_shares(count: int, rng: np.random.Generator) -> list[float]:
    """Shares of masks, one of each `count`-th of the distribution, in any order: few of them have its mean, too."""
    ranks = (np.arange(count) + rng.random(count)) / count
    return [
        float(share) for share in np.interp(rng.permutation(ranks), np.linspace(0, 1, len(MASK_SHARES)), MASK_SHARES)
    ]


def draw_templates(count: int, templates: int, rng: np.random.Generator) -> list[int]:
    """Which template each edit is of, by its rank from 0."""
    weights = np.arange(1, templates + 1) ** -ZIPF_EXPONENT
    return [int(rank) for rank in rng.choice(templates, count, p=weights / weights.sum())]


def draw_arrivals(count: int, rng: np.random.Generator) -> list[float]:
    """Seconds of a Poisson process of one arrival per second; divide them by the rate that is wanted."""
    return [float(seconds) for seconds in np.cumsum(rng.exponential(1.0, count))]


def draw_mask(share: float, rng: np.random.Generator, side: int = SIDE) -> Mask:
    """[side, side] of 0 and 1: an ellipse somewhere in the picture, of that share of it.

    Args:
        share: up to 0.75; beyond that an ellipse does not fit.
    """
    area = share * side**2 * 4 / math.pi  # of the box round it
    low, high = (math.log(aspect) for aspect in ASPECTS)
    most = math.log(side**2 / area)  # wider or taller than that it does not fit
    aspect = math.exp(rng.uniform(max(low, -most), min(high, most)))
    width, height = math.sqrt(area * aspect), math.sqrt(area / aspect)
    x, y = rng.uniform(0, side - width) + width / 2, rng.uniform(0, side - height) + height / 2
    pixels = np.arange(side) + 0.5
    inside = ((pixels - x) / (width / 2)) ** 2 + ((pixels[:, None] - y) / (height / 2)) ** 2 <= 1
    return inside.astype(np.uint8)


def template_pictures(count: int) -> list[Pixels]:
    """Pictures to edit, all different.

    Raises:
        ValueError: there are not so many.
    """
    if not 1 <= count <= _MOST_TEMPLATES:
        raise ValueError(f"{count} templates are not 1 to {_MOST_TEMPLATES}")
    pictures = []
    for turn, name in itertools.islice(itertools.product(range(8), SAMPLES), count):
        with Image.open(BUILTIN / "samples" / f"{name}_template.png") as sample:
            picture = np.rot90(np.asarray(sample.convert("RGB").resize((SIDE, SIDE))), turn)
        picture = picture[:, ::-1] if turn >= 4 else picture
        pictures.append(Pixels(SIDE, SIDE, "RGB", np.ascontiguousarray(picture).tobytes()))
    return pictures


def warm_order(picture: Pixels, steps: int) -> WarmOrder:
    """Has the template recorded that `edit_orders` edits."""
    return WarmOrder(id="warm", picture=picture, max_windows=1, steps=steps)


def edit_orders(
    pictures: Sequence[Pixels],
    templates: Sequence[int],
    masks: Iterable[Mask],
    steps: int,
    *,
    cache: CachePolicy = "only",
    strength: float = 1.0,
) -> list[EditOrder]:
    """Edits of those templates with those masks.

    Args:
        steps: of a template; an edit takes the share `strength` of them.
    """
    return [
        EditOrder(
            id=f"edit-{number}",
            picture=pictures[template],
            mask=mask.tobytes(),
            prompt=PROMPTS[number % len(PROMPTS)],
            seed=number,
            steps=steps,
            strength=strength,
            cache=cache,
            crop=False,
        )
        for number, (template, mask) in enumerate(zip(templates, masks, strict=True))
    ]


def equal_edits(
    pictures: Sequence[Pixels], count: int, share: float, steps: int, *, cache: CachePolicy = "only"
) -> list[EditOrder]:
    """Edits with the same mask, of all templates in turn: they take equally long."""
    mask = draw_mask(share, np.random.default_rng(0))
    templates = [number % len(pictures) for number in range(count)]
    return edit_orders(pictures, templates, [mask] * count, steps, cache=cache)
