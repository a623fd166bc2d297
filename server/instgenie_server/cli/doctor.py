"""`instgenie doctor`: what this machine computes with, and whether the model works."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from instgenie_server.cli.loading import DtypeChoice, DtypeOption, ModelOption, ThreadsOption
from instgenie_server.cli.show_table import show_table
from instgenie_server.cli.status_line import status_line


def doctor(
    model: ModelOption = None,
    dtype: DtypeOption = DtypeChoice.AUTO,
    threads: ThreadsOption = None,
    cache: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Read every record in there instead, and tell what is broken."),
    ] = None,
    repair: Annotated[bool, typer.Option("--repair", help="With --cache: drop what is broken.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure this machine and try the model. The exit code is 1 if something is broken."""
    if repair and cache is None:
        raise typer.BadParameter("--repair goes with --cache")
    report = _verified(cache, repair) if cache is not None else _measured(model, dtype, threads)
    if as_json:
        typer.echo(json.dumps(report))
    else:
        _print_table(_cache_rows(report) if cache is not None else _rows(report))
    if not report["ok"]:
        raise typer.Exit(1)


def _verified(folder: Path, repair: bool) -> dict[str, Any]:
    from instgenie_server.cli.cache_checkup import verify_cache

    with status_line(f"reading the records in {folder}"):
        return verify_cache(folder, repair)


def _measured(model: Path | None, dtype: DtypeChoice, threads: int | None) -> dict[str, Any]:
    from instgenie_server.cli.cache_checkup import check_cache
    from instgenie_server.cli.checkup import check_machine, check_model

    with status_line("measuring the machine") as say:
        report = check_machine(threads)
        report["cache"] = check_cache()
        say("trying the model")
        report["model"] = check_model(model, dtype, threads)
    return report | {"ok": report["model"]["ok"]}


def _print_table(rows: list[tuple[str, str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("what", "value")
    for name, value in rows:
        table.add_row(name, Text(value))
    show_table(table)


def _cache_rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [("folder", report["folder"])]
    if report["unreadable"]:
        rows += [("cannot be read", report["unreadable"])]
    rows += _count_rows(report)
    for name in ("corrupt_records", "missing_records", "surplus_records", "broken_manifests", "half_templates"):
        if report[name]:
            rows += [(name.replace("_", " "), f"{report[name]:,}")]
    rows += [("broken template", template) for template in report["broken_templates"]]
    verdict = "nothing is broken" if report["ok"] else "something is broken: --repair drops it"
    if report["is_repaired"]:
        verdict = "what was broken is dropped: it will be recorded again"
    elif report["in_use"]:
        verdict += ", once nobody uses the folder" if not report["ok"] else "; a cache is at work here"
    return [*rows, ("verdict", verdict)]


def _count_rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    """How much there is; where something was dropped, before and after that."""
    rows = [
        ("templates", f"{report['templates']:,}"),
        ("whole records", f"{report['records']:,}, {_megabytes(report['record_bytes'])}"),
        ("data file", f"{_megabytes(report['file_bytes'])}, {report['free_share']:.0%} of it free pages"),
    ]
    if not report["is_repaired"]:
        return rows
    left = _count_rows(report["after_repair"])
    return [
        (name, f"{before}; after the repair {after}") for (name, before), (_, after) in zip(rows, left, strict=True)
    ]


def _place_rows(cache: dict[str, Any]) -> list[tuple[str, str]]:
    if cache["folder"] is None:
        return [("records", "in memory alone")]
    if "error" in cache:
        return [("records", cache["folder"]), ("records are out of reach", cache["error"])]
    return [
        ("records", cache["folder"]),
        ("records take", f"{_megabytes(cache['stored_bytes'])} of {_megabytes(cache['budget_bytes'])}"),
        ("cache service", "answers" if cache["service"] else "does not run"),
    ]


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.0f} MB"


def _rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    model = report["model"]
    rows = [(name, version) for name, version in report["versions"].items()]
    rows += [("device", device) for device in report["devices"]]
    rows += [("threads", f"{report['threads']}, which replicas on the CPU share out")]
    rows += [(f"{dtype} speed", f"{gflops:,.0f} GFLOP/s") for dtype, gflops in report["gflops"].items()]
    rows += [("fastest dtype", report["dtype"])]
    rows += _place_rows(report["cache"])
    rows += [("model", model["folder"])]
    if not model["ok"]:
        return [*rows, ("model is broken", model["error"])]
    return [
        *rows,
        ("model name", model["name"]),
        ("revision", model["revision"]),
        ("parameters", f"{model['parameters']:,}"),
        ("loaded in", f"{model['load_ms'] / 1000:.1f} s as {model['dtype']}"),
        ("dense step", f"{model['dense_step_ms']:,.0f} ms, {model['tokens_total']} tokens"),
        ("masked step", f"{model['masked_step_ms']:,.0f} ms, {model['tokens_active']} tokens"),
    ]
