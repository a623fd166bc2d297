"""The file of API keys. It is replaced in one rename, so that readers see all of a change or none."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from instgenie_server.access.keys import ScryptCost, StoredKey, make_key
from instgenie_server.operator_error import KeyFileError

FILE_NAME = "keys.json"
VERSION = 1

Stamp = tuple[int, int, int]


class KeyFile:
    """Keys by id. Every method reads or writes the file: not for an event loop.

    All methods raise KeyFileError where the file cannot be read, written or understood.
    """

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir / FILE_NAME

    def read(self) -> dict[str, StoredKey]:
        """All keys, oldest first; none where there is no file."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError) as error:
            raise self._error("read", error) from error
        try:
            return _parse(json.loads(text))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise KeyFileError(f"{self.path} is not a file of keys: {type(error).__name__}: {error}") from error

    def stamp(self) -> Stamp | None:
        """Changes whenever the file does; None where there is no file."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._error("read", error) from error
        return status.st_ino, status.st_mtime_ns, status.st_size

    def add(self, tenant: str, now: datetime, cost: ScryptCost | None = None) -> tuple[str, StoredKey]:
        """Make a key and store it; returns it in full, which is not kept anywhere, and as stored.

        Raises:
            ValueError: not a name for a tenant.
        """
        with self._locked():
            keys = self.read()
            text, key = make_key(tenant, now, keys, cost)
            self._write({**keys, key.id: key})
        return text, key

    def revoke(self, key_id: str) -> StoredKey | None:
        """Forget a key; None if there was none of that id."""
        with self._locked():
            keys = self.read()
            key = keys.pop(key_id, None)
            if key is not None:
                self._write(keys)
        return key

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Two commands at the same time would lose one's change."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self.path.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise self._error("written", error) from error

    def _write(self, keys: Mapping[str, StoredKey]) -> None:
        text = json.dumps({"version": VERSION, "keys": [_plain(key) for key in keys.values()]}, indent=1)
        descriptor, name = tempfile.mkstemp(prefix=".keys-", dir=self.path.parent)  # of mode 0600
        partial = Path(name)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self.path)
        finally:
            partial.unlink(missing_ok=True)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _error(self, action: str, error: Exception) -> KeyFileError:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        return KeyFileError(f"{self.path} cannot be {action}: {reason}")


def _plain(key: StoredKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "tenant": key.tenant,
        "created_at": key.created_at.isoformat(timespec="seconds"),
        "scrypt": asdict(key.cost),
        "salt": key.salt.hex(),
        "hash": key.hash.hex(),
    }


def _parse(data: Any) -> dict[str, StoredKey]:
    if data["version"] != VERSION:
        raise ValueError(f"its version is {data['version']!r}, but this program knows {VERSION}")
    keys = [
        StoredKey(
            entry["id"],
            entry["tenant"],
            datetime.fromisoformat(entry["created_at"]),
            ScryptCost(**entry["scrypt"]),
            bytes.fromhex(entry["salt"]),
            bytes.fromhex(entry["hash"]),
        )
        for entry in data["keys"]
    ]
    return {key.id: key for key in keys}
