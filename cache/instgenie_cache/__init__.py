"""Activation cache: keys, records and the stores that hold them. Knows bytes, not models."""

from instgenie_cache.errors import (
    BeingWrittenError,
    CacheError,
    ChecksumError,
    IncompleteTemplateError,
    ProtocolError,
    RecordFormatError,
    ServiceError,
    StoreFullError,
)
from instgenie_cache.keys import content_digest, template_key
from instgenie_cache.names import template_name
from instgenie_cache.records.record import FORMAT_VERSION, Record, RecordKey, decode_record, encode_record
from instgenie_cache.records.template_size import TemplateSize
from instgenie_cache.stores.memory_store import MemoryStore
from instgenie_cache.stores.store import RecordStore, StoreStats, TemplateLease, TemplateWriter
from instgenie_cache.tiers.tier import TierName

__all__ = [
    "FORMAT_VERSION",
    "BeingWrittenError",
    "CacheError",
    "ChecksumError",
    "IncompleteTemplateError",
    "MemoryStore",
    "ProtocolError",
    "Record",
    "RecordFormatError",
    "RecordKey",
    "RecordStore",
    "ServiceError",
    "StoreFullError",
    "StoreStats",
    "TemplateLease",
    "TemplateSize",
    "TemplateWriter",
    "TierName",
    "content_digest",
    "decode_record",
    "encode_record",
    "template_key",
    "template_name",
]
