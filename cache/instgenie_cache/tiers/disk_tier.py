"""Templates on a disk of this machine, in LMDB.

What a power cut can cost, by `SyncPolicy`; a process that is killed costs half-written templates and nothing else:

    commit    half-written templates. A template whose `commit` returned is on the disk.
    interval  all that was written since the owner last called `sync`, and since LMDB's pages may have reached the disk
              in any order, everything, if anything at all was written since then.
    never     everything, unless the tier was closed: the kernel writes when it likes.

Nothing wrong is read in any of these: every record is verified, and a file that was being written without syncing
when the machine went down is set aside at the next start. So is one whose pages do not hang together, as the start
itself finds out, or a change of it before.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Self, TypeAlias

from instgenie_cache.errors import CacheError, IncompleteTemplateError, RecordFormatError, StoreFullError
from instgenie_cache.records.manifest import Manifest, encode_manifest
from instgenie_cache.records.record import RecordKey, decode_record
from instgenie_cache.records.slab import Slab
from instgenie_cache.records.template_size import TemplateSize
from instgenie_cache.tiers.ballast import Ballast
from instgenie_cache.tiers.broken_file import mark_broken, set_aside, why_marked
from instgenie_cache.tiers.disk_env import DATA_NAME, DamageError, DiskEnv, DiskFill, Transaction
from instgenie_cache.tiers.disk_keys import filed_manifest, manifest_key, record_key, template_prefix
from instgenie_cache.tiers.folder_lock import FolderLock
from instgenie_cache.tiers.page_check import find_page_fault
from instgenie_cache.tiers.tier import TierName
from instgenie_cache.tiers.unsynced import UnsyncedMark

SyncPolicy: TypeAlias = Literal["commit", "interval", "never"]

# Synced transactions of 48 MB ran as fast as a plain file with an fsync each 64 MB (680 MB/s), those of 12 MB at half
# of that and of 1 MB at a third. LMDB holds a transaction's pages in memory, so not more either.
_BATCH_BYTES = 48 << 20
_DELETE_BATCH_RECORDS = 1024
_FRUGAL_BATCH_RECORDS = 16  # where room is short: the fewer, the fewer pages are written before those are free
_PAGE_BYTES = 4096
_NODE_BYTES = 160  # of a record's key and LMDB's own words, generously

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Draft:
    """A template that is being written."""

    size: TemplateSize
    steps: set[int] = field(default_factory=set)

    def goes_with(self, size: TemplateSize) -> bool:
        """Whether its records can be those of a template of that size, which may have fewer steps."""
        return replace(size, steps=self.size.steps) == self.size


class DiskTier:
    """A `ColdTier` in a folder of its own, which one owner at a time has open.

    The budget is the owner's to keep, by `delete`; a write beyond it is refused. The file may grow by an eighth and
    64 MiB more: LMDB wants the pages of a record to be adjacent, so where lengths differ free pages are not all of
    use, and those freed by a deletion are used again only after the next transaction. Beside it 2 MiB are set aside,
    where there is room, for deletions on a disk that is full.
    """

    def __init__(
        self, folder: Path, lock: FolderLock, env: DiskEnv, budget_bytes: int, unsynced: UnsyncedMark | None
    ) -> None:
        """Use `open`."""
        self.folder, self._budget_bytes = folder, budget_bytes
        self._lock, self._env, self._unsynced = lock, env, unsynced
        self._committed: dict[str, Manifest] = {}
        self._drafts: dict[str, _Draft] = {}
        self._ballast = Ballast(folder)
        self._used_bytes = 0
        self._is_closed = False
        self._is_broken = False
        self.broken_manifests = 0  # that were dropped when it was opened
        self._writing = threading.RLock()  # held by who changes the books or the file; readers do without

    @classmethod
    def open(cls, folder: str | Path, budget_bytes: int, sync: SyncPolicy = "commit") -> Self:
        """Open the tier, or make one. Half-written templates are dropped, and so are those with a broken manifest.

        A file that was cut, or whose pages are in disorder, is renamed to `data.mdb.broken-<time>`, and the tier starts
        empty.

        Raises:
            CacheError: the folder has an owner, or cannot be used.
        """
        folder = Path(folder)
        lock = FolderLock(folder)
        lock.take()
        try:
            unsynced = UnsyncedMark(folder)
            if unsynced.is_from_before_a_restart():
                set_aside(folder, "the machine went down while it was written without syncing")
                unsynced.clear()
            why = why_marked(folder) or _fault(folder)
            if why is not None:
                set_aside(folder, why)
            try:
                return cls._load(folder, lock, budget_bytes, sync, unsynced)
            except DamageError as error:
                set_aside(folder, str(error))
            return cls._load(folder, lock, budget_bytes, sync, unsynced)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def _load(cls, folder: Path, lock: FolderLock, budget_bytes: int, sync: SyncPolicy, unsynced: UnsyncedMark) -> Self:
        env = DiskEnv(folder, budget_bytes + budget_bytes // 8 + (64 << 20), synced=sync == "commit")
        tier = cls(folder, lock, env, budget_bytes, None if sync == "commit" else unsynced)
        try:
            try:
                tier._read_manifests()
                tier.sweep()
            except StoreFullError as error:  # what should go is not found by readers, and can be read over
                _log.warning("what is half-written in %s stays until the next sweep: %s", folder, error)
            if unsynced.is_set:  # by an owner that was killed: the kernel may still have what it wrote
                env.sync()
                unsynced.clear()
            tier._ballast.restore()
        except BaseException:
            env.close()
            raise
        return tier

    @property
    def name(self) -> TierName:
        """See `ColdTier`."""
        return "disk"

    @property
    def is_shared(self) -> bool:
        """See `ColdTier`."""
        return False

    @property
    def budget_bytes(self) -> int:
        """See `ColdTier`."""
        return self._budget_bytes

    @property
    def used_bytes(self) -> int:
        """See `ColdTier`."""
        return self._used_bytes

    @property
    def fault(self) -> str | None:
        """See `ColdTier`."""
        if not self._is_broken:
            return None
        return f"{self.folder}: its data file is broken, and the next start sets it aside"

    def footprint_bytes(self, size: TemplateSize, note_bytes: int = 0) -> int:
        """See `ColdTier`. On the disk it is no more, free pages aside."""
        return size.steps * _step_disk_bytes(size) + _note_disk_bytes(note_bytes)

    def fill(self) -> DiskFill:
        """How full the file is, for metrics."""
        return self._env.fill()

    def manifests(self) -> Iterable[Manifest]:
        """See `ColdTier`."""
        return tuple(self._committed.values())

    def manifest(self, template: str) -> Manifest | None:
        """See `ColdTier`."""
        return self._committed.get(template)

    def write_steps(
        self,
        template: str,
        size: TemplateSize,
        steps: Sequence[tuple[int, Slab]],
        writing: str = "",  # noqa: ARG002 - nobody else writes here
    ) -> None:
        """See `ColdTier`. Several small steps at once are faster than one by one."""
        wanted_bytes = len(steps) * _step_disk_bytes(size)
        with self._writing:
            self._check_lasting()
            if template in self._committed:
                raise CacheError(f"{template} is committed: it has to be deleted before it is written anew")
            if template not in self._drafts and self._env.has(template_prefix(template)):
                self.delete(template)  # what a deletion that failed has left
            draft = self._drafts.setdefault(template, _Draft(size))
            try:
                for step, _ in steps:
                    if not draft.goes_with(size) or not 0 <= step < size.steps or step in draft.steps:
                        raise CacheError(f"step {step} of {size} does not go with what was written of {template}")
                if self._used_bytes + wanted_bytes > self._budget_bytes:
                    raise StoreFullError(
                        f"{len(steps)} steps of {template} in {wanted_bytes} bytes do not fit: {self._used_bytes} of "
                        f"{self._budget_bytes} bytes in {self.folder} are used"
                    )
                draft.steps.update(step for step, _ in steps)
                self._used_bytes += wanted_bytes
                self._write_records(template, size, steps)
            except CacheError:
                self._abandon(template)
                raise

    def commit(self, manifest: Manifest) -> None:
        """See `ColdTier`.

        Raises:
            IncompleteTemplateError: steps are missing; what was written is dropped.
        """
        template, size, note_bytes = manifest.template, manifest.size, _note_disk_bytes(len(manifest.note))
        with self._writing:
            if template in self._committed:
                raise CacheError(f"{template} is committed already")
            draft = self._drafts.get(template, _Draft(size))
            try:
                self._check_lasting()
                if not draft.goes_with(size) or draft.steps != set(range(size.steps)):
                    raise IncompleteTemplateError(f"{template}: {len(draft.steps)} of {size.steps} steps were written")
                if self._used_bytes + note_bytes > self._budget_bytes:
                    raise StoreFullError(
                        f"a note of {template} in {note_bytes} bytes does not fit: {self._used_bytes} of "
                        f"{self._budget_bytes} bytes in {self.folder} are used"
                    )
                self._change(
                    lambda txn: txn.put(manifest_key(template), encode_manifest(manifest), db=self._env.manifests)
                )
            except CacheError:
                self._abandon(template)
                raise
            self._drafts.pop(template, None)
            self._committed[template] = manifest
            self._used_bytes += note_bytes

    def read_step(
        self,
        template: str,
        size: TemplateSize,
        step: int,
        slab: Slab,
        blocks: range | None = None,
        writing: str = "",  # noqa: ARG002 - there is one
    ) -> bool:
        """See `ColdTier`. Records are verified where they were copied to.

        Raises:
            DamageError: a `RecordFormatError`: LMDB cannot find its pages.
        """
        with self._env.read() as txn:
            for place, block in enumerate(blocks or range(size.blocks)):
                key = RecordKey(template, step, block)
                found = txn.get(record_key(key), db=self._env.records)
                if found is None:
                    return False
                if found.nbytes != size.stored_record_bytes:
                    raise RecordFormatError(f"{key}: {found.nbytes} bytes, expected {size.stored_record_bytes}")
                slab.write(size.offset(place), found)
                decode_record(slab.read(size.offset(place), found.nbytes), key)
        return True

    def delete(self, template: str) -> None:
        """See `ColdTier`. It drops what is being written as well.

        After an error it can be called again, for what is left. What LMDB cannot delete because its pages are damaged
        is as good as gone: the next start sets the file aside.
        """
        prefix = template_prefix(template)
        with self._writing:
            try:
                if self._env.has(prefix):
                    self._delete_manifest(prefix)
                    self._forget(template)
                    self._delete_records(prefix)
            except DamageError as error:
                self._mark_broken(error)
            self._forget(template)
            self._ballast.restore()

    def sweep(self, should_stop: Callable[[], bool] = lambda: False) -> int:
        """See `ColdTier`."""
        swept = 0
        with self._writing:
            known = {template_prefix(template) for template in (*self._committed, *self._drafts)}
            for prefix in self._env.stored_prefixes():
                if should_stop():
                    break
                if prefix not in known:
                    swept += self._delete_records(prefix)
        return swept

    def sync(self) -> None:
        """Bring everything to the disk that was committed before; of use where the policy is not `commit`."""
        if self._unsynced is not None:
            with self._writing:  # so that no write is under way that began before the count and ends after the sync
                written = self._unsynced.count
            self._env.sync()
            with self._writing:
                if self._unsynced.count == written:
                    self._unsynced.clear()

    def close(self) -> None:
        """See `ColdTier`. What was committed is synced whatever the policy; the next start drops what was not."""
        with self._writing:
            if self._is_closed:
                return
            self._is_closed = True
            try:
                self.sync()
            finally:
                self._env.close()
                self._lock.release()

    def _change(self, change: Callable[[Transaction], object], *, is_deletion: bool = False) -> None:
        """Change the file. A deletion for which there is no room on the disk takes that of the ballast."""
        try:
            try:
                self._mark_and_write(change, is_deletion)
            except StoreFullError:
                if not (is_deletion and self._ballast.drop()):
                    raise
                self._mark_and_write(change, is_deletion)
        except DamageError as error:
            self._mark_broken(error)
            raise

    def _mark_broken(self, error: DamageError) -> None:
        self._is_broken = True
        mark_broken(self.folder, str(error))

    def _check_lasting(self) -> None:
        """Refuse what the next start would throw away."""
        if self.fault is not None:
            raise CacheError(self.fault)

    def _mark_and_write(self, change: Callable[[Transaction], object], is_deletion: bool) -> None:
        if self._unsynced is not None:
            self._unsynced.set()
        self._env.write(change, is_deletion=is_deletion)

    def _write_records(self, template: str, size: TemplateSize, steps: Sequence[tuple[int, Slab]]) -> None:
        """Write steps in transactions of about `_BATCH_BYTES`."""
        records = [(step, block, slab) for step, slab in steps for block in range(size.blocks)]
        batch = max(1, _BATCH_BYTES // size.stride_bytes)
        for start in range(0, len(records), batch):
            chosen = records[start : start + batch]

            def change(txn: Transaction, chosen: list[tuple[int, int, Slab]] = chosen) -> None:
                for step, block, slab in chosen:
                    stored = slab.read(size.offset(block), size.stored_record_bytes)
                    txn.put(record_key(RecordKey(template, step, block)), stored, db=self._env.records)

            self._change(change)

    def _abandon(self, template: str) -> None:
        """Drop a template after an error, which is what the caller is told of."""
        try:
            self.delete(template)
        except CacheError as error:
            _log.warning("records of %s stay until the next sweep: %s", template, error)

    def _forget(self, template: str) -> None:
        """Strike a template off the books."""
        manifest, draft = self._committed.pop(template, None), self._drafts.pop(template, None)
        if manifest is not None:
            self._used_bytes -= self.footprint_bytes(manifest.size, len(manifest.note))
        if draft is not None:
            self._used_bytes -= len(draft.steps) * _step_disk_bytes(draft.size)

    def _delete_manifest(self, prefix: bytes) -> None:
        self._change(lambda txn: txn.delete(prefix[:-1], db=self._env.manifests), is_deletion=True)

    def _delete_records(self, prefix: bytes) -> int:
        """Drop the records of a template, in several transactions; how many."""
        deleted, batch = 0, _DELETE_BATCH_RECORDS
        while True:
            try:
                count = self._delete_some(prefix, batch)
            except StoreFullError:
                if batch == _FRUGAL_BATCH_RECORDS:
                    raise
                batch = _FRUGAL_BATCH_RECORDS
                continue
            deleted += count
            if count < batch:
                return deleted

    def _delete_some(self, prefix: bytes, most: int) -> int:
        count = 0

        def change(txn: Transaction) -> None:
            nonlocal count
            count = 0
            # Not Cursor.delete: where the page of the record behind is damaged it raises SystemError. Nor value(): it
            # would read the record from the disk.
            cursor = txn.cursor(db=self._env.records)
            while count < most and cursor.set_range(prefix):
                key = bytes(cursor.key())
                if not key.startswith(prefix):
                    break
                if not txn.delete(key, db=self._env.records):
                    raise DamageError(f"{self.folder}: LMDB has a record, but does not find it: {key!r}")
                count += 1

        self._change(change, is_deletion=True)
        return count

    def _read_manifests(self) -> None:
        """Learn what is committed, and drop manifests that are broken."""
        broken: list[bytes] = []
        for name, value in self._env.stored_manifests():
            try:
                manifest = filed_manifest(name, value)
            except RecordFormatError as error:
                _log.error("%s: manifest %r is dropped with its records: %s", self.folder, name, error)
                broken.append(name)
            else:
                self._committed[manifest.template] = manifest
                self._used_bytes += self.footprint_bytes(manifest.size, len(manifest.note))
        self.broken_manifests = len(broken)
        if broken:
            self._change(lambda txn: [txn.delete(name, db=self._env.manifests) for name in broken], is_deletion=True)


def _fault(folder: Path) -> str | None:
    data = folder / DATA_NAME
    return find_page_fault(data, thorough=False) if data.exists() else None


def _note_disk_bytes(note_bytes: int) -> int:
    """Pages of a manifest that its note makes long, at most."""
    return -(-note_bytes // _PAGE_BYTES) * _PAGE_BYTES + _PAGE_BYTES if note_bytes else 0


def _step_disk_bytes(size: TemplateSize) -> int:
    """Pages of a step at most. Long records have their own; short ones share pages, which splits leave half full."""
    in_leaf_bytes = size.stored_record_bytes + _NODE_BYTES
    if in_leaf_bytes > _PAGE_BYTES // 2:
        return size.blocks * (-(-in_leaf_bytes // _PAGE_BYTES) * _PAGE_BYTES + _NODE_BYTES)
    per_page = max(1, _PAGE_BYTES // in_leaf_bytes // 2)
    return size.blocks * (_PAGE_BYTES // per_page + _NODE_BYTES)
