"""What a Dockerfile puts into its image, as far as commands of containers need it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Image:
    """Of the last stage of a Dockerfile.

    Attributes:
        files: paths in the image to the files that were copied there.
        entrypoint: for services that have none of their own.
    """

    files: dict[str, Path]
    entrypoint: tuple[str, ...]


def read_image(dockerfile: Path, source: Path) -> Image:
    """Args:
    source: the folder that the image is built from.
    """
    text = dockerfile.read_text(encoding="utf-8").replace("\\\n", " ")
    stage = re.split(r"^FROM ", text, flags=re.MULTILINE)[-1]
    files = {}
    for line in re.findall(r"^COPY (?!--from)(.+)$", stage, re.MULTILINE):
        *names, target = line.split()
        for name in names:
            files[target + Path(name).name if target.endswith("/") else target] = source / name
    entrypoint = re.findall(r"^ENTRYPOINT (\[.+\])$", stage, re.MULTILINE)[-1]
    return Image(files, tuple(json.loads(entrypoint)))
