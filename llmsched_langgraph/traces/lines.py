"""Reads the lines of a file, gzipped or not, and finds where compressed data is damaged.

Does not parse the lines, or decide what becomes of a damaged one.
"""

from __future__ import annotations

import re
import zlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from llmsched_langgraph.errors import InvalidDataError

_CHUNK = 1 << 16

_GZIP = b"\x1f\x8b"

_MEMBER = re.compile(rb"\x1f\x8b\x08[\x00\x04\x08\x0c].{4}[\x00\x02\x04][\x00-\x0d\xff]", re.DOTALL)
"""The header of a gzip member as programs write it: in compressed data, it appears by chance about never."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """A line of a file.

    Attributes:
        number: its number, from 1.
        data: its bytes, with the line end if it has one.
        damage: what is wrong with the compressed data behind it; empty if nothing is, or more lines follow.
        member: number of the gzip member in which it ends.
        doubt: what is wrong with that member, if it is invalid: its lines may be wrong. Empty if it is valid
            or only cut off.
    """

    number: int
    data: bytes
    damage: str = ""
    member: int = 0
    doubt: str = ""


class _Piece(NamedTuple):
    data: bytes
    damage: str = ""
    member: int = 0
    doubt: str = ""


def read_lines(path: Path) -> Iterator[Line]:
    """Yield the lines of a file, without those that are only white space.

    Compressed data is recognised by its first bytes or by the suffix `.gz`. Where it is damaged, the line so
    far is yielded with the damage, and reading continues at the next gzip member, if there is one.

    Raises:
        InvalidDataError: the file cannot be opened or read; the message names it.
    """
    number = 0
    parts: list[bytes] = []
    try:
        with path.open("rb") as file:
            zipped = path.suffix == ".gz" or file.peek(2)[:2] == _GZIP
            for data, damage, member, doubt in _inflated(file.read()) if zipped else _chunks(file):
                *ends, rest = data.split(b"\n")
                for end in ends:
                    number += 1
                    line = b"".join((*parts, end, b"\n"))
                    parts.clear()
                    if not line.isspace():
                        yield Line(number, line, "", member, doubt)
                parts.append(rest)
                if damage:
                    number += 1
                    yield Line(number, b"".join(parts), damage, member, doubt)
                    parts.clear()
    except OSError as error:
        raise InvalidDataError(f"{path}: cannot be read: {error.strerror or error}") from None
    line = b"".join(parts)
    if line and not line.isspace():
        yield Line(number + 1, line)


def text_of(line: Line) -> str:
    """Return the text of a line, without the byte order mark at the start of a file.

    Raises:
        InvalidDataError: the line is not UTF-8.
    """
    data = line.data.removeprefix(_BYTE_ORDER_MARK) if line.number == 1 else line.data
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidDataError("is not UTF-8 text") from None


def _chunks(file: BinaryIO) -> Iterator[_Piece]:
    while data := file.read(_CHUNK):
        yield _Piece(data)


def _inflated(raw: bytes) -> Iterator[_Piece]:
    """Yield the content of gzip members in pieces, and after a damaged member what is wrong with it."""
    start, member = 0, 0
    while start < len(raw):
        member += 1
        damage = doubt = "is not valid gzip data"
        if raw.startswith(_GZIP, start):
            # Read twice: only the end of a member tells whether its content is valid.
            try:
                end = deque(_contents(raw, start), maxlen=1).pop()[1]
                damage, doubt = "the compressed data ends in the middle; the file is truncated", ""
            except zlib.error as error:
                end, damage = 0, f"is not valid gzip data: {error}"
                doubt = damage
            yield from (_Piece(data, "", member, doubt) for data, _ in _contents(raw, start, valid=not doubt))
            if end:
                start = end
                while raw.startswith(b"\0", start):  # padding
                    start += 1
                continue
        yield _Piece(b"", damage, member, doubt)
        # The next member may begin inside of what was taken for this one.
        found = _MEMBER.search(raw, start + 1)
        if found is None:
            return
        start = found.start()


def _contents(raw: bytes, start: int, *, valid: bool = True) -> Iterator[tuple[bytes, int]]:
    """Yield the content of the gzip member at `start` in pieces, and where it ends; 0 if it does not.

    Raises:
        zlib.error: the data is invalid. If not `valid`, end before the invalid byte instead.
    """
    inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
    for at in range(start, len(raw), _CHUNK):
        chunk, before = raw[at : at + _CHUNK], None if valid else inflater.copy()
        try:
            data = inflater.decompress(chunk)
        except zlib.error:
            if before is None:
                raise
            yield _until_error(before, chunk), 0
            return
        yield data, at + len(chunk) - len(inflater.unused_data) if inflater.eof else 0
        if inflater.eof:
            return


def _until_error(inflater: zlib._Decompress, chunk: bytes) -> bytes:
    """Return what `chunk` contains before its invalid byte."""
    found = bytearray()
    try:
        for at in range(len(chunk)):
            found += inflater.decompress(chunk[at : at + 1])
    except zlib.error:
        pass
    return bytes(found)
