"""What the front end adds to an edit: time of requests with 512x512 uploads to a server whose engine takes no time.

The server is a process of its own, run as `instgenie serve` runs it, access control, decoding, durable jobs and all;
its replica answers at once with a finished file. So everything that is measured is overhead, the client's own part and
loopback included; a request for /healthz, which is nothing else, is given too. Cases are measured in turn, request by
request, so that a busy machine hits all of them alike. What the server computed for a request (`cpu_ms`, over all of
its threads) is given too: other programs add little to it, while they may double the time that a client sees.

    python scripts/bench/server.py [--requests 200] [--json OUT]
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from instgenie.edit_cost import EditCost
from instgenie.order_work import predicted_work
from instgenie.orders import (
    EditOrder,
    EditOutcome,
    HeldTemplate,
    ModelCard,
    PhaseTimings,
    ReplicaStats,
    StepReport,
    WarmOrder,
    WarmReport,
)

SIDE = 512
WARM_UP = 20
SAMPLES = Path(__file__).parents[2] / "instgenie" / "builtin" / "samples"
BOUNDARY = "boundary-of-the-benchmark"
TARGET_MS = 5.0


@dataclass(frozen=True, slots=True)
class Case:
    """A request; `status` is that of its reply."""

    name: str
    method: str
    path: str
    status: int = 200
    body: bytes = b""


class InstantReplica:
    """Takes no time: every edit gets the same file."""

    model = ModelCard(
        name="instant",
        revision="0",
        dtype="float32",
        device="none",
        steps=1,
        guidance=1.0,
        distilled=True,
        canvas_pixels=SIDE,
        patch=16,
    )

    def __init__(self, file: bytes) -> None:
        timings = PhaseTimings(0, 0, 0, 0, 0, cache="hit", steps=1, dense_steps=0, tokens_active=1, tokens_total=1)
        self._outcome = EditOutcome(file, SIDE, SIDE, timings)

    def predicted_seconds(self, order: EditOrder) -> float:
        return 0.0 * EditCost().predict(predicted_work(order, self.model))  # what it costs to ask

    async def edit(self, order: EditOrder, report: Callable[[StepReport], None]) -> EditOutcome:  # noqa: ARG002
        report(StepReport(0, 1))
        report(StepReport(1, 1))
        return self._outcome

    async def warm(self, order: WarmOrder, report: Callable[[WarmReport], None]) -> None:
        raise NotImplementedError

    async def pin(self, keys: Iterable[str]) -> int:  # noqa: ARG002
        return 0

    async def unpin(self, keys: Iterable[str]) -> None: ...

    async def forget(self, keys: Iterable[str]) -> None: ...

    async def held(self, keys: Iterable[str]) -> dict[str, HeldTemplate]:
        return dict.fromkeys(keys, HeldTemplate(None, 0))

    async def stats(self) -> ReplicaStats:
        return ReplicaStats()

    async def drain(self) -> None: ...

    async def close(self) -> None: ...


def picture(name: str, file_format: str, mode: str = "RGB", **options: int) -> bytes:
    """A sample of the package as a file of 512x512 pixels."""
    file = io.BytesIO()
    with Image.open(SAMPLES / name) as sample:
        sample.convert(mode).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file, file_format, **options)
    return file.getvalue()


def form(image: bytes, mask: bytes) -> bytes:
    """The multipart body of an edit."""
    parts = []
    for name, filename, content in (("prompt", None, b"a watermelon"), ("image", "i", image), ("mask", "m", mask)):
        disposition = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename else "")
        parts.append(f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + content + b"\r\n")
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def cases() -> list[Case]:
    """All that is measured."""
    mask = picture("table_mask.png", "PNG", mode="L")
    png, jpeg = picture("table_template.png", "PNG"), picture("table_template.png", "JPEG", quality=92)
    return [
        Case("nothing (/healthz)", "GET", "/healthz"),
        Case("edit of a PNG", "POST", "/v1/images/edits", 200, form(png, mask)),
        Case("edit of a JPEG", "POST", "/v1/images/edits", 200, form(jpeg, mask)),
        Case("job of a PNG, stored", "POST", "/v1/edits", 202, form(png, mask)),
    ]


def milliseconds_of(connection: http.client.HTTPConnection, case: Case) -> float:
    """Time from the first byte of the request to the last one of its reply."""
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"} if case.body else {}
    started = time.perf_counter()
    connection.request(case.method, case.path, case.body or None, headers)
    reply = connection.getresponse()
    content = reply.read()
    elapsed = 1000 * (time.perf_counter() - started)
    assert reply.status == case.status, content[:500]
    if case.status == 202:  # it goes on in the background: wait, so that it is no part of what is measured next
        connection.request("GET", f"/v1/edits/{json.loads(content)['id']}/events")
        connection.getresponse().read()
    return elapsed


def spread(times: list[float]) -> dict[str, float]:
    """Median, deciles and the 99th percentile."""
    hundredths = quantiles(times, n=100, method="inclusive")
    figures = {"median_ms": median(times), "p10_ms": hundredths[9], "p90_ms": hundredths[89], "p99_ms": hundredths[98]}
    return {name: round(value, 3) for name, value in figures.items()}


@contextmanager
def server(folder: Path) -> Iterator[tuple[int, int]]:
    """Id and port of a server in a process of its own."""
    command = (sys.executable, str(Path(__file__)), "--serve", str(folder))
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            url = process.stdout.readline()
            if not url:
                log.seek(0)
                sys.exit(f"the server did not start:\n{log.read()}")
            yield process.pid, int(url.rpartition(":")[2])
        finally:
            process.terminate()


def serve(folder: Path) -> None:
    """Be that server."""
    import uvloop

    from instgenie_server.logs import configure_logging
    from instgenie_server.serving import serve as run
    from instgenie_server.settings import CacheSettings, LogSettings, Settings

    configure_logging(LogSettings(format="json"))
    file = picture("table_template.png", "PNG", compress_level=1)

    @asynccontextmanager
    async def replica() -> AsyncIterator[InstantReplica]:
        yield InstantReplica(file)

    settings = Settings(port=0, data_dir=folder, cache=CacheSettings(service=None))
    uvloop.run(run(settings, replica, lambda url: print(url, flush=True)))


def cpu_ms_of(process_id: int) -> float:
    """Processor time of all threads of a process so far."""
    files = Path(f"/proc/{process_id}/task").glob("*/schedstat")
    return sum(int(file.read_text().split()[0]) for file in files) / 1e6


def measure(process_id: int, port: int, measured: list[Case], requests: int) -> dict[str, dict[str, float]]:
    """Figures of each case over so many requests, one after the other."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    times: dict[str, list[float]] = {case.name: [] for case in measured}
    computed: dict[str, list[float]] = {case.name: [] for case in measured}
    for number in range(WARM_UP + requests):
        for case in measured:
            before = cpu_ms_of(process_id)
            elapsed = milliseconds_of(connection, case)
            if number >= WARM_UP:
                times[case.name].append(elapsed)
                computed[case.name].append(cpu_ms_of(process_id) - before)
    connection.close()
    return {name: spread(found) | {"cpu_ms": round(median(computed[name]), 3)} for name, found in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    measured = cases()
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as (process_id, port):
        results = measure(process_id, port, measured, options.requests)
    print(f"{'':24}{'median':>9}{'p10':>9}{'p90':>9}{'p99':>9}{'cpu':>9}   ms; the target is a median of {TARGET_MS:g}")
    for name, figures in results.items():
        print(f"{name:24}" + "".join(f"{value:9.2f}" for value in figures.values()))
    print(f"load of the machine before: {load_before:.1f} on {os.cpu_count()} cores")
    if options.json:
        from bench.environment import environment  # imports torch

        about = {
            "requests": options.requests,
            "side_pixels": SIDE,
            "upload_bytes": {case.name: len(case.body) for case in measured},
            "target_ms": TARGET_MS,
            "load_average_before": round(load_before, 2),
        }
        content = {"about": about, "environment": environment(), "results": results}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
