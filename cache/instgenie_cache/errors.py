"""Errors of the activation cache.

CacheError
 +- RecordFormatError   the bytes are no record, or one of another version
 |   +- ChecksumError   the record's payload is not what was written
 +- StoreFullError      a put was refused: the byte budget is used up

A record that is not there is no error: reads return None.
"""


class CacheError(Exception):
    """Any failure of the cache. It never fails an edit: the caller computes instead."""


class RecordFormatError(CacheError):
    """Bytes that this version does not read as a record."""


class ChecksumError(RecordFormatError):
    """A payload that differs from what was written."""


class StoreFullError(CacheError):
    """A put that does not fit the byte budget."""
