"""What people write and other people read, on a terminal too: reasons and labels."""

from __future__ import annotations

import unicodedata
from typing import Final

_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs"})
"""Categories of Unicode: control characters, those of format, which turn or hide what stands around them, and halves of
characters, as of a command line that is no UTF-8."""


def prose(text: str) -> str:
    """A text as it is kept, with single blanks for line ends and tabs.

    Raises:
        ValueError: It holds characters that a terminal obeys instead of showing.
    """
    said = " ".join(text.split())
    for one in said:
        if unicodedata.category(one) in _UNSEEN:
            raise ValueError(f"U+{ord(one):04X} is a character that cannot be seen: leave it out")
    return said
