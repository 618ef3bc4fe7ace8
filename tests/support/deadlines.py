"""Deadlines that a busy machine does not miss: what is proved elsewhere is not how fast it is."""

from typing import Final

PATIENT: Final = {"CROUPIER_READ_SECONDS": "20", "CROUPIER_WRITE_SECONDS": "20"}
