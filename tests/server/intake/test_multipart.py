from __future__ import annotations

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from instgenie_server.api_error import ApiError
from instgenie_server.intake.multipart import MAX_HEADER_BYTES, MAX_NAME_CHARS, MultipartParser, Part, PartLimits
from tests.server.intake.bodies import (
    BOUNDARY,
    cut,
    cuts,
    file_part,
    form_body,
    holds_boundary,
    near_boundaries,
    text_part,
)

LIMITS = PartLimits(parts=6, file_bytes=400, text_bytes=100)


def parse(*pieces: bytes, limits: PartLimits = LIMITS, boundary: bytes = BOUNDARY) -> list[Part]:
    parser = MultipartParser(boundary, limits)
    for piece in pieces:
        parser.feed(piece)
    return parser.finish()


def outcome(pieces: list[bytes]) -> list[Part] | tuple[int, str, str | None]:
    """The parts, or the error."""
    try:
        return parse(*pieces)
    except ApiError as error:
        return error.status, error.message, error.param


def refusal(*pieces: bytes) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse(*pieces)
    return caught.value


def test_parts_come_in_their_order() -> None:
    body = form_body(text_part("prompt", "a cat"), file_part("image", b"\0\r\n--\xff", "a.png"), text_part("n", "1"))
    assert parse(body) == [
        Part("prompt", None, bytearray(b"a cat")),
        Part("image", "a.png", bytearray(b"\0\r\n--\xff")),
        Part("n", None, bytearray(b"1")),
    ]


def test_a_form_may_be_empty_and_parts_too() -> None:
    assert parse(form_body()) == []
    assert [bytes(part.data) for part in parse(form_body(text_part("a", ""), file_part("b", b"")))] == [b"", b""]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), near_boundaries | st.binary(max_size=90)), max_size=5),
    cuts,
)
@example([("a", False, b"\r\n--" + BOUNDARY)], [])
@example([("a", True, b"--" + BOUNDARY + b"--")], [])
def test_parts_survive_any_data_in_any_chunks(parts: list[tuple[str, bool, bytes]], at: list[int]) -> None:
    assume(not any(holds_boundary(data) for _, _, data in parts))
    body = form_body(*(file_part(name, data) if is_file else text_part(name, data) for name, is_file, data in parts))
    expected = [Part(name, "upload" if is_file else None, bytearray(data)) for name, is_file, data in parts]
    assume(all(len(data) <= LIMITS.text_bytes for _, _, data in parts))
    assert parse(body) == expected
    assert parse(*cut(body, at)) == expected
    assert parse(*(bytes([byte]) for byte in body)) == expected


@given(st.data())
def test_damaged_forms_mean_the_same_in_any_chunks(data: st.DataObject) -> None:
    body = bytearray(form_body(text_part("prompt", "a cat"), file_part("image", b"\r\n--" + BOUNDARY + b"x" * 50)))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(body)))
        body[place : place + data.draw(st.integers(0, 12))] = data.draw(near_boundaries | st.binary(max_size=5))
    whole = outcome([bytes(body)])
    assert outcome(cut(bytes(body), data.draw(cuts))) == whole
    assert outcome([bytes([byte]) for byte in body]) == whole
    assert isinstance(whole, list) or whole[0] in (400, 413)


@given(near_boundaries | st.binary(max_size=200))
def test_garbage_is_refused(garbage: bytes) -> None:
    assume(not garbage.startswith((b"--" + BOUNDARY + b"--", b"--" + BOUNDARY + b"\r\n")))
    assert refusal(garbage).status == 400


@given(st.integers(0, 10_000))
def test_a_form_that_is_cut_short_is_refused(length: int) -> None:
    body = form_body(text_part("prompt", "a cat"), file_part("image", b"123456")).removesuffix(b"\r\n")
    error = refusal(body[: length % len(body)])
    assert (error.status, error.code) == (400, "malformed_form")


def test_the_message_names_the_part_that_is_cut_short() -> None:
    assert "'image'" in refusal(form_body(file_part("image", b"1" * 90))[:-40]).message


def test_what_follows_the_last_boundary_is_ignored() -> None:
    assert len(parse(form_body(text_part("a", "b")), b"\r\nepilogue\r\n--", BOUNDARY)) == 1


def test_a_longer_line_is_no_boundary() -> None:
    (part,) = parse(form_body(text_part("a", "1\r\n--Bc\r\n--B-"), boundary=b"B"), boundary=b"B")
    assert part.data == b"1\r\n--Bc\r\n--B-"


def test_sizes_and_numbers_are_limited() -> None:
    assert len(parse(form_body(*[text_part("a", "1")] * LIMITS.parts))) == LIMITS.parts
    assert refusal(form_body(*[text_part("a", "1")] * (LIMITS.parts + 1))).status == 413
    parse(form_body(file_part("image", b"x" * LIMITS.file_bytes), text_part("t", "x" * LIMITS.text_bytes)))
    too_large = refusal(form_body(file_part("image", b"x" * (LIMITS.file_bytes + 1))))
    assert (too_large.status, too_large.param) == (413, "image")
    assert "400 bytes" in too_large.message
    assert refusal(form_body(text_part("t", "x" * (LIMITS.text_bytes + 1)))).status == 413


def test_too_much_is_refused_before_it_is_all_there() -> None:
    parser = MultipartParser(BOUNDARY, LIMITS)
    parser.feed(form_body(file_part("image", b""))[: -len(b"\r\n--" + BOUNDARY + b"--\r\n")])
    parser.feed(b"x" * LIMITS.file_bytes)
    with pytest.raises(ApiError, match="larger than"):
        parser.feed(b"x" * 100)


@pytest.mark.parametrize(
    "part",
    [
        b"\r\n\r\nno headers",
        b"Content-Type: text/plain\r\n\r\nno disposition",
        b"Content-Disposition: form-data\r\n\r\nno name",
        b'Content-Disposition: form-data; name=""\r\n\r\nempty name',
        b'Content-Disposition: attachment; name="a"\r\n\r\nanother disposition',
        b'Content-Disposition: form-data; other="; name=a"\r\n\r\nname in another value',
        b'Content-Disposition: form-data; name="%b"\r\n\r\nlong name' % (b"a" * (MAX_NAME_CHARS + 1)),
        b'Content-Disposition: form-data; name="\xff"\r\n\r\nnot UTF-8',
        b'Content-Disposition: form-data; name="a"\r\n folded: line\r\n\r\nfolded',
        b'Content-Disposition: form-data; name="a"\nX: y\r\n\r\nbare new line',
        b'no colon\r\nContent-Disposition: form-data; name="a"\r\n\r\n',
        b'Content-Disposition: form-data; name="a"\r\nX: ' + b"y" * MAX_HEADER_BYTES + b"\r\n\r\n",
        b"X" * (2 * MAX_HEADER_BYTES),
    ],
)
def test_headers_must_be_sane_and_name_the_part(part: bytes) -> None:
    error = refusal(form_body(part))
    assert (error.status, error.code) == (400, "malformed_form")


@pytest.mark.parametrize(
    ("disposition", "name", "filename"),
    [
        (b"form-data; name=a", "a", None),
        (b'FORM-DATA;name="a";filename="b.png"', "a", "b.png"),
        (b'form-data; filename="; name=x"; name="a"', "a", "; name=x"),
        (b'form-data; name="lora[style]"', "lora[style]", None),
        (b'form-data; name="q\\"q"; filename=""', 'q"q', ""),
        (b"form-data; name=a; filename*=UTF-8''b.png", "a", "UTF-8''b.png"),
        ('form-data; name="a"; filename="Grüße.png"'.encode(), "a", "Grüße.png"),
        (b'form-data; name="a"; name="b"', "a", None),
    ],
)
def test_names_are_found(disposition: bytes, name: str, filename: str | None) -> None:
    (part,) = parse(form_body(b"content-disposition: " + disposition + b"\r\n\r\nx"))
    assert (part.name, part.filename) == (name, filename)


@pytest.mark.parametrize("encoding", ["base64", "quoted-printable", "x"])
def test_encoded_parts_are_refused(encoding: str) -> None:
    part = b'Content-Disposition: form-data; name="a"\r\nContent-Transfer-Encoding: ' + encoding.encode()
    assert refusal(form_body(part + b"\r\n\r\nAAAA")).param == "a"
    assert parse(form_body(part.replace(encoding.encode(), b"Binary") + b"\r\n\r\nAAAA"))[0].data == b"AAAA"
