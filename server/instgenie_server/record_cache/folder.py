"""Environment variables of the record folder, which commands read without the settings: free of the server extra."""

from __future__ import annotations

FOLDER_VARIABLE = "INSTGENIE_CACHE__FOLDER"
DISK_BYTES_VARIABLE = "INSTGENIE_CACHE__DISK_BYTES"
