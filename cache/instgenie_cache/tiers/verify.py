"""Check every byte of a disk tier: what `instgenie doctor --cache` does."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from instgenie_cache.errors import CacheError, RecordFormatError
from instgenie_cache.records.manifest import Manifest
from instgenie_cache.records.record import RecordKey, decode_record
from instgenie_cache.tiers.broken_file import set_aside, why_marked
from instgenie_cache.tiers.disk_env import DATA_NAME, DamageError, DiskEnv
from instgenie_cache.tiers.disk_keys import filed_manifest, manifest_key, record_key, template_prefix
from instgenie_cache.tiers.disk_tier import DiskTier
from instgenie_cache.tiers.folder_lock import FolderInUseError, FolderLock
from instgenie_cache.tiers.page_check import find_page_fault


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was found in a cache folder.

    Attributes:
        in_use: a cache works on it meanwhile: then half-written templates are none of its faults, and nothing is
            repaired.
        templates: committed, broken ones included, as long as their manifest can be read.
        records: that are as they were written.
        record_bytes: of these, headers included.
        corrupt_records: whose bytes are not what was written, or cannot be found by LMDB.
        missing_records: that a manifest promises.
        surplus_records: of committed templates, that their manifests do not promise.
        broken_manifests: that cannot be read.
        half_templates: with records, but no manifest.
        broken_templates: names of those that are committed but not whole.
        file_bytes: length of the data file.
        free_bytes: pages within it that hold nothing.
        unreadable: why nothing could be checked, or None. The file's pages have to hang together for that.
        after_repair: what was found then, where what is broken was dropped, or the file set aside.
    """

    folder: Path
    in_use: bool = False
    templates: int = 0
    records: int = 0
    record_bytes: int = 0
    corrupt_records: int = 0
    missing_records: int = 0
    surplus_records: int = 0
    broken_manifests: int = 0
    half_templates: int = 0
    broken_templates: tuple[str, ...] = ()
    file_bytes: int = 0
    free_bytes: int = 0
    unreadable: str | None = None
    after_repair: VerifyReport | None = None

    @property
    def is_repaired(self) -> bool:
        """Whether what is broken was dropped after this was found."""
        return self.after_repair is not None

    @property
    def ok(self) -> bool:
        """Whether everything that is stored was found as it was written, or is dropped now."""
        half_templates = 0 if self.in_use else self.half_templates
        is_whole = not (self.unreadable or self.broken_templates or self.broken_manifests or half_templates)
        return is_whole or self.is_repaired

    @property
    def free_share(self) -> float:
        """Of the data file, 0 to 1: how fragmented it is."""
        return self.free_bytes / self.file_bytes if self.file_bytes else 0.0


@dataclass(slots=True)
class _Tally:
    """What a `VerifyReport` is made of, while it is counted."""

    records: int = 0
    record_bytes: int = 0
    corrupt_records: int = 0
    missing_records: int = 0
    surplus_records: int = 0
    broken_templates: list[str] = field(default_factory=list)


def verify_folder(folder: str | Path, repair: bool = False) -> VerifyReport:
    """Read all manifests and records of a disk tier, beside a running cache if need be.

    Nothing in the folder is changed, but that readers are counted in the lock file of LMDB where a cache is running.

    Args:
        repair: drop what is broken, unless a cache works on the folder. Where that does not help, or it cannot be done,
            the file is set aside.

    Raises:
        CacheError: there is no such tier, or it cannot be opened for a reason that is not in its bytes.
    """
    folder = Path(folder)
    if not (folder / DATA_NAME).is_file():
        raise CacheError(f"{folder} holds no cache: there is no {DATA_NAME}")
    report = _checked(folder)
    if report.ok or report.in_use or not repair:
        return report
    return replace(report, after_repair=_repair(report))


def _checked(folder: Path) -> VerifyReport:
    lock = FolderLock(folder)
    try:
        lock.share()
    except FolderInUseError:
        return _scan(folder, in_use=True)
    except CacheError as error:
        return VerifyReport(folder, unreadable=str(error))
    try:
        return _scan_alone(folder)
    finally:
        lock.release()


def _scan_alone(folder: Path) -> VerifyReport:
    """Scan what nobody works on, by LMDB only where its pages hang together."""
    why = find_page_fault(folder / DATA_NAME) or why_marked(folder)
    if why is not None:
        return VerifyReport(folder, file_bytes=_file_bytes(folder), unreadable=why)
    return _scan(folder, in_use=False)


def _scan(folder: Path, in_use: bool) -> VerifyReport:
    file_bytes = _file_bytes(folder)
    try:
        # Beside an owner the map has to be as large as the file may become meanwhile; that is address space alone.
        env = DiskEnv(folder, 2 * file_bytes + (1 << 30), read_only=True, beside_owner=in_use)
        try:
            return _scan_opened(env, in_use)
        finally:
            env.close()
    except DamageError as error:
        return VerifyReport(folder, in_use=in_use, file_bytes=file_bytes, unreadable=str(error))


def _file_bytes(folder: Path) -> int:
    try:
        return (folder / DATA_NAME).stat().st_size
    except OSError as error:
        raise CacheError(f"{folder / DATA_NAME}: {error.strerror or error}") from error


def _scan_opened(env: DiskEnv, in_use: bool) -> VerifyReport:
    manifests, broken_manifests = [], 0
    for name, value in env.stored_manifests():
        try:
            manifests.append(filed_manifest(name, value))
        except RecordFormatError:
            broken_manifests += 1
    tally = _Tally()
    for manifest in manifests:
        _scan_template(env, manifest, tally)
    committed = {name + b"\0" for name, _ in env.stored_manifests()}
    fill = env.fill()
    return VerifyReport(
        folder=env.folder,
        in_use=in_use,
        templates=len(manifests),
        records=tally.records,
        record_bytes=tally.record_bytes,
        corrupt_records=tally.corrupt_records,
        missing_records=tally.missing_records,
        surplus_records=tally.surplus_records,
        broken_manifests=broken_manifests,
        half_templates=sum(prefix not in committed for prefix in env.stored_prefixes()),
        broken_templates=tuple(tally.broken_templates),
        file_bytes=fill.file_bytes,
        free_bytes=fill.free_bytes,
    )


def _scan_template(env: DiskEnv, manifest: Manifest, tally: _Tally) -> None:
    template, size = manifest.template, manifest.size
    found = corrupt = surplus = 0
    for step in range(size.steps):
        for block in range(size.blocks):
            key = RecordKey(template, step, block)
            try:
                is_there = _verify_record(env, key, size.stored_record_bytes)
            except RecordFormatError:
                found += 1
                corrupt += 1
            else:
                found += is_there
                tally.records += is_there
                tally.record_bytes += size.stored_record_bytes if is_there else 0
    with env.read() as txn:
        if txn.get(manifest_key(template), db=env.manifests) is None:
            return  # its owner dropped it meanwhile: nothing is missing
    try:
        surplus = max(0, _count_records(env, template) - found)
    except DamageError:
        corrupt = max(corrupt, 1)
    tally.corrupt_records += corrupt
    tally.missing_records += size.records - found
    tally.surplus_records += surplus
    if corrupt or surplus or found < size.records:
        tally.broken_templates.append(template)


def _verify_record(env: DiskEnv, key: RecordKey, stored_bytes: int) -> bool:
    """False where it is missing. In a transaction of its own, so that an owner can use freed pages again."""
    with env.read() as txn:
        value = txn.get(record_key(key), db=env.records)
        if value is None:
            return False
        if value.nbytes != stored_bytes:
            raise RecordFormatError(f"{key}: {value.nbytes} bytes")
        decode_record(value, key)
        return True


def _count_records(env: DiskEnv, template: str) -> int:
    prefix = template_prefix(template)
    with env.read() as txn:
        cursor = txn.cursor(db=env.records)
        found = cursor.set_range(prefix)
        count = 0
        while found and bytes(cursor.key()).startswith(prefix):
            count += 1
            found = cursor.next()
        return count


def _repair(report: VerifyReport) -> VerifyReport:
    """Drop what is broken; what is still not whole then is set aside. Returns what is there then."""
    # Opening drops half-written templates and broken manifests, and sets a file aside whose pages are in disorder.
    tier = DiskTier.open(report.folder, budget_bytes=0)
    try:
        for template in report.broken_templates:
            tier.delete(template)
    finally:
        tier.close()
    lock = FolderLock(report.folder)
    lock.take()
    try:
        left = _scan_alone(report.folder)
        if left.ok:
            return left
        set_aside(report.folder, "it is not whole after a repair either")
    finally:
        lock.release()
    DiskTier.open(report.folder, budget_bytes=0).close()  # empty
    return _checked(report.folder)
