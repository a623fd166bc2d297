"""Writes the documents' figures from the files that the benchmarks wrote, so that they cannot differ.

    python scripts/bench/report.py [--check] [--results FOLDER] [DOCUMENT ...]

Documents are the README, which has the figures that decide, and that of the folder of results, which has the others,
and of peers and settings all. A block between `<!-- figures: NAME -->` and `<!-- end of figures -->` is written anew;
what stands around the blocks is left alone. With --check nothing is written, and the exit status is 1 where a document
would change. It is 1, too, where a block has no known name or a file of results is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import report_builtin, report_engine, report_fidelity, report_peers, report_serving
from bench.report_markdown import RESULTS_LINK, Content, linked_from

RESULTS = Path(__file__).parent / "results"
DOCUMENTS = (Path(__file__).parents[2] / "README.md", RESULTS / "README.md")
_BLOCK = re.compile(r"(<!-- figures: (?P<name>[^>]*?) -->\n).*?(<!-- end of figures -->)", re.DOTALL)


class ReportError(Exception):
    """A block cannot be written; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a document: what makes its Markdown of the contents of these files."""

    write: Callable[..., str]
    files: tuple[str, ...]


BLOCKS: Mapping[str, Block] = {
    "engine": Block(report_engine.engine, ("engine.json",)),
    "speed": Block(report_engine.speed, ("speed.json",)),
    "step caches": Block(report_engine.step_caches, ("speed.json",)),
    "peers": Block(report_peers.peers, ("peers.json",)),
    "unbeaten peers": Block(report_peers.unbeaten_peers, ("peers.json",)),
    "unbeaten settings": Block(report_fidelity.unbeaten_settings, ("fidelity.json",)),
    "fidelity": Block(report_fidelity.fidelity, ("fidelity.json",)),
    "recording": Block(report_engine.recording, ("tiers.json",)),
    "tiers": Block(report_engine.tiers, ("tiers.json",)),
    "pipeline": Block(report_serving.pipeline, ("pipeline.json",)),
    "records": Block(report_serving.records, ("pipeline.json",)),
    "batching": Block(
        report_serving.batching,
        ("batching_load.json", "batching_overhead.json", "batching_joins.json", "batching_sizes.json"),
    ),
    "simulate 64": Block(report_serving.policies, ("simulate_64.json",)),
    "simulate 512": Block(report_serving.policies, ("simulate_512.json",)),
    "quickstart": Block(report_engine.quickstart, ("quickstart.json",)),
    "server": Block(report_serving.server, ("server.json",)),
    "headline": Block(report_builtin.headline, ("eval_headline.json",)),
    "evaluation": Block(report_builtin.evaluation, ("eval_builtin.json",)),
}


def written(document: str, results: Path, blocks: Mapping[str, Block] = BLOCKS, folder: str = RESULTS_LINK) -> str:
    """The document with its blocks written anew.

    Args:
        folder: of results, as the document's links have it.
    Raises:
        ReportError: a block is not known or not closed, or a file of results is missing or has not what is shown of it.
    """
    opened, closed = document.count("<!-- figures: "), len(_BLOCK.findall(document))
    if opened != closed:
        raise ReportError(f"{opened} blocks begin, {closed} end: each ends with <!-- end of figures -->")

    def write(found: re.Match[str]) -> str:
        name = found["name"]
        if name not in blocks:
            raise ReportError(f"there is no block {name!r}, but {', '.join(blocks)}")
        return f"{found[1]}\n{linked_from(folder, markdown(blocks[name], results))}\n\n{found[3]}"

    return _BLOCK.sub(write, document)


def folder_of(document: Path) -> str:
    """The folder of results that are committed, as the document's links have it."""
    return Path(os.path.relpath(RESULTS, document.resolve().parent)).as_posix()


def markdown(block: Block, results: Path) -> str:
    """What a block shows.

    Raises:
        ReportError: a file of results is missing or has not what is shown of it.
    """
    contents: list[Content] = []
    for file in block.files:
        try:
            contents.append(json.loads((results / file).read_text()))
        except (OSError, ValueError) as error:
            raise ReportError(f"{results / file}: {error}") from error
    try:
        return block.write(*contents)
    except (KeyError, IndexError, StopIteration) as error:
        raise ReportError(f"{', '.join(block.files)}: {error!r} is not there: written by another version?") from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, and fail where something would change")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("documents", type=Path, nargs="*", metavar="DOCUMENT", default=DOCUMENTS)
    options = parser.parse_args()
    texts = {document: document.read_text() for document in options.documents}
    try:
        new = {document: written(text, options.results, folder=folder_of(document)) for document, text in texts.items()}
    except ReportError as error:
        sys.exit(str(error))
    changed = [document for document, text in texts.items() if new[document] != text]
    if changed and options.check:
        names = ", ".join(map(str, changed))
        sys.exit(f"{names}: the figures are not those of {options.results}: run {Path(__file__).name}")
    for document in changed:
        document.write_text(new[document])


if __name__ == "__main__":
    main()
