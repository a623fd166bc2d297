"""Pictures as files, and which of them are made on the way."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from PIL import Image

from instgenie.orders import Output


def encode_picture(picture: Image.Image, output: Output) -> bytes:
    """The picture as a file. JPEG has no alpha: transparency shows white there."""
    if output.size is not None and output.size != picture.size:
        profile = picture.info.get("icc_profile")
        picture = picture.resize(output.size, Image.Resampling.LANCZOS)
        picture.info["icc_profile"] = profile
    settings: dict[str, Any] = {"icc_profile": picture.info.get("icc_profile")}
    if output.format == "png":
        settings["compress_level"] = 1  # 3 times as fast as 6 for a tenth more bytes
    elif output.format == "jpeg":
        settings["quality"] = max(1, output.quality)
        if picture.mode == "RGBA":
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    elif output.quality == 100:
        settings |= {"lossless": True, "exact": True}  # exact: colours under full transparency stay
    else:
        settings["quality"] = output.quality
    file = io.BytesIO()
    picture.save(file, output.format.upper(), **settings)
    return file.getvalue()


def preview_steps(landings: Sequence[int], previews: int) -> frozenset[int]:
    """After how many steps a preview is made: evenly spread, never after the last.

    Args:
        landings: how many steps were taken, each time the edit can be looked at, in rising order.
    """
    spread = {round(len(landings) * (i + 1) / (previews + 1)) for i in range(previews)} - {0, len(landings)}
    return frozenset(landings[number - 1] for number in spread)
