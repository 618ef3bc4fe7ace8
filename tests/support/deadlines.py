"""Deadlines that a busy machine does not miss, for tests of anything but speed."""

from typing import Final

PATIENT: Final = {"CROUPIER_READ_SECONDS": "20", "CROUPIER_WRITE_SECONDS": "20"}
