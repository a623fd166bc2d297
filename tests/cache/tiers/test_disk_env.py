"""What LMDB raises arrives as the cache's errors, and an environment that it gave up is opened anew."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import lmdb
import pytest

from instgenie_cache import CacheError
from instgenie_cache.tiers.disk_env import DamageError, DiskEnv


def panic(_: object = None) -> NoReturn:
    raise lmdb.PanicError("mdb_txn_commit", -30795)


def keys(env: DiskEnv) -> list[bytes]:
    with env.read() as txn:
        return [bytes(key) for key, _ in txn.cursor(db=env.records)]


def put(env: DiskEnv, key: bytes) -> None:
    env.write(lambda txn: txn.put(key, b"1", db=env.records))


def test_an_environment_that_lmdb_gave_up_is_opened_anew(tmp_path: Path) -> None:
    env = DiskEnv(tmp_path, 8 << 20)
    put(env, b"a")
    with pytest.raises(CacheError, match="anew"):
        env.write(panic)
    put(env, b"b")
    assert keys(env) == [b"a", b"b"]
    env.close()


def test_so_is_one_that_it_gave_up_while_pages_were_aged(tmp_path: Path) -> None:
    class PanickingEnv(DiskEnv):
        def _age(self) -> None:
            panic()

    def fill(txn: lmdb.Transaction[memoryview]) -> None:
        txn.put(b"large", bytes(8 << 20), db=env.records)

    env = PanickingEnv(tmp_path, 2 << 20)
    put(env, b"a")
    with pytest.raises(CacheError, match="anew"):
        env.write(fill)
    put(env, b"b")
    assert keys(env) == [b"a", b"b"]
    env.close()


def test_a_file_that_is_broken_when_it_is_opened_anew_is_an_error_until_it_is_whole_again(tmp_path: Path) -> None:
    env = DiskEnv(tmp_path, 8 << 20)
    put(env, b"a")
    data, whole = tmp_path / "data.mdb", tmp_path / "whole"

    def panic_over_garbage(_: object) -> None:
        data.rename(whole)
        data.write_bytes(b"garbage" * 10_000)
        panic()

    with pytest.raises(DamageError):
        env.write(panic_over_garbage)
    with pytest.raises(CacheError, match="out of order"):
        keys(env)
    with pytest.raises(DamageError):
        put(env, b"b")
    whole.replace(data)
    put(env, b"b")
    assert keys(env) == [b"a", b"b"]
    env.close()
    with pytest.raises(CacheError, match="is closed"):
        put(env, b"c")


def test_a_map_that_cannot_grow_is_still_read(tmp_path: Path) -> None:
    env = DiskEnv(tmp_path, 1 << 60)  # more than the machine has addresses
    put(env, b"a")
    map_bytes = env.fill().map_bytes
    with pytest.raises(CacheError, match=r"data\.mdb"):
        env._grow(1 << 60)
    assert keys(env) == [b"a"]
    put(env, b"b")
    assert env.fill().map_bytes == map_bytes
    env.close()
