"""Whether the pages of a data file hang together, seen from outside.

LMDB trusts most of what it reads: one wrong bit in a length makes it read beyond the end of the file, which kills the
process, and one in the list of free pages makes it write over what is in use.

The layout is LMDB 0.9's (lmdb.h, mdb.c): two pages of meta data, of which the one with the higher transaction counts;
a B+ tree of free pages, whose values are lists of page numbers; a main tree, whose values are trees. Values that do not
fit a page have pages of their own, in a row.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from instgenie_cache.errors import CacheError

_PAGE = struct.Struct("<Q2xHHH")  # its own number, flags, end of the node offsets, begin of the nodes
_OVERFLOW = struct.Struct("<Q2xHI")  # ..., how many pages
_META = struct.Struct("<II16x")  # magic, version
_TREE = struct.Struct("<I2xHQQQQQ")  # page size (of the first one alone), depth, pages of three kinds, entries, root
_LAST = struct.Struct("<QQ")  # last page in use, transaction
_NODE = struct.Struct("<HHHH")  # length of the value or page of the child, in two parts; flags; length of the key

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_META_PAGES = 2
_BRANCH, _LEAF, _OVERFLOWING, _META_FLAG = 1, 2, 4, 8
_BIG, _SUBTREE = 1, 2
_NO_ROOT = (1 << 64) - 1


class _Tree(NamedTuple):
    page_bytes: int
    depth: int
    branch_pages: int
    leaf_pages: int
    overflow_pages: int
    entries: int
    root: int


@dataclass(frozen=True, slots=True)
class _Node:
    key: bytes
    flags: int
    num_bytes: int  # of the value
    child: int
    inline: bytes


class _FaultError(Exception):
    """What is wrong first of all."""


def find_page_fault(data: Path, *, thorough: bool = True) -> str | None:
    """Follow the pages of a file that nobody writes to, and say what is wrong with them; None where nothing is.

    Args:
        thorough: look at the first page of every long value too, not only where it is.

    Raises:
        CacheError: the file cannot be read.
    """
    try:
        descriptor = os.open(data, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _Pages(descriptor, thorough).check()
        finally:
            os.close(descriptor)
    except _FaultError as error:
        return str(error)
    except OSError as error:
        raise CacheError(f"{data} cannot be read: {error.strerror or error}") from error
    return None


class _Pages:
    def __init__(self, descriptor: int, thorough: bool) -> None:
        self._descriptor, self._thorough = descriptor, thorough
        metas = [self._meta(0, 0)]
        self._page_bytes = metas[0][1].page_bytes
        if not 512 <= self._page_bytes <= 1 << 16:
            raise _FaultError(f"pages of {self._page_bytes} bytes")
        metas.append(self._meta(1, self._page_bytes))
        (self._last, _), self._free, self._main = max(metas, key=lambda meta: meta[0][1])
        self._file_bytes = os.fstat(descriptor).st_size
        if self._last * self._page_bytes > 2 * self._file_bytes + (1 << 30):
            raise _FaultError(f"{self._last} pages in a file of {self._file_bytes} bytes")
        self._is_taken = bytearray(self._last + 1)

    def check(self) -> None:
        """Raise what is wrong."""
        for node in self._leaves(self._main, "main"):
            if node.flags & _SUBTREE:
                if len(node.inline) != _TREE.size:
                    raise _FaultError(f"a tree described in {len(node.inline)} bytes")
                for _ in self._leaves(_Tree._make(_TREE.unpack(node.inline)), node.key.decode(errors="replace")):
                    pass
        for node in self._leaves(self._free, "free"):
            self._take_free(node)

    def _meta(self, number: int, offset: int) -> tuple[tuple[int, int], _Tree, _Tree]:
        size = _PAGE.size + _META.size + 2 * _TREE.size + _LAST.size
        page = self._read(offset, size)
        flags = _PAGE.unpack_from(page)[1]
        magic, version = _META.unpack_from(page, _PAGE.size)
        if not (flags & _META_FLAG and magic == _MAGIC and version == _VERSION):
            raise _FaultError(f"page {number} holds no meta data of LMDB {_VERSION}")
        at = _PAGE.size + _META.size
        free, main = (_Tree._make(_TREE.unpack_from(page, at + index * _TREE.size)) for index in range(2))
        return _LAST.unpack_from(page, at + 2 * _TREE.size), free, main

    def _leaves(self, tree: _Tree, name: str) -> Iterator[_Node]:
        """Every entry of a tree, in order."""
        counts = {_BRANCH: 0, _LEAF: 0, _OVERFLOWING: 0}
        entries = 0
        ways: list[tuple[int, int, bytes | None, bytes | None]] = []  # page, depth, keys: from, below
        if tree.root != _NO_ROOT:
            ways.append((tree.root, 1, None, None))
        while ways:
            number, depth, low, high = ways.pop()
            kind = _LEAF if depth == tree.depth else _BRANCH
            counts[kind] += 1
            nodes = self._nodes(number, kind)
            keys = [node.key for node in nodes]  # of branches, that of the first child is of no meaning
            if name == "free":
                keys = [key[::-1] for key in keys]  # numbers, the lowest byte first
            bounds = [bound for bound in (low, *keys[kind == _BRANCH :], high) if bound is not None]
            if not nodes or any(a > b for a, b in pairwise(bounds)):
                raise _FaultError(f"the keys of page {number} in the tree {name} are not in order")
            if kind == _BRANCH:
                ends = [*keys[1:], high]
                children = zip(nodes, [low, *keys[1:]], ends, strict=True)
                ways += reversed([(node.child, depth + 1, begin, end) for node, begin, end in children])
                continue
            entries += len(nodes)
            for node in nodes:
                if node.flags & _BIG:
                    counts[_OVERFLOWING] += self._take_long(node, self._thorough or name == "free")
                yield node
        if not self._thorough:
            counts[_OVERFLOWING] = tree.overflow_pages
        if (*counts.values(), entries) != tree[2:6]:
            raise _FaultError(f"the tree {name} counts {tree[2:6]} pages and entries, there are {counts}, {entries}")

    def _nodes(self, number: int, kind: int) -> list[_Node]:
        self._take(number, 1)
        page = self._read(number * self._page_bytes, self._page_bytes)
        own_number, flags, lower, upper = _PAGE.unpack_from(page)
        if own_number != number or flags != kind or not _PAGE.size <= lower <= upper <= self._page_bytes or lower % 2:
            raise _FaultError(f"page {number} is not what it is used as")
        nodes = []
        for (start,) in struct.iter_unpack("<H", page[_PAGE.size : lower]):
            key_at = start + _NODE.size
            if not upper <= start or key_at > self._page_bytes:
                raise _FaultError(f"a node at {start} of page {number}")
            low, high, node_flags, key_bytes = _NODE.unpack_from(page, start)
            value_at, num_bytes, child = key_at + key_bytes, low | high << 16, 0
            inline_bytes = 8 if kind == _LEAF and node_flags & _BIG else num_bytes
            if kind == _BRANCH:
                child, inline_bytes = num_bytes | node_flags << 32, 0
            if value_at + inline_bytes > self._page_bytes or (kind == _LEAF and node_flags & ~(_BIG | _SUBTREE)):
                raise _FaultError(f"a node at {start} of page {number} is not whole")
            inline = page[value_at : value_at + inline_bytes]
            nodes.append(_Node(page[key_at:value_at], node_flags, num_bytes, child, inline))
        return nodes

    def _take_long(self, node: _Node, look: bool) -> int:
        """The pages of a long value, of which it may leave the last ones empty."""
        first: int = struct.unpack("<Q", node.inline)[0]
        pages: int = -(-(_PAGE.size + node.num_bytes) // self._page_bytes)
        self._take(first, pages)
        if not look:
            return pages
        own_pages: int
        own_number, flags, own_pages = _OVERFLOW.unpack(self._read(first * self._page_bytes, _OVERFLOW.size))
        if own_number != first or flags != _OVERFLOWING or own_pages < pages:
            raise _FaultError(f"page {first} is not the first of {pages} of a long value")
        if own_pages > pages:
            self._take(first + pages, own_pages - pages)
        return own_pages

    def _take_free(self, node: _Node) -> None:
        """The free pages that a value lists: those of nobody else. They may be behind the end of the file."""
        data = node.inline
        if node.flags & _BIG:
            (first,) = struct.unpack("<Q", data)
            data = self._read(first * self._page_bytes + _PAGE.size, node.num_bytes)
        count = struct.unpack_from("<Q", data)[0] if len(data) >= 8 else -1
        if not 0 <= count <= len(data) // 8 - 1:
            raise _FaultError(f"a list of {count} free pages in {len(data)} bytes")
        for number in struct.unpack_from(f"<{count}Q", data, 8):
            self._take(number, 1, must_be_there=False)

    def _take(self, first: int, pages: int, must_be_there: bool = True) -> None:
        if not _META_PAGES <= first <= first + pages - 1 <= self._last:
            raise _FaultError(f"{pages} pages from {first}, of {self._last} in use")
        if self._is_taken.find(1, first, first + pages) >= 0:
            raise _FaultError(f"one of {pages} pages from {first} is used twice")
        self._is_taken[first : first + pages] = b"\1" * pages
        if must_be_there and (first + pages) * self._page_bytes > self._file_bytes:
            raise _FaultError(f"{pages} pages from {first} are cut off: the file has {self._file_bytes} bytes")

    def _read(self, offset: int, num_bytes: int) -> bytes:
        data = os.pread(self._descriptor, num_bytes, offset)
        if len(data) < num_bytes:
            raise _FaultError(f"{num_bytes} bytes from {offset} are cut off")
        return data
