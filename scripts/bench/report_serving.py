"""Report: planned steps, batches under load, fleets in simulation, and the front end."""

from __future__ import annotations

from bench.report_markdown import Content, blocks, number, paragraph, percent, source, table
from bench.simulate import KEEPS_UP

_POLICIES = {"finish_time": "`finish_time` (ours)", "compute_load": "`compute_load` (the published rule)"}
_SYSTEMS = {
    "ours": "ours",
    "ours, static": "ours, static batches",
    "dense, static": "dense, static batches",
    "dense, one by one": "dense, one by one",
}


def pipeline(content: Content) -> str:
    """Plans as they are run, of `pipeline.py`."""
    by_load: dict[float | None, dict[str, Content]] = {}
    for row in content["executed"]:
        by_load.setdefault(row["load_share"], {})[row["policy"]] = row
    rows = []
    for load, of in by_load.items():
        ours = of["full_prefix"]
        times = [number(of[policy]["step_ms"], 0) for policy in ("dense", "always_cached", "greedy", "full_prefix")]
        planned = [number(ours["full_blocks"]), percent(ours["stall_share"], 1), f"{100 * ours['off_plan']:+.0f} %"]
        rows.append(["no limit" if load is None else f"{load:g}", *times, *planned])
    worst = {row["policy"]: row["worst"] for row in content["simulated"] if row["case"] == "equal"}
    return blocks(
        paragraph(f"""
            Planned steps of the embedded model, whose records come from a disk that is throttled, so that loading a
            step's records takes a share of a dense step's time (`.venv/bin/python scripts/bench/pipeline.py --out
            scripts/bench/results`, {source("pipeline.json")}). A step in ms by policy; of ours how many of the 8 blocks
            ran on all tokens, the measured stall, and how far the median step is from its plan:
        """),
        table(
            ["load / dense step", "dense", "always cached", "greedy", "planned", "full blocks", "stall", "off plan"],
            rows,
        ),
        paragraph(f"""
            `greedy` is the published rule, its full blocks put first, where they can be run. In simulation, 57 equal
            blocks over 72 points of loads and masks, ours is {_over(worst["full_prefix"])}, greedy up to
            {percent(worst["greedy"])} above it and always cached {percent(worst["always_cached"])}.
        """),
    )


def _over(worst: float) -> str:
    return "the optimum" if worst < 1e-9 else f"up to {percent(worst)} above the optimum"


def records(content: Content) -> str:
    """What records cost by codec and drift, of `pipeline.py`."""
    rows = [
        [
            row["codec"],
            f"{row['drift']:g}",
            number(row["template_bytes"] / 1e6, 0),
            number(row["smaller"]),
            *(["", ""] if row["smaller"] == 1 else [number(row["psnr_db"]), number(row["worst_psnr_db"])]),
        ]
        for row in content["recorded"]
    ]
    return blocks(
        paragraph(f"""
            Records of a template of the embedded model by codec and `cache.drift`, and PSNR inside the mask, median and
            worst of some edits, against raw records of every step (`.venv/bin/python scripts/bench/pipeline.py`,
            {source("pipeline.json")}):
        """),
        table(["codec", "drift", "MB", "times smaller", "PSNR dB", "worst"], rows),
    )


def batching(load_file: Content, overhead_file: Content, joins_file: Content, sizes_file: Content) -> str:
    """Batches under load, of `batching.py`."""
    load, amounts = load_file["load"], load_file["amounts"]
    capacities = {row["system"]: row for row in load["capacities"]}
    ours, dense = capacities["ours"], capacities["dense, static"]
    by_load: dict[float, dict[str, Content]] = {}
    for row in load["rows"]:
        by_load.setdefault(row["load"], {})[row["system"]] = row
    latencies = [[f"{at:g}", *(number(of[name]["mean"], 2) for name in _SYSTEMS)] for at, of in by_load.items()]
    largest = max(overhead_file["overhead"], key=lambda row: row["batch"])
    joins = joins_file["joins"]
    late = sum(row["worst_steps"] > 0 for row in joins)
    joined = " or ".join(str(row["beside"]) for row in joins)
    sizes: dict[float, dict[int, Content]] = {}
    for row in sizes_file["sizes"]:
        sizes.setdefault(row["share"], {})[row["batch"]] = row
    of_single = [
        [
            percent(share),
            percent(of[1]["active"]),
            number(of[1]["edit_steps_per_second"]),
            *(number(row["of_single"]) for batch, row in of.items() if batch > 1),
        ]
        for share, of in sizes.items()
    ]
    command = f"--only b,c --arrivals {amounts['arrivals']}"
    return blocks(
        paragraph(f"""
            Batches of the embedded model under Poisson arrivals, masks of a production trace (11 % of the picture on
            average), warm templates, {amounts["steps"]} steps an edit, {amounts["arrivals"]} edits a load, pictures and
            files included (`.venv/bin/python scripts/bench/batching.py {command} --out scripts/bench/results`,
            {source("batching_load.json")}). Saturated, ours serves {ours["edits_per_second"]:.2f} edits a second and a
            dense server with static batches {dense["edits_per_second"]:.2f}: {load["ratios"]["throughput"]:.1f} times
            as many, since a step computes {percent(ours["active"])} of the tokens. Mean latency in s, at shares of what
            the dense server can do:
        """),
        table(["load", *_SYSTEMS.values()], latencies),
        paragraph(f"""
            So few edits do not let the dense server's queue grow long above 1, as it would without end. Between two
            forwards of a batch of {largest["batch"]} pass {largest["total_ms"]:.1f} ms of
            {largest["total_ms"] + largest["forward_ms"]:.0f}, scheduling and putting the next one together take
            {largest["before_step_ms"]:.1f} of them ({source("batching_overhead.json")}). An edit that arrives while
            {joined} others run takes part in their next step, in the median{"" if late else " and at worst"}
            (`--only a`, {source("batching_joins.json")}). Steps of edits a second by size of batch, in times that of
            one edit (`--only d`, {source("batching_sizes.json")}):
        """),
        table(
            ["mask", "tokens computed", "batch of 1", *(str(b) for b in next(iter(sizes.values())) if b > 1)], of_single
        ),
    )


def policies(content: Content) -> str:
    """P95 and throughput by policy and load of a simulated fleet, of `simulate.py`."""
    runs = {(run["policy"], run["load"]): run["figures"] for run in content["results"]}
    names = list(dict.fromkeys(policy for policy, _ in runs))
    loads = sorted({load for _, load in runs})
    rows = []
    for name in names:
        cells = [_latency(runs[name, load]) if (name, load) in runs else "" for load in loads]
        rows.append([_POLICIES.get(name, f"`{name}`"), *cells, _cold(runs, name, loads)])
    return table(["policy", *(f"{load:g}" for load in loads), f"cold at {_told(loads):g}"], rows)


def _told(loads: list[float]) -> float:
    return 0.8 if 0.8 in loads else loads[-1]


def _latency(figures: Content) -> str:
    keeps_up = figures["per_second"] >= KEEPS_UP * figures["offered"]
    return f"{figures['p95']:.1f}{'' if keeps_up else '!'}, {figures['per_second']:.0f}/s"


def _cold(runs: dict[tuple[str, float], Content], name: str, loads: list[float]) -> str:
    figures = runs.get((name, _told(loads)))
    return "" if figures is None else percent(figures["served"]["recorded"] + figures["served"]["joined"])


def server(content: Content) -> str:
    """What the front end adds, of `server.py`."""
    about = content["about"]
    side = about["side_pixels"]
    jpeg, png, job, nothing = (
        f"{content['results'][name]['median_ms']:.1f} ms"
        for name in ("edit of a JPEG", "edit of a PNG", "job of a PNG, stored", "nothing (/healthz)")
    )
    return paragraph(f"""
        What the server adds to an edit: a request with a {side}x{side} upload to a server whose engine takes no time,
        everything between the client's first byte and the reply's last (`.venv/bin/python scripts/bench/server.py`,
        medians of {about["requests"]}, {source("server.json")}): {jpeg} with a JPEG, {png} with a PNG; {job} until an
        asynchronous edit is on disk and its 202 is there; {nothing} for `/healthz`.
    """)
