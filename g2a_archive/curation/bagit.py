"""BagIt 1.0 (RFC 8493): files under `data/`, a manifest of them, and what is said of both."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from g2a_archive.archive.disk.hashing import hash_file

_DECLARATION = b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"
_MANIFEST = "manifest-sha256.txt"


class Bag:
    """A bag that is being made in the new directory `top`. Whatever cannot be written: `OSError`.

    Whoever puts a file below `data` lists it; the manifest grows on disk, not in memory.
    """

    def __init__(self, top: Path) -> None:
        self.top = top
        self.data = top / "data"
        self.data.mkdir(parents=True)
        self._lines = open(top / _MANIFEST, "x", encoding="utf-8", newline="")  # noqa: SIM115
        self.files = 0
        self.bytes = 0

    def listed(self, path: str, size: int, sha256: str) -> None:
        """A file of the payload, by its path below `data`, is there."""
        self._lines.write(_line(sha256, f"data/{path}"))
        self.files += 1
        self.bytes += size

    def finish(self, about: Mapping[str, str]) -> None:
        """Write the manifests and `bag-info.txt`, which says `about` and how much there is."""
        self._lines.close()
        (self.top / "bagit.txt").write_bytes(_DECLARATION)
        oxum = {"Payload-Oxum": f"{self.bytes}.{self.files}"}
        text = "".join(f"{label}: {value}\n" for label, value in {**about, **oxum}.items())
        # A name may be no UTF-8; it is shown as elsewhere.
        (self.top / "bag-info.txt").write_bytes(text.encode(errors="backslashreplace"))
        tags = ("bagit.txt", _MANIFEST, "bag-info.txt")
        sums = "".join(_line(hash_file(self.top / name)[1], name) for name in tags)
        (self.top / "tagmanifest-sha256.txt").write_bytes(sums.encode())

    def close(self) -> None:
        """Close what is open still; of an unfinished bag nothing comes."""
        with suppress(OSError):
            self._lines.close()


def _line(digest: str, path: str) -> str:
    """A line of a manifest. RFC 8493 has three characters encoded, and no others."""
    for character in "%\r\n":
        path = path.replace(character, f"%{ord(character):02X}")
    return f"{digest}  {path}\n"
