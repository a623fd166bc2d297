"""Importing Ray gives every log line of this process a field of its own: not those of other tests."""

from __future__ import annotations

import logging
from importlib.util import find_spec

if find_spec("ray") is not None:
    import ray  # noqa: F401

    logging.setLogRecordFactory(logging.LogRecord)
