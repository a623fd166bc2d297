"""Activation cache: keys, records and the stores that hold them. Knows bytes, not models."""

from instgenie_cache.errors import CacheError, ChecksumError, RecordFormatError, StoreFullError
from instgenie_cache.keys import RecordKey, content_digest, template_key
from instgenie_cache.memory_store import MemoryStore
from instgenie_cache.record import Record, decode_record, encode_record
from instgenie_cache.store import RecordStore, StoreStats

__all__ = [
    "CacheError",
    "ChecksumError",
    "MemoryStore",
    "Record",
    "RecordFormatError",
    "RecordKey",
    "RecordStore",
    "StoreFullError",
    "StoreStats",
    "content_digest",
    "decode_record",
    "encode_record",
    "template_key",
]
