"""Errors that a caller or a user may meet: one tree, each class with its code, HTTP status and exit code."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Final

RETRY_AFTER_SECONDS: Final = 1
"""What a caller is asked to wait after 503."""


class CroupierError(Exception):
    """An error of ours; its text is one sentence.

    A class without a code of its own is told as the class that it specialises.

    Attributes:
        code: Word for machines.
        status: HTTP status of the answer; 500 is a fault of ours, which is logged, and told without its text.
        exit_code: Exit code of a command that ends with it; 1 is a fault of ours, which ends with its traceback.
        sentence: Text of an instance that has none.
        beside: Members of its problem that whoever passed it on adds.
    """

    code: ClassVar[str]
    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1
    sentence: ClassVar[str] = ""
    beside: Mapping[str, Any] = MappingProxyType({})

    def __str__(self) -> str:
        return super().__str__() or self.sentence

    def headers(self) -> dict[str, str]:
        """Headers of its HTTP answer."""
        return {"retry-after": str(RETRY_AFTER_SECONDS)} if self.status == 503 else {}

    def members(self) -> dict[str, Any]:
        """Members of its RFC 9457 problem beside title, status and code."""
        return {"detail": str(self), **self.beside}


def told(error: BaseException) -> str:
    """What may be told of an error to anybody: our own sentence, or what the system calls it; else its type.

    Libraries put into their texts what they were given: a field's value, an address with its password, a file's name.
    """
    if isinstance(error, CroupierError):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:
        return f"{errno.errorcode.get(error.errno, error.errno)}: {os.strerror(error.errno)}"
    return type(error).__name__
