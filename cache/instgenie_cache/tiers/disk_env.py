"""The LMDB environment of the disk tier: transactions, a map that grows, and LMDB's errors as `CacheError`s.

Records and manifests have a database each; `disk_keys` says what they are filed under. Values are the bytes that
`record` and `manifest` make.
"""

from __future__ import annotations

import errno
import logging
import shutil
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import lmdb

from instgenie_cache.errors import CacheError, RecordFormatError, StoreFullError
from instgenie_cache.tiers.gate import Gate

Transaction: TypeAlias = "lmdb.Transaction[memoryview]"

DATA_NAME = "data.mdb"
_INITIAL_MAP_BYTES = 64 << 20
_SPARE_MAP_BYTES = 16 << 20  # beyond the ceiling, for deletions: they write pages before they free any
_AGE_BYTES = 64 << 10  # a transaction that changes one key copies the few pages above it
_MAX_READERS = 256

# What LMDB says of a file that is none of its own, or no longer whole.
_DAMAGE = (
    lmdb.InvalidError,
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.VersionMismatchError,
    lmdb.IncompatibleError,
    lmdb.CursorFullError,  # a tree that is deeper than any: its pages point in a circle
    lmdb.PageFullError,
    lmdb.ProblemError,
    lmdb.BadTxnError,  # of a transaction that met one of the others
)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SHORT_WRITE = errno.EIO  # LMDB's word for a write that got only half of its bytes in, which is how a disk gets full

_log = logging.getLogger(__name__)


class DamageError(RecordFormatError):
    """LMDB cannot make out its own pages: records, or all of the file, are out of reach for good."""


@dataclass(frozen=True, slots=True)
class DiskFill:
    """How full the environment is. The file never shrinks: pages that are free are used again.

    Attributes:
        file_bytes: length of the data file.
        map_bytes: what it may grow to before the map has to.
        free_bytes: pages within the file that hold nothing.
    """

    file_bytes: int
    map_bytes: int
    free_bytes: int


class DiskEnv:
    """An open environment. Reads run in parallel with each other and with the one writer.

    LMDB lets its map be resized only while this process has no transaction open, hence the gate.
    """

    def __init__(
        self,
        folder: Path,
        ceiling_bytes: int,
        *,
        synced: bool = True,
        read_only: bool = False,
        beside_owner: bool = False,
    ) -> None:
        """Open or make it.

        Args:
            ceiling_bytes: how far the map grows.
            synced: whether a write is on the disk when it returns. Else that takes `sync`.
            read_only: neither make nor change anything.
            beside_owner: another process may have it open; without one, none must begin to.

        Raises:
            DamageError: the file is broken.
            CacheError: it cannot be opened for another reason.
        """
        self.folder = folder
        self._ceiling_bytes = max(ceiling_bytes, 1 << 20)
        self._map_bytes = min(_INITIAL_MAP_BYTES, self._ceiling_bytes)
        self._synced, self._read_only, self._beside_owner = synced, read_only, beside_owner
        self._is_closed = False
        self._was_deletion = False  # the last change
        self._gate = Gate()
        self._writing = threading.Lock()
        self._env: lmdb.Environment | None = None
        self._open()
        # A file made with a larger budget than today's may lie beyond the ceiling.
        self._deletion_ceiling_bytes = max(self._map_bytes, self._ceiling_bytes) + _SPARE_MAP_BYTES

    def _open(self) -> None:
        with _errors(self.folder):
            # No WRITEMAP: a stray write would go to the file. Without read-ahead cold reads of 600 kB records ran at
            # 40 MB/s, with it as fast as the file can be read, 1.5 GB/s; madvise(MADV_POPULATE_READ) added nothing.
            self._env = lmdb.open(
                str(self.folder),
                map_size=self._map_bytes,
                max_dbs=2,
                max_readers=_MAX_READERS,
                max_spare_txns=64,
                mode=0o600,
                sync=self._synced,
                metasync=self._synced,
                readahead=True,
                readonly=self._read_only,
                create=not self._read_only,
                lock=self._beside_owner or not self._read_only,  # LMDB's lock file is written by readers as well
            )
            try:
                self._map_bytes = self._env.info()["map_size"]
                if not self._read_only:
                    self._env.reader_check()
                self.records = self._env.open_db(b"records", create=not self._read_only)
                self.manifests = self._env.open_db(b"manifests", create=not self._read_only)
            except BaseException:
                self._env.close()
                self._env = None
                raise

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """A snapshot. Its views are valid within it alone. While it is open no page is used again: keep it short."""
        with self._gate.shared(), _errors(self.folder), self._opened().begin(buffers=True) as txn:
            yield txn

    def write(self, change: Callable[[Transaction], object], *, is_deletion: bool = False) -> None:
        """Do all of a change or nothing.

        Args:
            change: may be called again after a failure, so it must not depend on an earlier call. Its result is of no
                interest.
            is_deletion: it may use what is set aside beyond the ceiling.

        Raises:
            StoreFullError: the map is at its ceiling, or the disk is full.
        """
        with self._writing:
            if self._env is None and not self._is_closed:
                self._reopen()  # which failed before
            try:
                self._write(change, self._deletion_ceiling_bytes if is_deletion else self._ceiling_bytes)
                self._was_deletion = is_deletion
            except lmdb.PanicError as error:
                self._reopen()
                raise CacheError(f"{self.folder / DATA_NAME}: {error}; it was opened anew") from error

    def has(self, prefix: bytes) -> bool:
        """Whether there is anything of a template, its `template_prefix` given: a record, or a manifest."""
        with self.read() as txn:
            cursor = txn.cursor(db=self.records)
            has_record = cursor.set_range(prefix) and bytes(cursor.key()).startswith(prefix)
            return has_record or txn.get(prefix[:-1], db=self.manifests) is not None

    def stored_prefixes(self) -> list[bytes]:
        """`template_prefix` of all that have records, with or without a manifest. Looks at one key of each."""
        prefixes = []
        with self.read() as txn:
            cursor = txn.cursor(db=self.records)
            found = cursor.first()
            while found:
                prefix = bytes(cursor.key()).partition(b"\0")[0] + b"\0"
                prefixes.append(prefix)
                found = cursor.set_range(prefix[:-1] + b"\1")
        return prefixes

    def stored_manifests(self) -> list[tuple[bytes, bytes]]:
        """The names that manifests are filed under, and their bytes."""
        with self.read() as txn:
            return [(bytes(name), bytes(value)) for name, value in txn.cursor(db=self.manifests)]

    def sync(self) -> None:
        """Bring what was written to the disk."""
        with self._gate.shared(), _errors(self.folder):
            self._opened().sync(True)

    def fill(self) -> DiskFill:
        """How full it is now."""
        with self.read() as txn:
            env = self._opened()
            info, page_bytes = env.info(), env.stat()["psize"]
            in_use = _pages(env.stat()) + _pages(txn.stat(self.records)) + _pages(txn.stat(self.manifests))
            meta_pages = 2
            free_pages = max(0, info["last_pgno"] + 1 - meta_pages - in_use)
            try:
                file_bytes = (self.folder / DATA_NAME).stat().st_size
            except OSError as error:
                raise CacheError(f"{self.folder / DATA_NAME}: {error.strerror or error}") from error
            return DiskFill(file_bytes, info["map_size"], free_pages * page_bytes)

    def close(self) -> None:
        """Wait for the transactions that are open, then close. A second time it does nothing."""
        with self._writing, self._gate.alone():
            self._is_closed = True
            if self._env is not None:
                self._env.close()
                self._env = None

    def _opened(self) -> lmdb.Environment:
        if self._env is None:
            state = "closed" if self._is_closed else "out of order: it could not be opened anew after a failure"
            raise CacheError(f"the disk tier in {self.folder} is {state}")
        return self._env

    def _write(self, change: Callable[[Transaction], object], ceiling_bytes: int) -> None:
        has_aged = False
        while True:
            try:
                return self._transact(change)
            except lmdb.MapFullError:
                if self._map_bytes < ceiling_bytes:
                    self._grow(min(2 * self._map_bytes, ceiling_bytes))
                elif not has_aged:
                    has_aged = True
                    self._age()
                else:
                    raise StoreFullError(
                        f"{self.folder / DATA_NAME} is full: its map has {self._map_bytes} bytes, its ceiling is "
                        f"{ceiling_bytes}"
                    ) from None
            except StoreFullError:  # on the disk, which may have pages that the last change freed
                if has_aged or not self._was_deletion:
                    raise
                has_aged = True
                self._age()

    def _transact(self, change: Callable[[Transaction], object]) -> None:
        with (
            self._gate.shared(),
            _errors(self.folder, let_pass=(lmdb.MapFullError, lmdb.PanicError), no_room=(*_NO_ROOM, _SHORT_WRITE)),
            self._opened().begin(write=True, buffers=True) as txn,
        ):
            change(txn)

    def _grow(self, map_bytes: int) -> None:
        with self._gate.alone(), _errors(self.folder):
            try:
                self._opened().set_mapsize(map_bytes)
            except lmdb.Error:
                self._open_anew()  # LMDB has let go of the smaller map, and would read through it all the same
                raise
            self._map_bytes = map_bytes

    def _age(self) -> None:
        """Pages that a transaction frees are used again from the one after the next on: be the next."""
        if self._ceiling_bytes <= self._map_bytes < self._deletion_ceiling_bytes:
            self._grow(min(self._map_bytes + _AGE_BYTES, self._deletion_ceiling_bytes))
        try:
            self._transact(lambda txn: txn.put(b"age", struct.pack("<Q", txn.id())))
        except (lmdb.MapFullError, StoreFullError):
            _log.debug("%s has no page left to age its free pages with", self.folder)
        else:
            self._was_deletion = False

    def _reopen(self) -> None:
        with self._gate.alone():
            self._open_anew()

    def _open_anew(self) -> None:
        if self._env is not None:
            self._env.close()
            self._env = None
        self._open()


def _free_bytes(folder: Path) -> int:
    """What the file system has left, 0 where it does not say."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


@contextmanager
def _errors(
    folder: Path, let_pass: tuple[type[lmdb.Error], ...] = (), no_room: tuple[int, ...] = _NO_ROOM
) -> Iterator[None]:
    """LMDB's errors as the cache's."""
    try:
        yield
    except let_pass:
        raise
    except _DAMAGE as error:
        raise DamageError(f"{folder / DATA_NAME} is damaged: {error}") from error
    except lmdb.Error as error:
        if error.code in no_room:
            or_broken = " (or the disk is broken)" if error.code == _SHORT_WRITE else ""
            raise StoreFullError(
                f"no room in {folder}, which has {_free_bytes(folder)} bytes free{or_broken}: {error}"
            ) from error
        raise CacheError(f"{folder / DATA_NAME}: {error}") from error
    except OSError as error:
        raise CacheError(f"{folder / DATA_NAME}: {error.strerror or error}") from error


def _pages(stat: Mapping[str, Any]) -> int:
    pages: int = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
    return pages
