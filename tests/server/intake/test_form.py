from __future__ import annotations

import asyncio
import gzip
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import ClientSession, FormData
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from instgenie_server.access.auth import Identity
from instgenie_server.api_error import ApiError
from instgenie_server.intake.form import FilePart, Form, form_boundary, to_form
from instgenie_server.intake.multipart import Part
from tests.server.intake.bodies import (
    BOUNDARY,
    CONTENT_TYPE,
    chunked,
    cut,
    cuts,
    file_part,
    form_body,
    near_boundaries,
    text_part,
)
from tests.server.intake.conftest import LIMITS, IntakeServer, request_head, start_server

LOOPBACK = "remote 127.0.0.1"  # who the clients are, as permits count them
# One server serves all examples; each is a request of its own.
over_http = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
names = st.sampled_from(["prompt", "n", "lora[a]", "image", "image[]", "mask"])


async def test_a_form_is_read(intake: IntakeServer) -> None:
    body = form_body(
        text_part("prompt", "ein Kürbis"), text_part("lora[a]", "1"), file_part("image", b"\0\r\n\xff", "x.png")
    )
    reply = await intake.post(body)
    assert reply.status == 200
    assert reply.json == {
        "fields": {"prompt": "ein Kürbis", "lora[a]": "1"},
        "files": {"image": [["x.png", "\0\r\n\xff"]]},
    }


@over_http
@given(st.lists(st.tuples(names, st.text(max_size=30), st.binary(max_size=100)), max_size=6), cuts)
async def test_forms_survive_any_order_and_any_pieces(
    intake: IntakeServer, parts: list[tuple[str, str, bytes]], at: list[int]
) -> None:
    expected: dict[str, Any] = {"fields": {}, "files": {}}
    encoded: list[bytes] = []
    for name, text, data in parts:
        if name in ("image", "image[]"):
            encoded.append(file_part(name, data))
            expected["files"].setdefault(name, []).append(["upload", data.decode("latin-1")])
        elif name not in expected["fields"] and name not in expected["files"]:
            is_file = name == "mask"
            encoded.append(file_part(name, data) if is_file else text_part(name, text))
            expected["files" if is_file else "fields"][name] = [["upload", data.decode("latin-1")]] if is_file else text
    body = form_body(*encoded)
    assume(body.count(BOUNDARY) == len(encoded) + 1)
    assert (await intake.post(body, pieces=cut(body, at))).json == expected
    head = request_head("/form", CONTENT_TYPE, "Transfer-Encoding: chunked")
    for pieces in (cut(body, at), [bytes([byte]) for byte in body]):
        reply = await intake.exchange(head + chunked(pieces))
        assert reply is not None
        assert reply.json == expected


async def test_a_body_may_come_byte_by_byte(intake: IntakeServer) -> None:
    body = form_body(text_part("prompt", "a cat"), file_part("image", bytes(range(256))))
    reply = await intake.post(body, pieces=[bytes([byte]) for byte in body])
    assert reply.json["files"]["image"] == [["upload", bytes(range(256)).decode("latin-1")]]


@over_http
@given(st.data())
async def test_damaged_bodies_are_the_clients_fault(intake: IntakeServer, data: st.DataObject) -> None:
    body = bytearray(form_body(text_part("prompt", "a cat"), file_part("image", b"x" * 50)))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(body)))
        body[place : place + data.draw(st.integers(0, 30))] = data.draw(near_boundaries | st.binary(max_size=20))
    reply = await intake.post(bytes(body))
    if reply.status != 200:
        assert reply.status in (400, 413)
        assert reply.error["message"]
        assert reply.headers["x-should-retry"] == "false"


@over_http
@given(st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=40))
async def test_odd_content_types_are_the_clients_fault(intake: IntakeServer, odd: str) -> None:
    for content_type in (odd, f"multipart/form-data;{odd}", f"multipart/form-data; boundary={odd}"):
        reply = await intake.exchange(
            request_head("/form", None)[:-2]
            + b"Content-Length: 5\r\nContent-Type: "
            + content_type.encode("latin-1")
            + b"\r\n\r\n12345"
        )
        assert reply is None or reply.status == 400


@pytest.mark.parametrize(
    "content_type", [None, "application/json", "text/plain", "multipart/mixed; boundary=B", "garbage"]
)
async def test_other_types_are_refused(intake: IntakeServer, content_type: str | None) -> None:
    reply = await intake.post(b"{}", content_type)
    assert reply.status == 400
    assert "expected a multipart/form-data body" in reply.error["message"]


@pytest.mark.parametrize(
    "header",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        "multipart/form-data; boundary=" + "b" * 71,
        "multipart/form-data; boundary=ü",
        "multipart/form-data; boundary*=utf-8''b",
    ],
)
def test_a_boundary_is_needed(header: str) -> None:
    with pytest.raises(ApiError) as caught:
        form_boundary(header)
    assert (caught.value.status, caught.value.code) == (400, "malformed_form")
    assert "boundary" in caught.value.message


def test_a_boundary_may_be_quoted() -> None:
    assert form_boundary('Multipart/Form-Data; charset=utf-8; Boundary="a b"') == b"a b"


async def test_a_body_larger_than_allowed_is_refused_unread(intake: IntakeServer) -> None:
    reply = await intake.exchange(request_head("/form", CONTENT_TYPE, f"Content-Length: {LIMITS.request_bytes + 1}"))
    assert reply is not None
    assert reply.status == 413
    assert "5,000 bytes" in reply.error["message"]


async def test_a_body_without_a_length_is_cut_off_at_the_limit(intake: IntakeServer) -> None:
    parts = [file_part("image", b"x" * 1500)] * 4
    endless = chunked([form_body(*parts)]).removesuffix(b"0\r\n\r\n")
    reply = await intake.exchange(request_head("/form", CONTENT_TYPE, "Transfer-Encoding: chunked") + endless)
    assert reply is not None
    assert reply.status == 413


async def test_a_packed_body_counts_as_what_it_unpacks_to(intake: IntakeServer) -> None:
    small, large = form_body(text_part("prompt", "a cat")), form_body(file_part("image", b"\0" * 2_000_000))
    for body, status in ((small, 200), (large, 413)):
        packed = gzip.compress(body)
        assert len(packed) < LIMITS.request_bytes
        head = request_head("/form", CONTENT_TYPE, "Content-Encoding: gzip", f"Content-Length: {len(packed)}")
        reply = await intake.exchange(head + packed)
        assert reply is not None
        assert reply.status == status


async def test_a_body_that_is_not_packed_as_it_says_is_refused(intake: IntakeServer) -> None:
    head = request_head("/form", CONTENT_TYPE, "Content-Encoding: gzip", "Content-Length: 9")
    reply = await intake.exchange(head + b"no gzip!!")
    assert reply is not None
    assert reply.status == 400
    assert reply.error["code"] == "malformed_body"


async def test_broken_chunks_are_refused(intake: IntakeServer) -> None:
    reply = await intake.exchange(request_head("/form", CONTENT_TYPE, "Transfer-Encoding: chunked") + b"zz\r\nxx\r\n")
    assert reply is None or reply.status == 400


async def test_a_client_that_leaves_ends_its_upload(intake: IntakeServer) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", intake.server.port)
    body = form_body(file_part("image", b"x" * 50))
    writer.write(request_head("/form", CONTENT_TYPE, f"Content-Length: {len(body)}") + body[:40])
    await writer.drain()
    writer.close()
    assert isinstance(await intake.ends.get(), ConnectionError | ApiError | asyncio.CancelledError)
    assert (await intake.post(body)).status == 200


async def test_a_slow_client_is_told_so() -> None:
    intake = await start_server(LIMITS.model_copy(update={"upload_seconds": 0.05}))
    reply = await intake.exchange(request_head("/form", CONTENT_TYPE, "Content-Length: 90") + b"--" + BOUNDARY)
    assert reply is not None
    assert (reply.status, reply.error["code"]) == (408, "upload_timeout")
    assert reply.headers["x-should-retry"] == "false"
    assert "0.05 seconds" in reply.error["message"]
    assert len(intake.uploads) == 0
    await intake.server.close()


async def test_a_client_that_falls_silent_is_told_so() -> None:
    intake = await start_server(LIMITS.model_copy(update={"idle_seconds": 0.05}))
    reply = await intake.exchange(request_head("/form", CONTENT_TYPE, "Content-Length: 90") + b"--" + BOUNDARY)
    assert reply is not None
    assert (reply.status, reply.error["code"]) == (408, "upload_timeout")
    assert "nothing of the body arrived for 0.05 seconds" in reply.error["message"]
    assert len(intake.uploads) == 0
    await intake.server.close()


async def test_a_client_that_goes_on_may_take_longer_than_one_pause() -> None:
    intake = await start_server(LIMITS.model_copy(update={"idle_seconds": 3}))
    body = form_body(text_part("prompt", "a cat"))
    reader, writer = await asyncio.open_connection("127.0.0.1", intake.server.port)
    writer.write(request_head("/form", CONTENT_TYPE, f"Content-Length: {len(body)}"))
    for start in range(0, len(body), len(body) // 6):
        await asyncio.sleep(0.6)
        writer.write(body[start : start + len(body) // 6])
        await writer.drain()
    assert (await reader.readline()).split()[1] == b"200"
    writer.close()
    await intake.server.close()


async def test_uploads_wait_for_their_turn_and_not_for_ever() -> None:
    intake = await start_server(LIMITS.model_copy(update={"upload_seconds": 0.05}))
    body = form_body(text_part("prompt", "a cat"))
    async with intake.uploads.hold(LOOPBACK, 1):
        reply = await intake.post(body)
        assert (reply.status, reply.error["code"]) == (429, "too_many_uploads")
        assert reply.headers["retry-after"] == "1"
        intake.limits = LIMITS
        waiting = asyncio.create_task(intake.post(body))
    assert (await waiting).status == 200
    await intake.server.close()


async def test_one_caller_cannot_keep_others_from_uploading(intake: IntakeServer) -> None:
    intake.limits = LIMITS.model_copy(update={"upload_seconds": 0.5})
    body = form_body(text_part("prompt", "a cat"))
    async with AsyncExitStack() as held:
        for _ in range(LIMITS.uploads // 2):
            await held.enter_async_context(intake.uploads.hold("another", 1))
        assert (await intake.post(body)).status == 200


async def test_callers_are_told_apart_by_their_keys() -> None:
    intake = await start_server(LIMITS.model_copy(update={"upload_seconds": 0.05}))
    body = form_body(text_part("prompt", "a cat"))
    async with intake.uploads.hold("k1", 1):
        intake.identity = Identity("alice", "k1")
        assert (await intake.post(body)).status == 429
        intake.identity = Identity("bob", "k2")
        assert (await intake.post(body)).status == 200
    await intake.server.close()


@pytest.mark.parametrize(
    "body",
    [
        b"x",
        b"--" + BOUNDARY + b"--x",
        form_body(b"\r\n\r\n"),
        form_body(text_part("prompt", b"\xff")),
        form_body(text_part("prompt", "a"), text_part("prompt", "b")),
        form_body(*[text_part("prompt", "a")] * (LIMITS.parts + 1)),
        form_body(file_part("image", b"x" * (LIMITS.part_bytes + 1))),
    ],
)
async def test_a_permit_is_given_back_whatever_happens(intake: IntakeServer, body: bytes) -> None:
    for _ in range(LIMITS.uploads + 1):
        await intake.post(body)
    assert (await intake.post(form_body(text_part("prompt", "a")))).status == 200


async def test_forms_of_aiohttp_are_read(intake: IntakeServer) -> None:
    form = FormData()
    form.add_field("prompt", "a cat")
    form.add_field("image", b"\r\n--", filename="ä.png", content_type="image/png")
    async with ClientSession() as session, session.post(intake.server.make_url("/form"), data=form) as response:
        read = await response.json()
    assert read["fields"] == {"prompt": "a cat"}
    assert read["files"]["image"][0][1] == "\r\n--"


def part(name: str, data: bytes, filename: str | None = None) -> Part:
    return Part(name, filename, bytearray(data))


def test_lists_are_for_images_only() -> None:
    images = [
        part("image[]", b"1", "a"),
        part("image[]", b"2", "b"),
        part("image", b"3", "c"),
        part("image", b"4", "d"),
    ]
    assert to_form(images).files == {
        "image[]": [FilePart("a", b"1"), FilePart("b", b"2")],
        "image": [FilePart("c", b"3"), FilePart("d", b"4")],
    }
    repeated = [
        [part("prompt", b"1"), part("prompt", b"1")],
        [part("mask", b"1", "a"), part("mask", b"1", "a")],
        [part("n", b"1"), part("n", b"1", "a")],
        [part("n", b"1", "a"), part("n", b"1")],
    ]
    for parts in repeated:
        with pytest.raises(ApiError, match="more than once") as caught:
            to_form(parts)
        assert caught.value.param == parts[0].name


@pytest.mark.parametrize("name", ["image", "image[]", "mask"])
def test_a_picture_that_was_sent_as_text_is_refused(name: str) -> None:
    with pytest.raises(ApiError, match="filename") as caught:
        to_form([part(name, b"\x89PNG")])
    assert caught.value.param == name


def test_text_is_utf8() -> None:
    assert to_form([part("prompt", "Kürbis".encode())]) == Form({"prompt": "Kürbis"})
    with pytest.raises(ApiError, match="UTF-8") as caught:
        to_form([part("prompt", "Kürbis".encode("latin-1"))])
    assert (caught.value.status, caught.value.param) == (400, "prompt")


def test_a_file_input_that_was_left_empty_is_absent() -> None:
    assert to_form([part("mask", b"", ""), part("image", b"1", "")]) == Form(files={"image": [FilePart("", b"1")]})
