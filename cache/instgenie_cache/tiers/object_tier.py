"""Templates in an object store, which several machines may share.

A step is one object, its records where `TemplateSize` puts them and zeros between. Names of templates hold no `=`, so
that no object of theirs can be in the way of another template:

    <template>/=<writing>=<step>
    <template>/=manifest            written last

Machines that write one template at a time do not meet: steps are those of a writing, and the last manifest counts.

An object that is there is whole, so there are no half-written ones; multi-part uploads are obstore's business.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import unquote, urlsplit

from instgenie_cache.errors import CacheError, RecordFormatError, StoreFullError
from instgenie_cache.names import is_template_name
from instgenie_cache.records.manifest import MAX_NOTE_BYTES, Manifest, decode_manifest, encode_manifest
from instgenie_cache.records.record import RecordKey, decode_record
from instgenie_cache.records.slab import Slab
from instgenie_cache.records.template_size import TemplateSize
from instgenie_cache.tiers.tier import TierName

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_MANIFEST = "=manifest"
_MAX_MANIFEST_BYTES = 1024 + MAX_NOTE_BYTES
# Others write to the store as well: what is larger is a fault of theirs, and none of ours to make room for.
_MAX_STEPS = _MAX_BLOCKS = 1_000_000
_MAX_RECORD_BYTES = 1 << 32
_MAX_STEP_BYTES = 1 << 36
_ABANDONED = timedelta(days=1)  # after which a template without manifest is nobody's: others write here as well

_log = logging.getLogger(__name__)


class ObjectTier:
    """A `ColdTier` in an object store. It has no budget: what is dropped there, and when, is the store's to say."""

    def __init__(self, store: ObjectStore, abandoned: timedelta = _ABANDONED) -> None:
        """Args:
        abandoned: the age from which `sweep` drops what has no manifest.
        """
        self._store: ObjectStore | None = store
        self._abandoned = abandoned

    @classmethod
    def open(cls, url: str, *, retries: int = 3) -> Self:
        """Open a store by URL, as `s3://bucket/prefix` or `file:///folder`; credentials come from the environment.

        Args:
            retries: of a request that failed for a reason which may pass.

        Raises:
            CacheError: obstore is not installed, or does not take the URL.
        """
        try:
            from obstore.store import from_url
        except ImportError as error:
            raise CacheError("an object store needs obstore: pip install -e '.[object]' in the repository") from error
        with _errors(url):
            parts = urlsplit(url)
            if parts.scheme == "file":
                Path(unquote(parts.path)).mkdir(mode=0o700, parents=True, exist_ok=True)
                return cls(from_url(url))
            return cls(from_url(url, retry_config={"max_retries": retries}))

    @property
    def name(self) -> TierName:
        """See `ColdTier`."""
        return "object"

    @property
    def is_shared(self) -> bool:
        """See `ColdTier`."""
        return True

    @property
    def budget_bytes(self) -> None:
        """See `ColdTier`."""
        return None

    @property
    def used_bytes(self) -> int:
        """See `ColdTier`."""
        return 0

    @property
    def fault(self) -> None:
        """See `ColdTier`. There is no start at which anything would be thrown away."""
        return None

    def footprint_bytes(self, size: TemplateSize, note_bytes: int = 0) -> int:
        """See `ColdTier`."""
        return size.stored_bytes + note_bytes

    def manifests(self) -> Iterable[Manifest]:
        """See `ColdTier`. One that is broken is left out."""
        found = []
        for path, _ in self._list():
            template, _, name = path.rpartition("/")
            if name == _MANIFEST:
                try:
                    manifest = self.manifest(template)
                except RecordFormatError as error:
                    _log.error("%s is left out: %s", path, error)
                    continue
                if manifest is not None:
                    found.append(manifest)
        return found

    def manifest(self, template: str) -> Manifest | None:
        """See `ColdTier`.

        Raises:
            RecordFormatError: it is broken, or of an absurd size.
        """
        data = self._get(_path(template, _MANIFEST), _MAX_MANIFEST_BYTES)
        if data is None:
            return None
        manifest = decode_manifest(data)
        _check_size(manifest)
        if manifest.template != template:
            raise RecordFormatError(f"the manifest of {manifest.template} is filed under {template}")
        return manifest

    def write_steps(
        self, template: str, size: TemplateSize, steps: Sequence[tuple[int, Slab]], writing: str = ""
    ) -> None:
        """See `ColdTier`. What was written before an error stays until it is swept."""
        for step, slab in steps:
            self._write_step(_step_path(template, writing, step), size, slab)

    def _write_step(self, path: str, size: TemplateSize, slab: Slab) -> None:
        gap = bytes(size.stride_bytes - size.stored_record_bytes)

        def parts() -> Iterator[bytes | memoryview]:
            # Between the records of a slab there may be anything, another tenant's bytes among it.
            for block in range(size.blocks):
                yield slab.read(size.offset(block), size.stored_record_bytes)
                if gap:
                    yield gap

        self._put(path, parts())

    def commit(self, manifest: Manifest) -> None:
        """See `ColdTier`."""
        self._put(_path(manifest.template, _MANIFEST), encode_manifest(manifest))

    def read_step(
        self,
        template: str,
        size: TemplateSize,
        step: int,
        slab: Slab,
        blocks: range | None = None,
        writing: str = "",
    ) -> bool:
        """See `ColdTier`."""
        path = _step_path(template, writing, step)
        if blocks is None:
            blocks = range(size.blocks)
            data = self._get(path, size.step_bytes)
        else:
            data = self._get_part(path, size.offset(blocks.start), size.offset(blocks.stop), size.step_bytes)
        if data is None:
            return False
        if data.nbytes != size.offset(len(blocks)):
            raise RecordFormatError(
                f"{template}, step {step}: {data.nbytes} bytes, expected {size.offset(len(blocks))}"
            )
        for place, block in enumerate(blocks):
            offset = size.offset(place)
            record = data[offset : offset + size.stored_record_bytes]
            decode_record(record, RecordKey(template, step, block))
            slab.write(offset, record)
        return True

    def delete(self, template: str) -> None:
        """See `ColdTier`."""
        manifest = _path(template, _MANIFEST)
        self._delete(manifest)
        for path, _ in self._list(template):
            if path.rpartition("/")[0] == template:
                self._delete(path)

    def sweep(self, should_stop: Callable[[], bool] = lambda: False) -> int:
        """See `ColdTier`. Counts objects. Only writings of which nothing is new go: another machine may be at them."""
        oldest = datetime.now(UTC) - self._abandoned
        writings: dict[tuple[str, str], list[tuple[str, datetime]]] = {}
        for path, modified in self._list():
            template, _, name = path.rpartition("/")
            if name.startswith("=") and name != _MANIFEST:
                writings.setdefault((template, name.rpartition("=")[0]), []).append((path, modified))
        swept = 0
        for (template, writing), objects in writings.items():
            if should_stop():
                break
            if max(modified for _, modified in objects) > oldest or self._is_committed(template, writing):
                continue
            for path, _ in objects:
                self._delete(path)
                swept += 1
        return swept

    def _is_committed(self, template: str, writing: str) -> bool:
        try:
            manifest = self.manifest(template)
        except RecordFormatError:
            return True  # whose steps they are cannot be told
        return manifest is not None and writing == f"={manifest.writing}"

    def close(self) -> None:
        """See `ColdTier`."""
        self._store = None

    def _opened(self) -> ObjectStore:
        if self._store is None:
            raise CacheError("the object tier is closed")
        return self._store

    def _length(self, path: str) -> int | None:
        """Bytes of an object, None where it is not there."""
        store = self._opened()
        try:
            with _errors(path):
                return store.head(path)["size"]
        except _MissingError:
            return None

    def _get(self, path: str, max_bytes: int) -> memoryview | None:
        """An object, None where it is not there.

        Raises:
            RecordFormatError: it is longer than that; then it is not read.
        """
        store = self._opened()
        try:
            with _errors(path):
                found = store.get(path)
                if found.meta["size"] > max_bytes:
                    raise RecordFormatError(f"{path}: {found.meta['size']} bytes, expected {max_bytes} at most")
                return memoryview(found.bytes())
        except _MissingError:
            return None

    def _get_part(self, path: str, begin: int, end: int, whole_bytes: int) -> memoryview | None:
        """Bytes begin..end of an object, None where it is not there.

        Raises:
            RecordFormatError: the object is of another length than `whole_bytes`.
        """
        store = self._opened()
        try:
            with _errors(path):
                found = store.get(path, options={"range": (begin, end)})
                found_bytes: int | None = found.meta["size"]
                if found_bytes == whole_bytes:
                    return memoryview(found.bytes())
        except _MissingError:
            return None
        except CacheError:  # as for a part that begins beyond the object's end
            found_bytes = self._length(path)
            if found_bytes == whole_bytes:
                raise
        if found_bytes is None:
            return None
        raise RecordFormatError(f"{path}: {found_bytes} bytes, expected {whole_bytes}")

    def _put(self, path: str, data: bytes | Iterator[bytes | memoryview]) -> None:
        store = self._opened()
        with _errors(path):
            store.put(path, data)

    def _delete(self, path: str) -> None:
        store = self._opened()
        try:
            with _errors(path):
                store.delete(path)
        except _MissingError:
            return

    def _list(self, template: str | None = None) -> Iterator[tuple[str, datetime]]:
        store = self._opened()
        with _errors(template or "the list of templates"):
            for batch in store.list(template):
                for found in batch:
                    yield found["path"], found["last_modified"]


class _MissingError(CacheError):
    """There is no such object."""


@contextmanager
def _errors(what: str) -> Iterator[None]:
    """obstore's errors as the cache's."""
    from obstore.exceptions import BaseError

    try:
        yield
    except FileNotFoundError as error:
        raise _MissingError(f"{what} is not in the object store") from error
    except (BaseError, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        if "os error 28" in reason or "os error 122" in reason:
            raise StoreFullError(f"{what}: no room in the object store: {reason}") from error
        raise CacheError(f"{what}: {reason}") from error


def _check_size(manifest: Manifest) -> None:
    """Refuse sizes that no template has: room is made for a step before it is read."""
    size = manifest.size
    if not (
        1 <= size.steps <= _MAX_STEPS
        and 1 <= size.blocks <= _MAX_BLOCKS
        and size.record_bytes <= _MAX_RECORD_BYTES
        and size.step_bytes <= _MAX_STEP_BYTES
    ):
        raise RecordFormatError(
            f"{manifest.template}: {size} is absurd: at most {_MAX_STEPS} steps, {_MAX_BLOCKS} blocks, "
            f"{_MAX_RECORD_BYTES} bytes a record and {_MAX_STEP_BYTES} a step are read"
        )


def _step_path(template: str, writing: str, step: int) -> str:
    return _path(template, f"={writing}={step}")


def _path(template: str, name: str) -> str:
    """Where an object of a template is.

    Raises:
        CacheError: the template's name cannot be a path.
    """
    if not is_template_name(template) or {".", ".."} & set(template.split("/")):
        raise CacheError(f"{template!r} cannot be the name of a template in an object store")
    return f"{template}/{name}"
