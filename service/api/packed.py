"""Gzipped bodies: unpacked as they arrive, never beyond a bound, so that a small one cannot fill the memory. Pure."""

from __future__ import annotations

import zlib
from typing import Final

from service.errors import InvalidGzipError, TooLargeError

_GZIP: Final = 16 + zlib.MAX_WBITS


class Unpacking:
    """A gzipped body that is being unpacked.

    Args:
        most_bytes: How many bytes it may have.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._member = zlib.decompressobj(_GZIP)
        self._begun = False

    def add(self, body: bytearray, chunk: bytes) -> None:
        """Unpack a chunk to the end of a body.

        Raises:
            TooLargeError: The body has more bytes than it may.
            InvalidGzipError: It is no gzip.
        """
        try:
            while chunk:
                if self._member.eof:  # a file may have several members (RFC 1952, section 2.2)
                    self._member = zlib.decompressobj(_GZIP)
                body += self._member.decompress(chunk, self._most - len(body) + 1)
                if len(body) > self._most:
                    raise TooLargeError(f"a body has at most {self._most} bytes when it is unpacked")
                self._begun, chunk = True, self._member.unused_data
        except zlib.error as error:
            raise InvalidGzipError from error

    def end(self) -> None:
        """Refuse a body that was cut; raises InvalidGzipError."""
        if not self._begun or not self._member.eof:
            raise InvalidGzipError
