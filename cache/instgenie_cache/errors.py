"""Errors of the activation cache.

CacheError
 +- RecordFormatError          the bytes are no record, or one of another version or kind
 |   +- ChecksumError          the record's payload is not what was written
 +- StoreFullError             a write was refused: the byte budget is used up
 +- BeingWrittenError          a write was refused: somebody else is writing the template
 +- IncompleteTemplateError    a commit was refused: announced records are not there
 +- ServiceError               the cache service did not answer, or not as agreed
     +- ProtocolError          one of the two said what the protocol does not allow

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


class BeingWrittenError(CacheError):
    """A template that has a writer already."""


class IncompleteTemplateError(CacheError):
    """A template that lacks records."""


class ServiceError(CacheError):
    """The service cannot be reached, is gone, or was too slow."""


class ProtocolError(ServiceError):
    """A frame or message that the protocol does not allow."""
