"""An archive as a run leaves it, for the tests of checks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from g2a_archive.archive import checksums
from g2a_archive.archive.database.catalog import Catalog, RecordingResult
from g2a_archive.fixity.check import FixityResult
from g2a_archive.fixity.selection import VerifyOptions
from g2a_archive.fixity.verify import verify
from g2a_archive.models import FileKind, State, StoredFile, kinds_mask

MP4, EVENTS, THUMBNAIL = FileKind.MP4, FileKind.EVENTS, FileKind.THUMBNAIL
SUFFIX = {MP4: "mp4", EVENTS: "events", THUMBNAIL: "jpg"}


def video(text: str) -> bytes:
    """The smallest MP4 whose boxes add up, with `text` in it."""
    body = text.encode()
    start = b"\x00\x00\x00\x10ftypisom\x00\x00\x02\x00"
    return start + (8 + len(body)).to_bytes(4, "big") + b"mdat" + body


class Archive:
    """An archive on disk with its catalogue, as a run leaves it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / ".g2a-archive").mkdir(parents=True, exist_ok=True)
        self.database = root / ".g2a-archive" / "catalog.sqlite3"
        self.catalog = Catalog(self.database)

    def write(self, path: str, content: bytes) -> None:
        full = self.root / path
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_bytes(content)

    def put(self, recording: int, kind: FileKind, content: bytes, day: str) -> StoredFile:
        path = f"{day}/{recording}.{SUFFIX[kind]}"
        self.write(path, content)
        digest = hashlib.sha256(content).hexdigest()
        return StoredFile(recording, kind, path, len(content), digest)

    def add(self, recording: int, day: str = "2014/05/06") -> list[StoredFile]:
        name = f"recording {recording}"
        files = [
            self.put(recording, MP4, video(name), day),
            self.put(recording, EVENTS, f"events of {name}".encode(), day),
            self.put(recording, THUMBNAIL, f"\xff\xd8\xff picture of {name}".encode(), day),
        ]
        self.settle(recording, files, day)
        checksums.write_checksums(self.catalog, self.root)
        return files

    def settle(
        self,
        recording: int,
        files: list[StoredFile],
        day: str = "2014/05/06",
        state: State = State.ARCHIVED,
    ) -> None:
        kinds = kinds_mask([file.kind for file in files])
        start = f"{day.replace('/', '-')}T15:00:00Z"
        one = RecordingResult(recording, state, kinds, 0, start, day, files=files)
        self.catalog.record_results([one])

    def verify(
        self, options: VerifyOptions | None = None, stop: Callable[[], bool] = lambda: False
    ) -> FixityResult:
        return verify(
            self.catalog,
            self.root,
            options or VerifyOptions(),
            stop=stop,
        )

    def problems(self, options: VerifyOptions | None = None) -> dict[str, str]:
        return {one.path: one.problem for one in self.verify(options).findings}

    def state(self, recording: int) -> tuple[str, int, str | None]:
        sql = "SELECT state, kinds, reason FROM recording WHERE id = ?"
        row: tuple[str, int, str | None] = self.catalog.rows(sql, (recording,))[0]
        return row

    def checked(self) -> int:
        count: int = self.catalog.scalar("SELECT count(checked_at) FROM file")
        return count
