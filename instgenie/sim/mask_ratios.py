"""Which share of a picture edits mask: two published traces as quantiles, and draws from them. Pure.

Source: the artifact of FlashPS (EuroSys '26; its preprint is InstGenIE), whose production trace has 970 templates of a
face-swap and try-on service, and whose Katz trace 3788 inpainting and face-restoration requests. The figures here are
the 0, 1, ... 100 % quantiles of the shares in them, to five digits. Most masks of the second are small, and 13.5 %
cover more than half of the picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

MixName = Literal["production", "katz"]

_PRODUCTION = (
    0.01566, 0.02082, 0.02394, 0.03189, 0.03421, 0.03760, 0.04177, 0.04421, 0.04585, 0.04678, 0.04836, 0.05070,
    0.05188, 0.05282, 0.05378, 0.05475, 0.05621, 0.05708, 0.05909, 0.06013, 0.06117, 0.06199, 0.06277, 0.06509,
    0.06638, 0.06734, 0.06777, 0.06841, 0.06969, 0.07088, 0.07216, 0.07276, 0.07348, 0.07451, 0.07547, 0.07612,
    0.07721, 0.07790, 0.07982, 0.08143, 0.08219, 0.08293, 0.08379, 0.08496, 0.08658, 0.08844, 0.08964, 0.09049,
    0.09193, 0.09353, 0.09523, 0.09631, 0.09794, 0.10050, 0.10204, 0.10276, 0.10373, 0.10507, 0.10686, 0.10854,
    0.11027, 0.11197, 0.11341, 0.11496, 0.11774, 0.11920, 0.12119, 0.12278, 0.12416, 0.12592, 0.12777, 0.12993,
    0.13229, 0.13416, 0.13712, 0.13901, 0.14098, 0.14404, 0.14693, 0.14977, 0.15448, 0.16046, 0.16374, 0.16955,
    0.17248, 0.17682, 0.18274, 0.18667, 0.19451, 0.20050, 0.20823, 0.21261, 0.22202, 0.22602, 0.23372, 0.24462,
    0.25810, 0.27748, 0.29995, 0.32032, 0.42094,
)  # fmt: skip
_KATZ = (
    0.00000, 0.00280, 0.00299, 0.00311, 0.00324, 0.00378, 0.00757, 0.01038, 0.01132, 0.01200, 0.01266, 0.01303,
    0.01345, 0.01407, 0.01475, 0.01517, 0.01573, 0.01643, 0.01695, 0.01762, 0.01824, 0.01868, 0.01923, 0.01968,
    0.02032, 0.02071, 0.02127, 0.02196, 0.02289, 0.02372, 0.02476, 0.02592, 0.02681, 0.02791, 0.02889, 0.03038,
    0.03148, 0.03256, 0.03336, 0.03460, 0.03597, 0.03748, 0.03836, 0.04000, 0.04165, 0.04323, 0.04529, 0.04719,
    0.04939, 0.05208, 0.05599, 0.05988, 0.06489, 0.07311, 0.08268, 0.09866, 0.11664, 0.13434, 0.14218, 0.14831,
    0.15474, 0.15999, 0.16532, 0.17015, 0.17427, 0.17813, 0.18181, 0.18608, 0.18948, 0.19320, 0.19683, 0.20265,
    0.20696, 0.21284, 0.21728, 0.22186, 0.22646, 0.23163, 0.23779, 0.24592, 0.25377, 0.26528, 0.27854, 0.29486,
    0.32510, 0.34680, 0.39815, 0.58045, 0.65666, 0.71836, 0.76598, 0.79461, 0.81812, 0.83833, 0.85843, 0.87326,
    0.88734, 0.90631, 0.92646, 0.95145, 0.99982,
)  # fmt: skip
QUANTILES: Mapping[MixName, tuple[float, ...]] = MappingProxyType({"production": _PRODUCTION, "katz": _KATZ})


def draw_mask_ratios(mix: MixName, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """[count] shares of the picture, 0 to 1, by inverse transform: linear between quantiles."""
    quantiles = QUANTILES[mix]
    return np.interp(rng.random(count), np.linspace(0.0, 1.0, len(quantiles)), quantiles)
