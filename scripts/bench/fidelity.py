"""How close cached edits come to dense ones, on held-out cases of a model; and what that costs.

    python scripts/bench/fidelity.py [--minutes 10] [--cases 200] [--model FOLDER] [--out FOLDER] [--write-model]

Each case is a scene that training did not see, with a caption form that it did not use. It is edited densely and in the
ways of `fidelity_settings.py`, with one seed; some ways have a part of the cases. PSNR is inside the mask, MS-SSIM and
GMSD are of whole pictures, all to the dense edit; the seam is the step across the mask's border in times of the dense
edit's; a cost is the share of the dense edit's image tokens. Of some ways it is told how often an edit looks most like
what was asked for, among all that the model knows, beside the dense edit of the same cases. Costs are of all cases,
whatever part of them a way has.

--write-model puts what a client can choose by `fidelity` into the model's folder, as fidelity.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from math import isqrt
from pathlib import Path

import numpy as np
import torch
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

import bench.idle_threads  # noqa: F401 - first
from bench.fidelity_edits import Edits
from bench.fidelity_measures import Likeness, likeness, summary
from bench.fidelity_plot import draw
from bench.fidelity_settings import FEWEST_CASES, SETTINGS, Setting, refreshes_of
from bench.harness import Deadline, arguments, show, write_results
from bench.report_markdown import unbeaten
from builtin_recipe.cases import Case, concepts_of, held_out_cases
from builtin_recipe.concept_file import drawable
from builtin_recipe.retrieval import Gallery
from instgenie.checkpoint import BUILTIN, load_checkpoint
from instgenie.compute_dtype import measure_dtypes
from instgenie.fidelity import MeasuredSetting
from instgenie.host import quiet_libraries
from instgenie.model_settings import FIDELITY_FILE
from instgenie.records import dtype_name

MASK_EDGES = (0.1, 0.2, 0.35)  # shares of the picture, between which cases are told apart
TRACED = ("halo 1", "default", "halo 1, 3 refreshes")
TRACED_CASES = 4
PROGRESS_CASES = 10  # after so many it says how far it is

Found = Mapping[str, Sequence[Likeness]]


def by_mask(found: Sequence[Likeness], shares: Sequence[float], known: int) -> dict[str, dict[str, float | int]]:
    """Figures by the share of the picture that is masked."""
    names = [f"below {MASK_EDGES[0]:g}", *(f"{a:g} to {b:g}" for a, b in pairwise(MASK_EDGES))]
    names.append(f"from {MASK_EDGES[-1]:g}")
    groups: dict[str, list[Likeness]] = {name: [] for name in names}
    for one, share in zip(found, shares, strict=True):
        groups[names[int(np.searchsorted(MASK_EDGES, share, side="right"))]].append(one)
    return {name: summary(group, known) for name, group in groups.items() if group}


def measured_settings(figures: Mapping[str, Mapping[str, float | int]], steps: int) -> list[MeasuredSetting]:
    """What clients can choose from: settings that no other one beats in both likeness and cost."""
    rows = [
        MeasuredSetting(
            one.halo,
            refreshes_of(one, steps),
            steps,
            round(row["psnr_p10_db"], 1),
            round(float(row["cost"]), 3),
            one.step_cache,
        )
        for one in SETTINGS
        if one.is_plain and (row := figures.get(one.name)) is not None and row["n"] >= FEWEST_CASES
    ]
    best = unbeaten(rows, lambda row: row.psnr_db, lambda row: row.cost)
    return sorted(dict.fromkeys(best), key=lambda row: row.cost)


def table(figures: Mapping[str, Mapping[str, float | int]], dense_top1: Mapping[str, float]) -> Table:
    """The figures for people."""
    shown = Table(title="cached against dense edits, inside the mask")
    columns = (
        "setting",
        "n",
        "PSNR dB",
        "of 9 in 10",
        "worst",
        "MS-SSIM",
        "GMSD",
        "seam",
        "tokens",
        "top-1",
        "dense's",
    )
    for column in columns:
        shown.add_column(column, justify="left" if column == "setting" else "right")
    for name, row in sorted(figures.items(), key=lambda item: item[1]["cost"]):
        top1 = (f"{row['top1']:.0%}", f"{dense_top1[name]:.0%}") if "top1" in row else ("", "")
        shown.add_row(
            name,
            str(row["n"]),
            *(f"{row[key]:.1f}" for key in ("psnr_db", "psnr_p10_db", "psnr_worst_db")),
            *(f"{row[key]:.4f}" for key in ("ms_ssim", "gmsd")),
            f"{row['seam']:.2f}",
            f"{row['cost']:.0%}",
            *top1,
        )
    return shown


class Measuring:
    """Goes through cases, and keeps what was found."""

    def __init__(self, edits: Edits, size: int, model: Path) -> None:
        self._edits, self._size = edits, size
        self._concepts, self._pictures = drawable(model, None)
        self.known = [*concepts_of("pictured", self._concepts), *concepts_of("shape", self._concepts)]
        self.found: dict[str, list[Likeness]] = defaultdict(list)
        self.shares: dict[str, list[float]] = defaultdict(list)
        self.costs: dict[str, list[float]] = defaultdict(list)
        self.dense_ranks: dict[str, list[int]] = defaultdict(list)
        self.errors: list[dict[str, list[float]]] = []

    def cases(self, count: int) -> list[Case]:
        """So many."""
        return held_out_cases("pictured", count, self._size, self._pictures, self._concepts, leap=True)

    def measure(self, number: int, case: Case, settings: Sequence[Setting]) -> None:
        """One case."""
        request = case.request()
        upload, dense = np.asarray(request.picture), self._edits.dense(request)
        gallery = Gallery(case.scene, self.known, self._pictures)

        def rank(picture: np.ndarray) -> int:
            return gallery.find(picture.astype(np.float32) / np.float32(255)).rank(case.scene.concept.label)

        dense_rank = rank(dense)
        for setting in settings:
            self.costs[setting.name].append(self._edits.cost(request, setting))
            if (number + 1) % setting.every:  # short runs, too, have cases of what all are compared by
                continue
            edited, cost = self._edits.cached(request, setting)
            own_rank = rank(edited) if setting.is_ranked else None
            self.found[setting.name].append(likeness(edited, dense, upload, request.mask, cost, own_rank))
            self.shares[setting.name].append(float(request.mask.mean()))
            self.dense_ranks[setting.name].append(dense_rank)
        if len(self.errors) < TRACED_CASES:
            traced = [setting for setting in settings if setting.name in TRACED]
            self.errors.append(self._edits.errors(request, traced))

    def error_by_step(self) -> dict[str, list[float]]:
        """The mean of the traced cases."""
        return {name: np.mean([errors[name] for errors in self.errors], axis=0).tolist() for name in self.errors[0]}

    def figures(self) -> dict[str, dict[str, float | int]]:
        """By setting. Masks are small and large, and a part of the cases may have larger ones: costs are of all."""
        known = len(self.known)
        return {
            name: summary(found, known) | {"cost": float(np.mean(self.costs[name]))}
            for name, found in self.found.items()
        }

    def results(self) -> dict[str, object]:
        """For JSON."""
        known = len(self.known)
        return {
            "settings": self.figures(),
            "dense_top1": self.dense_top1(),
            "by_mask": {
                name: by_mask(self.found[name], self.shares[name], known)
                for name in ("default", "halo 1")
                if name in self.found
            },
            "error_by_step": self.error_by_step(),
        }

    def dense_top1(self) -> dict[str, float]:
        """How often the dense edits show what was asked for, of the cases of each setting."""
        return {name: sum(rank == 0 for rank in ranks) / len(ranks) for name, ranks in self.dense_ranks.items()}


def main(values: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__, "fidelity", 10.0)
    parser.add_argument("--cases", type=_some, default=200, help="at most")
    parser.add_argument("--model", type=Path, default=BUILTIN)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="+", metavar="SETTING", help="by name")
    parser.add_argument("--write-model", action="store_true", help="put fidelity.json into the model's folder")
    options = parser.parse_args(values)
    settings = [one for one in SETTINGS if not options.only or one.name in options.only]
    if not settings:
        parser.error(f"--only: the settings are {', '.join(one.name for one in SETTINGS)}")
    deadline = Deadline(options.minutes)
    quiet_libraries()
    device = torch.device(options.device)
    checkpoint = load_checkpoint(options.model, measure_dtypes(device).chosen, device)
    size = isqrt(checkpoint.settings.canvas_tokens) * checkpoint.codec.patch
    measuring = Measuring(Edits(checkpoint), size, options.model)
    cases = measuring.cases(options.cases)
    for number in deadline.rounds(len(cases)):
        measuring.measure(number, cases[number], settings)
        if not (number + 1) % PROGRESS_CASES:
            print(f"{number + 1} of {len(cases)} cases", file=sys.stderr, flush=True)
    results = measuring.results()
    about = {
        "model": checkpoint.settings.name,
        "revision": checkpoint.revision,
        "dtype": dtype_name(checkpoint.forward.dtype),
        "steps": checkpoint.settings.steps,
        "size": size,
        "cases": len(next(iter(measuring.found.values()))),
    }
    write_results(options.out, "fidelity", about, results)
    figures = measuring.figures()
    if options.out:
        draw(figures, measuring.error_by_step(), options.out / "fidelity.svg")
    show(table(figures, measuring.dense_top1()))
    if options.write_model:
        chosen = measured_settings(figures, checkpoint.settings.steps)
        content = {"about": about, "settings": [asdict(row) for row in chosen]}
        (options.model / FIDELITY_FILE).write_text(json.dumps(content, indent=1) + "\n")


def _some(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


if __name__ == "__main__":
    main()
