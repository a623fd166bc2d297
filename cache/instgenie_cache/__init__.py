"""Activation cache: keys, records and the stores that hold them. Knows bytes, not models."""

from instgenie_cache.errors import (
    CacheError,
    ChecksumError,
    IncompleteTemplateError,
    RecordFormatError,
    StoreFullError,
)
from instgenie_cache.keys import content_digest, template_key
from instgenie_cache.memory_store import MemoryStore
from instgenie_cache.record import FORMAT_VERSION, Record, decode_record, encode_record
from instgenie_cache.store import RecordStore, StoreStats, TemplateLease, TemplateSize, TemplateWriter

__all__ = [
    "FORMAT_VERSION",
    "CacheError",
    "ChecksumError",
    "IncompleteTemplateError",
    "MemoryStore",
    "Record",
    "RecordFormatError",
    "RecordStore",
    "StoreFullError",
    "StoreStats",
    "TemplateLease",
    "TemplateSize",
    "TemplateWriter",
    "content_digest",
    "decode_record",
    "encode_record",
    "template_key",
]
