"""Which boot of the machine this is: what was not synced before another one may be lost."""

from pathlib import Path
from typing import Final

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def boot_id(path: Path = _BOOT_ID) -> str:
    """A name for the present boot; empty where the system has none, which counts as another boot every time."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
