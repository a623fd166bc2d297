"""`instgenie doctor`: what this machine computes with, and whether the model works."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from instgenie_server.cli.loading import DtypeChoice, DtypeOption, ModelOption, ThreadsOption
from instgenie_server.cli.show_table import show_table
from instgenie_server.cli.status_line import status_line


def doctor(
    model: ModelOption = None,
    dtype: DtypeOption = DtypeChoice.AUTO,
    threads: ThreadsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure this machine and try the model. The exit code is 1 if something is broken."""
    from instgenie_server.cli.checkup import check_machine, check_model

    with status_line("measuring the machine") as say:
        report = check_machine(threads)
        say("trying the model")
        report["model"] = check_model(model, dtype, threads)
    report["ok"] = report["model"]["ok"]
    if as_json:
        typer.echo(json.dumps(report))
    else:
        _print_table(report)
    if not report["ok"]:
        raise typer.Exit(1)


def _print_table(report: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table("what", "value")
    for name, value in _rows(report):
        table.add_row(name, value)
    show_table(table)


def _rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    model = report["model"]
    rows = [(name, version) for name, version in report["versions"].items()]
    rows += [("device", device) for device in report["devices"]]
    rows += [("threads", str(report["threads"]))]
    rows += [(f"{dtype} speed", f"{gflops:,.0f} GFLOP/s") for dtype, gflops in report["gflops"].items()]
    rows += [("fastest dtype", report["dtype"]), ("model", model["folder"])]
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
