"""The bytes of a trace file, unpacked, block by block.

In:  a file, plain or gzipped (told by its first bytes, not by its name).
Out: blocks of at most `BLOCK_BYTES`. A stream that breaks off ends, and `Source.broken` says how.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from profiler.errors import ProfError

BLOCK_BYTES = 256 << 10
_GZIP = b"\x1f\x8b"
_GZIP_WINDOW = 31  # zlib's word for a gzip member with the largest window
_OTHERS = {
    b"PK\x03\x04": "a zip archive: unpack it, and give the trace in it",
    b"\x28\xb5\x2f\xfd": "packed by zstd: unpack it first",
    b"SQLite format 3": "an SQLite database (Nsight Systems exports such): give a trace of torch.profiler",
    b"\x80": "a pickle: a memory snapshot is for `prof memory`, a trace is what export_chrome_trace writes",
}


class Source:
    """A trace file as blocks of text; iterate it once."""

    def __init__(self, path: Path, block_bytes: int = BLOCK_BYTES) -> None:
        self.path = path
        self.block_bytes = block_bytes
        self.unpacked = 0  # bytes given out so far
        self.broken: str | None = None  # how the stream broke off

    def __iter__(self) -> Iterator[bytes]:
        """The blocks. Raises ProfError where the file can't be read or is of another kind."""
        try:
            with self.path.open("rb") as file:
                head = file.read(16)
                file.seek(0)
                self._refuse(head)
                blocks = self._gunzipped(file) if head.startswith(_GZIP) else self._plain(file)
                for block in blocks:
                    self.unpacked += len(block)
                    yield block
        except OSError as error:
            raise ProfError(f"{self.path} can't be read: {error.strerror or error}.") from error

    def _refuse(self, head: bytes) -> None:
        if not head.strip():
            raise ProfError(f"{self.path} is empty: the recording was not written, or not copied whole.")
        for magic, what in _OTHERS.items():
            if head.startswith(magic):
                raise ProfError(f"{self.path} is {what}.")

    def _plain(self, file: BinaryIO) -> Iterator[bytes]:
        while block := file.read(self.block_bytes):
            yield block

    def _gunzipped(self, file: BinaryIO) -> Iterator[bytes]:
        """Each call of zlib gives at most a block, however well the file is packed."""
        member = zlib.decompressobj(_GZIP_WINDOW)
        packed = b""
        while True:
            if not packed:
                packed = file.read(1 << 18)
                if not packed:
                    if not member.eof:
                        self.broken = "its compressed data ends too early"
                    return
            try:
                block = member.decompress(packed, self.block_bytes)
            except zlib.error:
                self.broken = "its compressed data is damaged"
                return
            if block:
                yield block
            packed = member.unconsumed_tail
            if member.eof:
                packed = member.unused_data or file.read(1 << 18)
                if not packed.lstrip(b"\0"):
                    return
                member = zlib.decompressobj(_GZIP_WINDOW)
