"""Report: ours beside what one would use instead."""

from __future__ import annotations

from bench.report_markdown import Content, blocks, command, counted, number, paragraph, source, table, unbeaten

# What a reader cannot guess; shown below the tables where the row is there.
_NOTES = {
    "diffusers, context not kept": "leaves out what diffusers' inpaint pipeline does after every step",
    "masked tokens alone, no records": "shows the model nothing beside the mask and its halo",
    "ours, halo 1, no refresh": "has no step that computes all tokens to correct the records by",
    "ours, 3 refreshes, step cache 2": "has three steps that compute all tokens, and extrapolates every other one",
    "ours, step cache 2": "computes one step in 2 and extrapolates the others, as TaylorSeer does, of masked tokens",
}


def peers(content: Content) -> str:
    """Both models' tables, of `peers.py`."""
    about = content["about"]
    by_model: dict[str, list[Content]] = {}
    for row in content["results"]:
        by_model.setdefault(row["model"], []).append(row)
    parts = [
        paragraph(f"""
            The same edits side by side: weights, pictures, masks, prompts, noise and {about["steps"]} steps are the
            same, diffusers runs its Flux Fill pipeline's own loop, and its own step caches at some settings each
            (`.venv/bin/python {command("peers", content)}`, {source("peers.json")}). Records are in memory. Seconds an
            edit, speed-up over diffusers with an edit at a time, and PSNR inside the mask to its edit in float32 with
            nothing left out; `computed` is the share of passes that computed the last block's attention. All rows are
            shown, those too that are faster than ours.
        """)
    ]
    if embedded := by_model.get("embedded"):
        shown = [
            [*_cells(row), number(row["psnr_db"]), number(row["worst_psnr_db"]), _computed(row)] for row in embedded
        ]
        cases = counted(embedded[0]["seconds"]["n"], "held-out case")
        parts += [
            paragraph(f"The embedded model, {cases}, from picture to picture:"),
            table(["system", "s", "P95", "speed-up", "PSNR dB", "worst", "computed"], shown),
        ]
    if medium := by_model.get("medium"):
        rounds = counted(medium[0]["seconds"]["n"], "round")
        parts += [
            paragraph(f"A Flux transformer of 71M random weights, 1,024 tokens, {rounds}:"),
            table(["system", "s", "P95", "speed-up", "computed"], [[*_cells(row), _computed(row)] for row in medium]),
        ]
    return blocks(*parts, *_notes({row["system"] for row in content["results"]}))


def unbeaten_peers(content: Content) -> str:
    """The rows that no other of their kind beats in both time and PSNR, and the plain ones."""
    about = content["about"]
    embedded = [row for row in content["results"] if row["model"] == "embedded" and row["psnr_db"] is not None]
    medium = {row["system"]: row for row in content["results"] if row["model"] == "medium"}
    kinds: dict[tuple[str, bool], list[Content]] = {}  # an edit's time in a batch is not what one waits for it
    for row in embedded:
        kinds.setdefault((row["group"], row["batch"] > 1), []).append(row)
    kept = {row["system"] for rows in kinds.values() for row in _unbeaten(rows)} | {"diffusers, one by one", "ours"}
    rows = sorted((row for row in embedded if row["system"] in kept), key=lambda row: float(row["speedup"]))
    cases = counted(embedded[0]["seconds"]["n"], "held-out case")
    return blocks(
        paragraph(f"""
            The same edits side by side, {about["steps"]} steps of the embedded model, {cases}
            (`.venv/bin/python {command("peers", content)}`, {source("peers.json")}): seconds an edit, speed-up over
            diffusers' Flux Fill pipeline with an edit at a time, PSNR inside the mask to its edit in float32 with
            nothing left out, in the median and at worst; on the right the speed-up with a Flux transformer of 71M
            random weights and 1,024 tokens. Records are in memory; recording a template is in no row: it takes a pass
            over all tokens for each step, once. These are the rows that no other of their kind (diffusers itself, its
            step caches, ours; in batches, and not) beats in both time and PSNR, and `ours`, the default:
        """),
        table(
            ["system", "s", "speed-up", "PSNR dB", "worst", "speed-up, 71M"],
            [
                [
                    row["system"],
                    number(row["seconds"]["median"], 2),
                    *(number(row[key]) for key in ("speedup", "psnr_db", "worst_psnr_db")),
                    number(medium[row["system"]]["speedup"]) if row["system"] in medium else "",
                ]
                for row in rows
            ],
        ),
        *_notes(kept),
        paragraph("""
            Batches take four edits at a time, and a row has an edit's share of that. All rows but the reference compute
            in bfloat16; diffusers' transformer rounds the noise level to it, too, which ours does not, so dense edits
            of ours are closer to the reference than its own. Caches that decide by the picture were not tried on random
            weights.
        """),
    )


def _unbeaten(rows: list[Content]) -> list[Content]:
    return unbeaten(rows, lambda row: float(row["psnr_db"]), lambda row: float(row["seconds"]["median"]))


def _notes(names: set[str]) -> list[str]:
    notes = "; ".join(f"`{name}` {note}" for name, note in _NOTES.items() if name in names)
    return [paragraph(f"{notes}.")] if notes else []


def _cells(row: Content) -> list[str]:
    seconds = row["seconds"]
    return [row["system"], number(seconds["median"], 2), number(seconds["p95"], 2), number(row["speedup"])]


def _computed(row: Content) -> str:
    return "" if row["computed"] is None else f"{row['computed']:.0%}".replace("%", " %")
