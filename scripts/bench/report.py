"""Writes the README's figures from the files that the benchmarks wrote, so that they cannot differ.

    python scripts/bench/report.py [--check] [--readme README.md] [--results FOLDER]

A block of the README between `<!-- figures: NAME -->` and `<!-- end of figures -->` is written anew; what stands around
the blocks is left alone. With --check nothing is written, and the exit status is 1 where the README would change. It is
1, too, where a block has no known name or a file of results is missing.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import report_builtin, report_engine, report_fidelity, report_peers, report_serving
from bench.report_markdown import Content

README = Path(__file__).parents[2] / "README.md"
RESULTS = Path(__file__).parent / "results"
_BLOCK = re.compile(r"(<!-- figures: (?P<name>[^>]*?) -->\n).*?(<!-- end of figures -->)", re.DOTALL)


class ReportError(Exception):
    """A block cannot be written; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Block:
    """A part of the README: what makes its Markdown of the contents of these files."""

    write: Callable[..., str]
    files: tuple[str, ...]


BLOCKS: Mapping[str, Block] = {
    "engine": Block(report_engine.engine, ("engine.json",)),
    "speed": Block(report_engine.speed, ("speed.json",)),
    "peers": Block(report_peers.peers, ("peers.json",)),
    "fidelity": Block(report_fidelity.fidelity, ("fidelity.json",)),
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


def written(readme: str, results: Path, blocks: Mapping[str, Block] = BLOCKS) -> str:
    """The README with its blocks written anew.

    Raises:
        ReportError: a block is not known or not closed, or a file of results is missing or has not what is shown of it.
    """
    opened, closed = readme.count("<!-- figures: "), len(_BLOCK.findall(readme))
    if opened != closed:
        raise ReportError(f"{opened} blocks begin, {closed} end: each ends with <!-- end of figures -->")

    def write(found: re.Match[str]) -> str:
        name = found["name"]
        if name not in blocks:
            raise ReportError(f"there is no block {name!r}, but {', '.join(blocks)}")
        return f"{found[1]}\n{markdown(blocks[name], results)}\n\n{found[3]}"

    return _BLOCK.sub(write, readme)


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
    parser.add_argument("--readme", type=Path, default=README)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    before = options.readme.read_text()
    try:
        after = written(before, options.results)
    except ReportError as error:
        sys.exit(str(error))
    if before == after:
        return
    if options.check:
        sys.exit(f"{options.readme}: its figures are not those of {options.results}: run {Path(__file__).name}")
    options.readme.write_text(after)


if __name__ == "__main__":
    main()
