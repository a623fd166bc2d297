"""Where an edited picture goes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

    from instgenie.request import EditRequest


@dataclass(frozen=True, slots=True)
class _Format:
    """A file format of Pillow and how it is written."""

    name: str
    options: dict[str, bool | int]
    max_side_pixels: int
    has_alpha: bool = True


_WEBP = _Format("WEBP", {"lossless": True, "exact": True}, 16_383)
_JPEG = _Format("JPEG", {"quality": 95, "subsampling": 0}, 65_535, has_alpha=False)
_FORMATS = {".png": _Format("PNG", {}, 2**31 - 1), ".webp": _WEBP, ".jpg": _JPEG, ".jpeg": _JPEG}


class OutputFile:
    """A picture file to be written in one rename. What is wrong with it is found before the edit runs.

    Raises:
        ParameterError: no format has this extension, or the file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.suffix.lower() not in _FORMATS:
            raise _error(path, f"extension {path.suffix!r} is not one of {', '.join(_FORMATS)}")
        self._format = _FORMATS[path.suffix.lower()]
        try:
            if not path.parent.is_dir():
                raise _error(path, f"folder {path.parent} does not exist")
            self._target = path.resolve()  # of a link, the file it leads to is replaced
            self._partial = self._target.with_name(f".{self._target.name}.{os.getpid()}.partial")
            if path.is_dir():
                raise _error(path, "is a folder")
            self._partial.touch()
            self._partial.unlink()
        except (OSError, RuntimeError) as error:  # RuntimeError: links that lead to each other
            raise _error(path, f"cannot be written: {getattr(error, 'strerror', None) or error}") from error

    def check(self, request: EditRequest) -> None:
        """Raise ParameterError if the format cannot hold the edited picture."""
        side = max(request.picture.size)
        if side > self._format.max_side_pixels:
            limit = f"{self._format.max_side_pixels} pixels of a {self._format.name} side"
            raise _error(self.path, f"the picture's {side} pixels are more than the {limit}")
        if not self._format.has_alpha and _stays_transparent(request):
            raise _error(self.path, f"{self._format.name} cannot hold the picture's transparency: use .png or .webp")

    def write(self, picture: Image.Image) -> None:
        """Write the picture with its colour profile.

        Raises:
            ParameterError: the disk is full, or the folder went away.
        """
        if not self._format.has_alpha:
            picture = picture.convert("RGB")
        profile = picture.info.get("icc_profile")
        try:
            with self._partial.open("wb") as file:
                picture.save(file, self._format.name, icc_profile=profile, **self._format.options)
            self._partial.replace(self._target)
        except OSError as error:
            raise _error(self.path, f"cannot be written: {error.strerror or error}") from error
        finally:
            self._partial.unlink(missing_ok=True)


def _stays_transparent(request: EditRequest) -> bool:
    """Whether the edited picture has transparent pixels: the edit is opaque but for a feathered border."""
    import numpy as np

    if request.picture.mode != "RGBA":
        return False
    alpha = np.asarray(request.picture.getchannel("A"))
    return bool((alpha if request.feather else alpha[~request.mask]).min(initial=255) < 255)


def _error(path: Path, message: str) -> Exception:
    from instgenie.errors import ParameterError

    return ParameterError("out", f"{path}: {message}")
