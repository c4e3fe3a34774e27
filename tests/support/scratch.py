"""Directories that live as long as the test process: what is made once for all of its tests."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

_made: list[Path] = []


def directory(name: str) -> Path:
    """A new directory."""
    _made.append(Path(tempfile.mkdtemp(prefix=f"g2a-{name}-")))
    return _made[-1]


def remove() -> None:
    """Remove all that were made."""
    for path in _made:
        shutil.rmtree(path, ignore_errors=True)
