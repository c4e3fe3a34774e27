"""How a merge went: counts, what was not taken and why, JSON, exit code, summary."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from g2a_archive.console.report import exit_code_of
from g2a_archive.errors import ArchiverError, ExitCode
from g2a_archive.models import FileKind, duration_text, pluralize, size_text

log = logging.getLogger("g2a_archive")

_SHOWN = 20
"""Lines of one sort that the summary has before it is cut."""


class NotTaken(NamedTuple):
    """A recording, or one of its files, that was not taken from an archive, and why."""

    id: int
    file: FileKind | None
    archive: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        file = str(self.file) if self.file else None
        return {"id": self.id, "file": file, "archive": self.archive, "reason": self.reason}

    def __str__(self) -> str:
        kind = f"{self.file}: " if self.file else ""
        return f"{self.id}  {kind}{self.reason} ({self.archive})"


@dataclass(slots=True)
class MergeReport:
    """A merge's outcome. The counts are of recordings, but for files and bytes.

    `recordings` were looked at in all sources; `merged` brought something new (`archived` of them
    a file at least), `alike` nothing. `files` came, `linked`, `copied`, or were there since a
    merge that was killed; `bytes` are theirs. `removed` stay out, as the target has removed them.
    """

    started_at: str
    archives: list[str]
    dry_run: bool = False
    move: bool = False
    finished_at: str = ""
    seconds: float = 0.0
    recordings: int = 0
    merged: int = 0
    archived: int = 0
    alike: int = 0
    moved: int = 0
    files: int = 0
    linked: int = 0
    copied: int = 0
    bytes: int = 0
    removed: list[NotTaken] = field(default_factory=list)
    contradictions: list[NotTaken] = field(default_factory=list)
    failed: list[NotTaken] = field(default_factory=list)
    kept_aside: list[str] = field(default_factory=list)
    abort_codes: set[ExitCode] = field(default_factory=set)
    abort_messages: list[str] = field(default_factory=list)
    fingerprint: str | None = None

    @property
    def exit_code(self) -> ExitCode:
        """What the process should end with."""
        codes = set(self.abort_codes)
        if self.contradictions or self.failed:
            codes.add(ExitCode.FAILED)
        return exit_code_of(codes)

    def record_abort(self, error: ArchiverError, archive: str | None = None) -> None:
        """Take in what ended the merge, or that of one `archive`, before its time; log it."""
        text = f"{archive}: {error}" if archive else str(error)
        self.abort_codes.add(error.exit_code)
        self.abort_messages.append(text)
        log.error("%s", text)

    def not_taken(self, where: list[NotTaken], one: NotTaken) -> None:
        """Add to one of the lists, and tell of it."""
        where.append(one)
        kind = f"{one.file}: " if one.file else ""
        level = logging.WARNING if where is self.removed else logging.ERROR
        log.log(level, "recording %d: %s%s (%s)", one.id, kind, one.reason, one.archive)

    def to_json(self) -> dict[str, Any]:
        """The report as `--json` prints it; the keys are an interface."""
        counts = ["recordings", "merged", "archived", "alike", "moved"]
        counts += ["files", "linked", "copied", "bytes"]
        lists = ("removed", "contradictions", "failed")
        return {
            "started_at": self.started_at,
            "finished_at": self.finished_at,
            "exit_code": int(self.exit_code),
            "archives": self.archives,
            **{name: getattr(self, name) for name in counts},
            **{name: [one.to_json() for one in getattr(self, name)] for name in lists},
            "kept_aside": self.kept_aside,
            "seconds": round(self.seconds, 3),
            **({"fingerprint": self.fingerprint} if self.fingerprint else {}),
            **({"dry_run": True} if self.dry_run else {}),
        }

    def summary(self) -> Iterator[str]:
        """The lines of the closing summary."""
        yield self._headline()
        for title, rows in (
            ("contradicts", self.contradictions),
            ("not taken", self.failed),
            ("removed here, not brought back", self.removed),
        ):
            for one in rows[:_SHOWN]:
                yield f"  {title}: {one}"
            if len(rows) > _SHOWN:
                yield f"  … and {len(rows) - _SHOWN:,} more: --json names them all"
        for name in self.kept_aside[:_SHOWN]:
            yield f"  kept aside, as it was broken: {name}"
        if self.fingerprint:
            yield f"  {self.fingerprint}"

    def _headline(self) -> str:
        did = "Would merge" if self.dry_run else "Merged"
        merged = f"{self.merged:,} of {pluralize(self.recordings, 'recording')}"
        how = "" if self.dry_run else f" ({self.linked:,} linked, {self.copied:,} copied)"
        text = f"{did} {merged}: {pluralize(self.files, 'file')}, {size_text(self.bytes)}{how}"
        if not self.dry_run:
            text += f" in {duration_text(self.seconds)}"
        if self.alike:
            text += f"; {self.alike:,} alike"
        if self.move and not self.dry_run:
            text += f"; {self.moved:,} taken out of where they were"
        return text
