"""Set the clock that a store sees, through a library compiled from `clock.c`."""

import os
import shutil
import struct
import subprocess
from pathlib import Path

COMPILER = shutil.which("cc")


class Clock:
    """The store's clock, which may be set."""

    def __init__(self, folder: Path) -> None:
        self._file, lie = folder / "offset", folder / "clock.so"
        self.set(0)
        source = Path(__file__).with_name("clock.c")
        subprocess.run([str(COMPILER), "-O1", "-shared", "-fPIC", "-o", lie, source], check=True)
        self.environment = {"LD_PRELOAD": str(lie), "CLOCK_OFFSET": str(self._file)}

    def set(self, seconds: int) -> None:
        """Set the clock so far before this machine's; in place, for it is mapped."""
        held = os.open(self._file, os.O_RDWR | os.O_CREAT)
        os.pwrite(held, struct.pack("q", seconds), 0)
        os.close(held)
