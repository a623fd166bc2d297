"""Report: steps, and one edit after the other."""

from __future__ import annotations

from bench.report_markdown import Content, blocks, command, counted, number, paragraph, percent, source, table

_STEPS = {"diffusers dense": "diffusers, dense", "dense": "ours, dense"}
_WHATS = ("ms", "speedup")


def engine(content: Content) -> str:
    """A denoising step by share of the tokens, of `engine.py`."""
    about, results = content["about"], content["results"]
    short = {"float32": "fp32", "bfloat16": "bf16"}
    rows = []
    for name in next(iter(results.values())):
        share = name.removeprefix("masked ")
        shown = _STEPS.get(name) or f"ours, {percent(float(share), 1)} of the tokens"
        rows.append([shown, *(_step_cell(of_dtype[name], what) for of_dtype in results.values() for what in _WHATS)])
    header = ["step", *(f"{short[dtype]} {what}" for dtype in results for what in ("ms", "speed-up"))]
    return blocks(
        paragraph(f"""
            One denoising step of a Flux transformer with random weights, 71M parameters, 1,024 image tokens
            (`.venv/bin/python scripts/bench/engine.py --rounds
            {about["rounds"]}`, medians, ratios taken within a round, {source("engine.json")}):
        """),
        table(header, rows),
        paragraph("A masked row reads its records from this process's memory; recording them is not in it."),
    )


def _step_cell(figures: Content, what: str) -> str:
    return number(figures[what], 0 if what == "ms" else 1)


def speed(content: Content) -> str:
    """Shares of the ideal, and where step caches cross masked compute, of `speed.py`."""
    results = content["results"]
    dtype = {"float32": "fp32", "bfloat16": "bf16"}[content["about"]["dtype"]]
    by_step: dict[tuple[str, float], dict[int, Content]] = {}
    for row in results["steps"]:
        if row["ideal"] is not None and row["step"].startswith("ours"):
            by_step.setdefault((row["step"], row["active"]), {})[row["batch"]] = row
    batches = sorted({row["batch"] for row in results["steps"]})
    steps = [
        [
            "all" if active == 1 else percent(active, 1),
            number(of_batch[batches[0]]["ideal"]),
            *(f"{of_batch[b]['speedup']:.1f} ({percent(_of_ideal(of_batch[b]))})" for b in batches),
        ]
        for (_, active), of_batch in by_step.items()
    ]
    lines: dict[float, dict[int, Content]] = {}
    for row in results["crossings"]:
        lines.setdefault(row["skipped"], {})[row["batch"]] = row
    crossings = [
        [
            percent(skipped),
            *(cell for b in batches for cell in (number(of[b]["speedup"]), _crossing(of[b]), number(of[b]["both"]))),
        ]
        for skipped, of in lines.items()
    ]
    masked = ", ".join(f"{next(iter(lines.values()))[b]['masked']:.1f}" for b in batches)
    heads = ("step cache", "masked faster below", "both at 11 %")
    return blocks(
        paragraph(f"""
            How near masked steps come to the ideal, which is the operations of the dense pass over those of the masked
            one, linear layers and attention counted exactly. A Flux transformer with random weights, 71M parameters,
            1,024 image tokens: speed-ups over diffusers in {dtype}, in brackets of the ideal
            (`.venv/bin/python {command("speed", content)}`, {source("speed.json")}):
        """),
        table(["tokens computed", "ideal", *(f"batch of {b}" for b in batches)], steps),
        paragraph(f"""
            A step cache skips steps, whatever the mask. By how many steps it skips: speed-up of diffusers' first-block
            cache alone; the share of computed tokens below which masked compute alone is faster; and the speed-up of
            masked compute with a step cache that extrapolates as many (`--step-cache`; 11 % of the tokens, without:
            {masked}), of measured steps put together:
        """),
        table(["steps skipped", *(f"{head}, batch {b}" for b in batches for head in heads)], crossings),
    )


def step_caches(content: Content) -> str:
    """When a step cache is the better choice, of `speed.py`."""
    lines = [row for row in content["results"]["crossings"] if row["batch"] == 1]
    rows = [[percent(row["skipped"]), number(row["speedup"]), _crossing(row), number(row["both"])] for row in lines]
    return blocks(
        paragraph(f"""
            A step cache skips steps whatever the mask is, and needs no records: it alone is faster than masked compute
            alone where masks are large. `--step-cache` does both. One edit at a time of that larger model, by the share
            of steps that are skipped, in times of dense (masked compute alone at 11 % of the tokens:
            {lines[0]["masked"]:.1f}; `.venv/bin/python {command("speed", content)}`, {source("speed.json")}):
        """),
        table(["steps skipped", "step cache alone", "masked alone faster below", "both, 11 % of the tokens"], rows),
    )


def _of_ideal(row: Content) -> float:
    return float(row["speedup"] / row["ideal"])


def _crossing(row: Content) -> str:
    return percent(row["crossing"]) if row["crossing"] else "less than 5 %"


def tiers(content: Content) -> str:
    """An edit by where its records are, of `tiers.py`."""
    about = content["about"]
    rows = [
        [
            row["way"],
            number(row["ms"]["median"] / 1000, 2),
            number(row["ms"]["p95"] / 1000, 2),
            number(row["of_dense"], 2),
        ]
        for row in content["results"]
    ]
    return blocks(
        paragraph(f"""
            An edit of the embedded model by where its template's records are, {about["steps"]} steps, the mask
            {percent(about["mask"])} of the picture, from the picture to the picture (`.venv/bin/python
            {command("tiers", content)}`, {counted(content["results"][0]["ms"]["n"], "round")},
            {source("tiers.json")}):
        """),
        table(["edit", "s", "P95", "of dense"], rows),
    )


def recording(content: Content) -> str:
    """When recording pays, of `tiers.py`."""
    of_dense = {row["way"]: number(row["of_dense"], 2) for row in content["results"]}
    return paragraph(f"""
        What recording costs: an edit of a template that nobody saw before, in one batch with its recording, takes
        {of_dense["cold, in one batch with its recording"]} of the time of a dense edit, and each later one
        {of_dense["warm, device"]} to {of_dense["warm, disk"]}, from the device's memory or from disk
        (`.venv/bin/python {command("tiers", content)}`, a mask of
        {percent(content["about"]["mask"])}, {source("tiers.json")}).
    """)


def quickstart(content: Content) -> str:
    """The README's first edit, of `quickstart.py`."""
    ms = content["results"]
    seconds = {name: f"{value / 1000:.1f} s" for name, value in ms.items()}
    loading = (ms["import_ms"] + ms["measure_dtype_ms"] + ms["load_ms"]) / 1000
    return paragraph(f"""
        The quickstart's edit, 240 of 576 tokens active (the mask and its halo), 20 steps: dense
        {seconds["dense_edit_ms"]}, cached {seconds["recorded_edit_ms"]} once the template is recorded, recording
        {seconds["first_edit_record_ms"]}; loading libraries and model {loading:.1f} s. The whole command takes
        {seconds["whole_command_ms"]} with an empty cache folder; then {seconds["command_that_records_ms"]} with
        `--cache on`, which records, and {seconds["command_with_records_ms"]} once records are on disk
        (`.venv/bin/python scripts/bench/quickstart.py --rounds 3`, medians, {source("quickstart.json")}).
    """)
