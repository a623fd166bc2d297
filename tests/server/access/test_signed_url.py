"""Addresses that open one path until a time."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest

from instgenie_server.access.signed_url import UrlSigner

PATH = "/v1/edits/edit-1/image"
NOW = 1_700_000_000.5


@pytest.fixture
def signer() -> UrlSigner:
    return UrlSigner(b"secret", 60)


def query_of(url: str) -> tuple[str, str]:
    query = parse_qs(urlsplit(url).query)
    return query["exp"][0], query["sig"][0]


def test_signed_path_is_valid_until_it_expires(signer: UrlSigner) -> None:
    url = signer.sign(PATH, NOW)
    assert urlsplit(url).path == PATH
    expires, signature = query_of(url)
    assert signer.is_valid(PATH, expires, signature, NOW)
    assert signer.is_valid(PATH, expires, signature, NOW + 59)
    assert not signer.is_valid(PATH, expires, signature, NOW + 61)


def test_nothing_of_it_can_be_changed(signer: UrlSigner) -> None:
    expires, signature = query_of(signer.sign(PATH, NOW))
    assert not signer.is_valid("/v1/edits/edit-2/image", expires, signature, NOW)
    assert not signer.is_valid(PATH, str(int(expires) + 1), signature, NOW)
    assert not signer.is_valid(PATH, f"0{expires}", signature, NOW)
    assert not signer.is_valid(PATH, expires, signature[:-1], NOW)
    assert not UrlSigner(b"another", 60).is_valid(PATH, expires, signature, NOW)


def test_path_and_expiry_do_not_run_into_each_other(signer: UrlSigner) -> None:
    expires, signature = query_of(signer.sign("/a", NOW))
    assert not signer.is_valid(f"{expires[-1]}\n/a", expires[:-1], signature, 0)


@pytest.mark.parametrize(("expires", "signature"), [("", ""), ("x", "y"), ("-1", "a"), ("٣", "a"), ("1" * 13, "ü")])
def test_nonsense_is_refused(signer: UrlSigner, expires: str, signature: str) -> None:
    assert not signer.is_valid(PATH, expires, signature, 0)
