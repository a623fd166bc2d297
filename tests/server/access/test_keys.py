"""API keys: their text, and what is stored of them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from instgenie_server.access.keys import ScryptCost, StoredKey, decoy, make_key, matches, split_key

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CHEAP = ScryptCost(n=2)


def test_made_key_matches_its_secret_only() -> None:
    text, key = make_key("alice", NOW, cost=CHEAP)
    parts = split_key(text)
    assert parts is not None
    key_id, secret = parts
    assert (key_id, key.tenant, key.created_at) == (key.id, "alice", NOW)
    assert len(secret) >= 128 / 6
    assert matches(secret, key)
    assert not matches(secret[:-1] + ("a" if secret[-1] != "a" else "b"), key)
    assert text.startswith(key.name + ".")


def test_stored_key_does_not_hold_the_secret() -> None:
    text, key = make_key("alice", NOW, cost=CHEAP)
    assert text.partition(".")[2] not in repr(key)


def test_default_cost() -> None:
    text, key = make_key("alice", NOW)
    assert key.cost == ScryptCost(n=2**14, r=8, p=1)
    assert matches(text.partition(".")[2], key)


def test_same_secret_is_stored_differently() -> None:
    keys = [make_key("alice", NOW, cost=CHEAP)[1] for _ in range(2)]
    assert keys[0].salt != keys[1].salt
    assert keys[0].id != keys[1].id


def test_taken_ids_are_not_used_again() -> None:
    class AllButOne:
        asked = 0

        def __contains__(self, key_id: object) -> bool:
            self.asked += 1
            return self.asked < 4

    taken = AllButOne()
    make_key("alice", NOW, taken, CHEAP)
    assert taken.asked == 4


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sk-1234",
        "ig-0123abcd",
        "ig-0123abcd.short",
        "ig-0123ABCD." + "a" * 32,
        "ig-0123abcd." + "a" * 129,
        "ig-0123abcd." + "a" * 31 + "é",
        "ig-0123abcd." + "a" * 32 + "\n",
        "xig-0123abcd." + "a" * 32,
    ],
)
def test_texts_that_cannot_be_keys(text: str) -> None:
    assert split_key(text) is None


@pytest.mark.parametrize("tenant", ["", ".hidden", "-x", "a b", "a/b", "ü", "x" * 65, "a\n"])
def test_tenants_that_are_refused(tenant: str) -> None:
    with pytest.raises(ValueError, match="no name of a tenant"):
        make_key(tenant, NOW, cost=CHEAP)


@pytest.mark.parametrize("cost", [{"n": 1}, {"n": 3}, {"n": 2**21}, {"r": 0}, {"r": 33}, {"p": 0}, {"p": 17}])
def test_costs_that_are_refused(cost: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="scrypt"):
        ScryptCost(**cost)


def test_nothing_matches_a_decoy() -> None:
    text, key = make_key("alice", NOW, cost=CHEAP)
    fake = decoy(NOW, CHEAP)
    assert isinstance(fake, StoredKey)
    assert fake.cost == key.cost
    assert not matches(text.partition(".")[2], fake)
