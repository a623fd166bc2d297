"""Errors of the activation cache.

CacheError
 +- RecordFormatError          the bytes are no record, or one of another version or kind
 |   +- ChecksumError          the record's payload is not what was written
 +- StoreFullError             a write was refused: the byte budget is used up
 +- IncompleteTemplateError    a commit was refused: announced records are not there

A record that is not there is no error: reads return None.
"""


class CacheError(Exception):
    """Any failure of the cache. It never fails an edit: the caller computes instead."""


class RecordFormatError(CacheError):
    """Bytes that this version does not read as a record."""


class ChecksumError(RecordFormatError):
    """A payload that differs from what was written."""


class StoreFullError(CacheError):
    """A template or record that does not fit the byte budget."""


class IncompleteTemplateError(CacheError):
    """A template that lacks records."""
