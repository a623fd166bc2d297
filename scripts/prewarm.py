"""Has a server record every picture of a folder or a manifest; started again, it goes on where it stopped.

    python scripts/prewarm.py DIR|MANIFEST.jsonl --server URL [--api-key KEY] [--state FILE]

A line of a manifest is `{"image": "photo.png"}`, its path relative to the manifest, with any of `boxes`
([[left, top, right, bottom], ...]), `max_windows`, `steps`, `guidance`, `template_prompt`, `template_seed` and `pin`.

The state file has a line for each picture that was recorded, under a digest of its content and settings: a picture that
was moved is not sent again, one that was changed is. So is a picture that the server does not list as recorded: because
its records were evicted, which makes them anew, or because the server was started anew, which empties its list. The
cache keeps the records: where they are still there, the server only looks them up. The exit code is 1 if some pictures
could not be used.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from instgenie.errors import InvalidInputError
from instgenie_cache import content_digest
from instgenie_server.cli.remote import DEFAULT_SERVER
from instgenie_server.cli.warm import WarmProgress, tell
from instgenie_server.client import (
    Connection,
    RemoteError,
    TemplateSettings,
    Warmed,
    WarmItem,
    list_templates,
    warm_all,
)

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".webp"})


class ManifestError(Exception):
    """A source that cannot be read; the message names the line and the field."""


class ManifestLine(BaseModel):
    """One picture of a manifest. Limits of the values are the server's to tell."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    image: Annotated[str, Field(pattern=r"^[^\x00]+$")]
    boxes: tuple[tuple[int, int, int, int], ...] = ()
    max_windows: int | None = None
    steps: int | None = None
    guidance: Annotated[float, Field(allow_inf_nan=False)] | None = None
    template_prompt: str = ""
    template_seed: int = 0
    pin: bool = False

    def item(self, folder: Path) -> WarmItem:
        """The picture and its settings; a relative path is that from `folder`."""
        return WarmItem(folder / self.image, TemplateSettings(**self.model_dump(exclude={"image"})))


def find_items(source: Path) -> list[WarmItem]:
    """The pictures of a folder, with those of its folders, or of a manifest.

    Raises:
        ManifestError: there is no such source, or a line of the manifest is wrong.
    """
    if source.is_dir():
        pictures = sorted(path for path in source.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file())
        return [WarmItem(path, TemplateSettings()) for path in pictures]
    try:
        lines = source.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{source}: cannot be read: {error}") from error
    return [
        _item(source.parent, line, f"{source}, line {number}") for number, line in enumerate(lines, 1) if line.strip()
    ]


def _item(folder: Path, line: str, where: str) -> WarmItem:
    try:
        return ManifestLine.model_validate_json(line).item(folder)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ManifestError(": ".join(filter(None, (where, place, first["msg"])))) from error


class State:
    """The state file: ids of templates by server and digest. Lines are added, never changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ids: dict[tuple[str, str], str] = {}
        lines = path.read_text().splitlines() if path.exists() else []
        for line in lines:
            try:
                entry = json.loads(line)
                self._ids[entry["server"], entry["digest"]] = entry["template"]
            except (ValueError, LookupError, TypeError):
                continue  # cut short by the end of the last run

    def template_id(self, server: str, digest: str) -> str | None:
        """The template that was made of this content, if any."""
        return self._ids.get((server, digest))

    def add(self, server: str, digest: str, warmed: Warmed) -> None:
        """Remember a template; it is on the disk on return."""
        assert warmed.template is not None
        template_id = str(warmed.template["id"])
        self._ids[server, digest] = template_id
        entry = {"server": server, "digest": digest, "template": template_id, "image": str(warmed.item.path)}
        with self.path.open("a+b") as file:
            if file.tell() and not _ends_a_line(file.fileno(), file.tell()):
                file.write(b"\n")
            file.write(json.dumps(entry).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _ends_a_line(descriptor: int, size: int) -> bool:
    return os.pread(descriptor, 1, size - 1) == b"\n"


def item_digest(item: WarmItem, image: bytes) -> str:
    """Digest of a picture's content and settings."""
    return content_digest(image, json.dumps(asdict(item.settings), sort_keys=True).encode())


async def prewarm(server: Connection, items: list[WarmItem], state: State, shown: WarmProgress) -> int:
    """Warm what is not warm yet; returns how many pictures could not be used."""
    there = {template["id"] for template in await list_templates(server) if template["status"] == "warm"}
    digests: dict[WarmItem, str] = {}
    failed = skipped = 0

    def is_wanted(item: WarmItem, image: bytes) -> bool:
        digests[item] = item_digest(item, image)
        return state.template_id(server.url, digests[item]) not in there

    def done(warmed: Warmed) -> None:
        nonlocal failed, skipped
        shown.finish(warmed.item)
        if warmed.template is None and warmed.error is None:
            skipped += 1
            return
        tell(warmed, as_json=False)
        if warmed.template is None:
            failed += 1
        else:
            state.add(server.url, digests[warmed.item], warmed)

    await warm_all(server, items, done, shown.report, is_wanted)
    if skipped:
        print(f"{skipped} of {len(items)} pictures were warm already", file=sys.stderr)
    return failed


async def run(options: argparse.Namespace) -> int:
    items = find_items(options.source)
    state = State(options.state or options.source.with_name(f"{options.source.resolve().name}.prewarm.jsonl"))
    async with Connection(options.server, options.api_key) as server:
        with WarmProgress(len(items)) as shown:
            return await prewarm(server, items, state, shown)


def main(arguments: list[str] | None = None, environ: Mapping[str, str] = os.environ) -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="DIR|MANIFEST.jsonl")
    parser.add_argument("--server", default=DEFAULT_SERVER, metavar="URL")
    parser.add_argument("--api-key", default=environ.get("INSTGENIE_API_KEY"), metavar="KEY")
    parser.add_argument("--state", type=Path, metavar="FILE", help="default: SOURCE.prewarm.jsonl, beside the source")
    try:
        failed = asyncio.run(run(parser.parse_args(arguments)))
    except (ManifestError, RemoteError, InvalidInputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped: started again, it goes on here", file=sys.stderr)
        return 130
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
