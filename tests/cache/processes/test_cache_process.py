"""The service as a process: how it starts, ends and dies, and what is left after that."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from instgenie_cache import CacheError, Record, TemplateSize
from instgenie_cache.client.service_store import ServiceStore
from instgenie_cache.records.record import RecordKey, encode_record
from instgenie_cache.wire.address import Address, connect
from instgenie_cache.wire.frames import FrameReader, encode_frame_head
from instgenie_cache.wire.handshake import greet
from instgenie_cache.wire.messages import (
    PROTOCOL_VERSION,
    REQUESTS,
    Abort,
    Commit,
    Create,
    Delete,
    Fetch,
    Flush,
    Hello,
    Lease,
    List,
    Metrics,
    Pin,
    Prefetch,
    Put,
    Release,
    Request,
    Stat,
    Sweep,
    Tiers,
)
from tests.cache.processes.cache_process import CacheProcess, environment, run
from tests.cache.service_records import PATIENT
from tests.cache.small_stores import fill_template, read_template, values_of

SIZE = TemplateSize(3, 2, 50_000)
SMALL = TemplateSize(1, 2, 2000)
HOLDER = """
import sys, time
from instgenie_cache.wire.address import Address
from instgenie_cache.client.service_store import ServiceStore
from instgenie_cache.records.template_size import TemplateSize
store = ServiceStore.connect(Address.parse(sys.argv[1]), client="holder", arena="read")
lease = store.lease("t")
assert lease is not None and lease.step(0) is not None
assert store.pin("t")
writer = store.create("half", TemplateSize(3, 2, 50_000))
print("held", flush=True)
time.sleep(60)
"""


def store_at(service: CacheProcess) -> ServiceStore:
    return ServiceStore.connect(Address.parse(str(service.socket)), client="test", settings=PATIENT)


def test_it_says_where_it_serves_and_ends_at_a_signal(tmp_path: Path) -> None:
    with CacheProcess(tmp_path) as service:
        assert service.ready_line == f"serving at unix:{tmp_path}/cache.sock\n"
        code, log = service.stop()
    assert code == 0, log
    assert '"level": "error"' not in log
    assert not service.socket.exists()


@pytest.mark.parametrize("warm_start", [True, False])
def test_what_is_on_disk_is_in_memory_soon_after_the_start(tmp_path: Path, warm_start: bool) -> None:
    with CacheProcess(tmp_path) as service, closing(store_at(service)) as store:
        fill_template(store, "t", SIZE)
        store.flush()
        service.stop()
    with CacheProcess(tmp_path, "--set", f"warm_start={warm_start}") as service, closing(store_at(service)) as store:
        tier = "disk"
        for _ in range(1000 if warm_start else 1):
            with store.lease("t") as lease:  # type: ignore[union-attr]
                tier = lease.tier
            if tier == "host":
                break
            time.sleep(0.01)
        assert tier == ("host" if warm_start else "disk")
        assert read_template(store, "t", SIZE) == values_of(SIZE)


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_what_was_flushed_outlives_it(tmp_path: Path, how: str) -> None:
    with CacheProcess(tmp_path) as service:
        store = store_at(service)
        fill_template(store, "t", SIZE, first=3)
        store.flush()
        getattr(service, how)()
        assert store.lease("t") is None  # a dead service is a miss
        store.close()
    with CacheProcess(tmp_path) as service:  # its dead predecessor's socket and lock are no hindrance
        store = store_at(service)
        assert read_template(store, "t", SIZE) == values_of(SIZE, first=3)
        store.close()


def test_a_second_one_on_the_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    with CacheProcess(tmp_path) as service:
        second = run(tmp_path)
        assert (second.returncode, second.stdout) == (2, "")
        assert second.stderr.startswith("error: ")
        assert str(tmp_path) in second.stderr
        assert second.stderr.count("\n") == 1
        elsewhere = run(tmp_path / "other", "--socket", str(service.socket))
        assert "a service listens at" in elsewhere.stderr
        store = store_at(service)
        fill_template(store, "t", SIZE)
        store.close()


@pytest.mark.parametrize(
    "options", [("--host-bytes", "much"), ("--set", "colour=red"), ("--config", "/no/such.toml"), ("--tcp", "x")]
)
def test_wrong_settings_are_one_line(tmp_path: Path, options: tuple[str, ...]) -> None:
    refused = run(tmp_path, *options)
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    assert refused.stderr.startswith("error: ")


def _gauges(store: ServiceStore) -> tuple[float, float, float]:
    """Bytes in memory, those of them that nobody uses, and connections."""
    lines = store.metrics().decode().splitlines()
    found = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    names = ("host_used_bytes", "host_evictable_bytes", "connections")
    used, evictable, connections = (float(found[f"instgenie_cache_{name}"]) for name in names)
    return used, evictable, connections


def test_what_a_killed_client_held_is_free_soon(tmp_path: Path) -> None:
    with CacheProcess(tmp_path) as service:
        store = store_at(service)
        fill_template(store, "t", SIZE)
        store.flush()
        before = _gauges(store)
        assert before[0] == before[1] > 0
        holder = subprocess.Popen(
            (sys.executable, "-c", HOLDER, str(service.socket)), stdout=subprocess.PIPE, text=True, env=environment()
        )
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        during = _gauges(store)
        assert during[1] <= during[0] - SIZE.step_bytes  # the step that it maps
        with pytest.raises(CacheError):
            store.create("half", SIZE)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
        died = time.monotonic()
        while True:  # `half` can be written by one at a time
            try:
                fill_template(store, "half", SIZE)
                break
            except CacheError:
                if time.monotonic() > died + 5:
                    raise
        assert read_template(store, "half", SIZE) == values_of(SIZE)
        store.flush()
        used, evictable, connections = _gauges(store)
        assert (used, connections) == (evictable, before[2])
        store.delete("t")
        store.close()


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with CacheProcess(tmp_path) as service:
        store = store_at(service)
        large = TemplateSize(1, 1, 8 << 20)
        fill_template(store, "t", large)
        store.flush()

        async def fetch_and_read_nothing() -> socket.socket:
            sock = await connect(Address(path=str(service.socket)))
            await greet(sock, Hello(version=PROTOCOL_VERSION, client="slow"))
            for number, request in ((1, Lease(template="t")), (2, Fetch(lease=1, step=0))):
                head = encode_frame_head({"id": number, "op": request.op, **request.fields()}, 0)
                await asyncio.get_running_loop().sock_sendall(sock, head)
            await asyncio.get_running_loop().sock_recv(sock, 1)
            return sock

        sock = asyncio.run(fetch_and_read_nothing())
        began = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        while service.socket.exists():  # it ends, and waits for the client that reads nothing
            assert time.monotonic() < began + 5
            time.sleep(0.01)
        assert service.process.poll() is None
        code, log = service.stop()
        assert code == 1
        assert "ended by a second signal" in log
        assert time.monotonic() < began + 5
        sock.close()
        store.close()
    with CacheProcess(tmp_path) as service:
        store = store_at(service)
        assert read_template(store, "t", large) == values_of(large)
        store.close()


def _valid_requests(chosen: random.Random, created: int) -> list[tuple[dict[str, Any], bytes]]:
    """One of every operation, of templates, writers and leases that there are.

    Args:
        created: writers that were asked for on the connection.
    """
    template = f"fuzz{chosen.randrange(4)}"
    writer, step, block = max(1, created), chosen.randrange(SMALL.steps), chosen.randrange(SMALL.blocks)
    record = Record("raw", "uint8", (SMALL.record_bytes,), memoryview(bytes(SMALL.record_bytes)))
    size = {"steps": SMALL.steps, "blocks": SMALL.blocks, "record_bytes": SMALL.record_bytes}
    name = f"fuzz{writer % 4}"  # as `create` below
    puts = [
        (Put(writer=writer, step=at, block=of), encode_record(RecordKey(name, at, of), record))
        for at in range(SMALL.steps)
        for of in range(SMALL.blocks)
    ]
    commit = Commit(
        writer=writer,
        cost_ms=chosen.random(),
        steps=chosen.choice([None, None, SMALL.steps, 1]),
        note=chosen.randbytes(chosen.choice([0, 10])),
        durable=chosen.random() < 0.1,
    )
    messages: list[tuple[Request, bytes]] = [
        (Create(template=f"fuzz{(created + 1) % 4}", **size), b""),
        *puts,
        (commit, b""),
        (Abort(writer=chosen.randrange(1, writer + 1)), b""),
        (Lease(template=template), b""),
        (Fetch(lease=1, step=step, blocks=chosen.choice([None, [0, block], [block, SMALL.blocks]])), b""),
        (Tiers(lease=1), b""),
        (Release(lease=chosen.randrange(1, 4), step=chosen.choice([None, step])), b""),
        (Prefetch(template=template, steps=[step]), b""),
        (Pin(template=template, pinned=chosen.random() < 0.5), b""),
        (Stat(template=chosen.choice([None, template])), b""),
        (List(after="f", limit=chosen.randrange(5)), b""),
        (Delete(template=template), b""),
        (Sweep(), b""),
        (Flush(), b""),
        (Metrics(), b""),
        (Hello(version=PROTOCOL_VERSION, client="again"), b""),
        (puts[block][0], puts[block][1][:-1] + b"x"),
    ]
    return [({"op": message.op, **message.fields()}, payload) for message, payload in messages]


def _spoil(frame: bytes, header: dict[str, Any], payload: bytes, chosen: random.Random) -> bytes:
    """A frame that is wrong in one place, anywhere from its meaning to its last bit."""
    name = chosen.choice(list(header))
    strange: object = chosen.choice([-1, 2**63, None, "", "x" * 300, [], [[]], {}, 1.5, True, b"x"])
    match chosen.randrange(5):
        case 0:
            header[name] = strange
        case 1:
            del header[name]
        case 2:
            header["more"] = strange
        case 3:
            payload = payload[:-1] if payload else b"x" * chosen.choice([1, 3000])
        case _:
            spoiled = bytearray(frame)
            spoiled[chosen.randrange(len(spoiled))] ^= 1 << chosen.randrange(8)
            return bytes(spoiled)
    return encode_frame_head(header, len(payload)) + payload


class _Abuser:
    """Connections that send right frames, so that there are writers and leases, then wrong ones.

    Attributes:
        outcomes: how many requests were answered, by operation and outcome.
    """

    def __init__(self, path: Path, seed: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self._path, self._chosen = path, random.Random(seed)
        self._sock: socket.socket | None = None

    async def send(self, frames: int) -> None:
        """Send so many that are wrong, and as many connections as that takes."""
        sent = 0
        try:
            while sent < frames:
                if self._sock is None:
                    await self._connect()
                sent += await self._send_one()
        finally:
            self._leave()

    async def _connect(self) -> None:
        self._sock = await connect(Address(path=str(self._path)))
        await greet(self._sock, Hello(version=PROTOCOL_VERSION, client="fuzz"))
        self._reader = FrameReader(1 << 30, lambda *_: None)
        self._ops: dict[int, str] = {}
        self._created = 0
        self._right = self._chosen.randrange(30)  # frames, until the first wrong one
        self._wrong = self._chosen.randrange(1, 60)
        self._todo: list[tuple[dict[str, Any], bytes]] = []  # what belongs to the template that was begun

    async def _send_one(self) -> bool:
        """Send a frame; whether it was a wrong one."""
        assert self._sock is not None
        chosen, is_wrong = self._chosen, self._right == 0
        choice = _valid_requests(chosen, self._created)
        if self._todo and chosen.random() < 0.7:
            header, payload = self._todo.pop(0)
        else:
            header, payload = chosen.choice(choice)
        number = len(self._ops) + 1
        self._ops[number] = header["op"]
        header = {"id": number, **header}
        frame = encode_frame_head(header, len(payload)) + payload
        if is_wrong:
            frame = _spoil(frame, dict(header), payload, chosen)
            if chosen.random() < 0.05:
                frame = frame[: chosen.randrange(len(frame))]
            self._wrong -= 1
        else:
            self._right -= 1
            if header["op"] == "create":
                self._created += 1
                follow = _valid_requests(chosen, self._created)
                self._todo = [each for each in follow if each[0]["op"] in ("put", "commit")][: SMALL.records + 1]
        try:
            async with asyncio.timeout(10):
                await asyncio.get_running_loop().sock_sendall(self._sock, frame)
                while not (self._read(number) or is_wrong):  # noqa: ASYNC110 - what comes is read without waiting
                    await asyncio.sleep(0)
        except ConnectionError:
            self._leave()
        if self._wrong == 0:
            self._leave()
        return is_wrong

    def _read(self, number: int) -> bool:
        """Whether what has come answers this request.

        Raises:
            ConnectionError: the service has ended the connection.
        """
        assert self._sock is not None
        is_answered = False
        try:
            while num_bytes := self._sock.recv_into(self._reader.buffer()):
                for reply in self._reader.filled(num_bytes):
                    op = self._ops.get(reply.header["id"], "any")  # an id may have been spoiled
                    self.outcomes[f"{op} {reply.header.get('error', 'ok')}"] += 1
                    is_answered |= reply.header["id"] == number
        except BlockingIOError:
            return is_answered
        raise ConnectionResetError

    def _leave(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None


@pytest.mark.slow
def test_ten_thousand_bad_frames_neither_end_it_nor_make_it_grow(tmp_path: Path) -> None:
    with CacheProcess(tmp_path, "--log-level", "warning") as service:
        asyncio.run(_Abuser(service.socket, seed=1).send(3_000))  # warm
        before = service.rss_bytes()
        abuser = _Abuser(service.socket, seed=2)
        asyncio.run(abuser.send(10_000))
        outcomes = abuser.outcomes
        for op in REQUESTS.keys() - {"hello"}:  # else it was no test of what is behind them
            assert outcomes[f"{op} ok"] > 20, outcomes
        for error in ("protocol", "cache", "checksum", "incomplete"):
            assert sum(count for outcome, count in outcomes.items() if outcome.endswith(f" {error}")) > 0, outcomes
        assert service.rss_bytes() - before < 16 << 20
        store = store_at(service)
        fill_template(store, "after", SIZE)
        assert read_template(store, "after", SIZE) == values_of(SIZE)
        store.close()
        code, log = service.stop()
        assert code == 0
        assert "Traceback" not in log


@pytest.mark.slow
def test_two_thousand_half_open_connections_do_not_make_it_grow(tmp_path: Path) -> None:
    async def half_open(count: int) -> None:
        opened = [await connect(Address(path=str(tmp_path / "cache.sock"))) for _ in range(count)]
        sock = await connect(Address(path=str(tmp_path / "cache.sock")))
        await greet(sock, Hello(version=PROTOCOL_VERSION, client="honest"))
        for each in (sock, *opened):
            each.close()

    with CacheProcess(tmp_path, "--log-level", "error") as service:
        asyncio.run(half_open(500))
        before = service.rss_bytes()
        for _ in range(4):
            asyncio.run(half_open(500))
        assert service.rss_bytes() - before < 8 << 20
        opened, began = Path(f"/proc/{service.process.pid}/fd"), time.monotonic()
        while len(list(opened.iterdir())) > 50:  # it still sees the last ones go
            assert time.monotonic() < began + 10


def test_it_shows_its_settings_and_does_not_start(tmp_path: Path) -> None:
    shown = run(tmp_path / "records", "--show", "--set", "sync_seconds=2")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert f'folder = "{tmp_path}/records"' in shown.stdout
    assert "sync_seconds = 2.0" in shown.stdout
    assert not (tmp_path / "records").exists()
