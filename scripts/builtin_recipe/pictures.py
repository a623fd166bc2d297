"""The pictures of the embedded model's concepts: from their source, or from the small sheet in the repository."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from PIL import Image

from builtin_recipe.concepts import PICTURED

ASSETS = Path("fluent-emoji-3d", "assets")  # of the source, below the folder that npm's packages are in
ATLAS = Path(__file__).with_name("concepts.webp")
SIDE = 192  # pixels of a loaded picture
TILE = 96  # pixels of a picture in the atlas
COLUMNS, ROWS = 12, 2  # tiles of a page


def load_pictures(folder: Path, codes: Iterable[str] = PICTURED) -> dict[str, Image.Image]:
    """RGBA pictures by code point, cropped to their opaque box and padded to a square of `SIDE` pixels.

    Args:
        folder: the assets of npm's fluent-emoji-3d.
    Raises:
        FileNotFoundError: a picture is not there.
    """
    return {code: _square(picture_source(folder, code)) for code in codes}


def pictured_codes(folder: Path) -> set[str]:
    """Code points that the folder has a picture of, without trailing variation selectors."""
    return {path.stem.removesuffix("-fe0f") for path in folder.glob("*.webp")}


def picture_source(folder: Path, code: str) -> Path:
    """The code point's file.

    Raises:
        FileNotFoundError: it is not there.
    """
    for path in (folder / f"{code}.webp", folder / f"{code}-fe0f.webp"):
        if path.exists():
            return path
    raise FileNotFoundError(f"{folder} has no picture of code point {code}")


def _square(path: Path) -> Image.Image:
    picture = Image.open(path).convert("RGBA")
    picture = picture.crop(picture.getchannel("A").point(lambda a: 255 * (a > 16)).getbbox())
    side = max(picture.size)
    square = Image.new("RGBA", (side, side))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def _places() -> Iterator[tuple[int, int, int]]:
    """(page, left, top) of the atlas's tiles, in order, without end."""
    number = 0
    while True:
        page, place = divmod(number, COLUMNS * ROWS)
        yield page, place % COLUMNS * TILE, place // COLUMNS * TILE
        number += 1


def save_atlas(pictures: Mapping[str, Image.Image], path: Path = ATLAS) -> None:
    """Write the pictures at `TILE` pixels, in their order.

    The pages are frames of one WebP file, each coded on its own: concepts added at the end leave the tiles of full
    pages as they were, to the byte.
    """
    pages: list[Image.Image] = []
    for picture, (page, left, top) in zip(pictures.values(), _places(), strict=False):
        if page == len(pages):
            pages.append(Image.new("RGBA", (COLUMNS * TILE, ROWS * TILE)))
        pages[page].paste(picture.resize((TILE, TILE), Image.Resampling.LANCZOS), (left, top))
    pages[0].save(path, "WEBP", save_all=True, append_images=pages[1:], quality=90, method=6, kmin=0, kmax=1)


def load_atlas(path: Path = ATLAS, codes: Mapping[str, object] = PICTURED) -> dict[str, Image.Image]:
    """RGBA pictures of `SIDE` pixels by code point, from a sheet that `save_atlas` wrote of them in this order."""
    pictures = {}
    with Image.open(path) as sheet:
        for code, (page, left, top) in zip(codes, _places(), strict=False):
            sheet.seek(page)
            tile = sheet.crop((left, top, left + TILE, top + TILE)).convert("RGBA")
            pictures[code] = tile.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return pictures
