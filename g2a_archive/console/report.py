"""What a run did: counts, the recordings that did not make it, JSON, exit code, summary."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

from g2a_archive.errors import ArchiverError, ExitCode
from g2a_archive.models import (
    Failure,
    Rows,
    Tombstone,
    distinct,
    duration_text,
    pluralize,
    size_text,
)

if TYPE_CHECKING:
    from g2a_archive.archive.database.revisions import Fingerprint

log = logging.getLogger("g2a_archive")

_SHOWN = 20
"""Recordings that the summary names before it is cut."""

PRECEDENCE = (
    ExitCode.SIGINT,
    ExitCode.SIGTERM,
    ExitCode.USAGE,
    ExitCode.LOCKED,
    ExitCode.STORAGE,
    ExitCode.CREDENTIALS,
    ExitCode.MAX_DURATION,
    ExitCode.SERVICE,
    ExitCode.FAILED,
    ExitCode.UNAVAILABLE,
)


def exit_code_of(codes: Iterable[ExitCode]) -> ExitCode:
    """Of several exit codes that hold, the one to end with (the README's order)."""
    held = set(codes)
    return next((code for code in PRECEDENCE if code in held), ExitCode.OK)


@dataclass(slots=True)
class SyncReport:
    """What `sync` did beyond archiving; the counts are of recordings, `calls` of list calls.

    `waiting` are ready for transcoding, `overflowing` are seconds of which the service doesn't
    tell all, `refused` are those that could not be marked or transcoded, with the reason.
    """

    listed: int = 0
    calls: int = 0
    waiting: array[int] = field(default_factory=lambda: array("q"))
    to_transcode: int = 0
    transcoding: int = 0
    to_mark: int = 0
    marked: int = 0
    overflowing: list[str] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)
    lost: list[int] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether something may be missing, was given up, or could not be told to the service."""
        return bool(self.overflowing or self.refused or self.lost)

    def to_json(self) -> dict[str, Any]:
        """This part of the report as `--json` prints it."""
        return {
            "listed": self.listed,
            "list_calls": self.calls,
            "waiting_for_transcoding": self.waiting,
            "to_transcode": self.to_transcode,
            "asked_to_transcode": self.transcoding,
            "marked": self.marked,
            "overflowing_seconds": self.overflowing,
            "not_told": [{"id": id_, "reason": why} for id_, why in self.refused.items()],
            "lost": self.lost,
        }

    def lines(self, *, dry_run: bool, stopped: bool) -> Iterator[tuple[str, str]]:
        """Lines of the closing summary, as `Report.summary` has them."""
        if self.listed or not stopped:
            calls = pluralize(self.calls, "list call")
            yield ("", f"  The service lists {_recordings(self.listed)} ({calls})")
        if dry_run:
            if self.to_transcode:
                yield ("", f"  would ask for the transcoding of {self.to_transcode:,}")
            if self.to_mark:
                yield ("", f"  would mark {self.to_mark:,} as archived on the service")
        if self.transcoding:
            yield ("", f"  asked for the transcoding of {self.transcoding:,}")
        if self.marked:
            yield ("", f"  marked {self.marked:,} as archived on the service")
        for second in self.overflowing[:_SHOWN]:
            yield ("red", f"  some may be missing: too many recordings started at {second}")
        for id_, why in [*self.refused.items()][:_SHOWN]:
            yield ("red", f"  {id_}  {why}")
        for id_ in self.lost[:_SHOWN]:
            yield ("red", f"  {id_}  given up and lost")


@dataclass(slots=True)
class Report:
    """A run's outcome. `bytes` is what this run received, `seconds` how long it took.

    `fingerprint` is the archive's at the run's end, None where it has none.

    `dry_run_sample` has the first recordings that a dry run would fetch: ID, directory, bytes of
    the MP4. `abort_codes` are exit codes that ended the run before its time, `abort_messages` the
    sentences about them.
    """

    started_at: str
    dry_run: bool = False
    finished_at: str = ""
    seconds: float = 0.0
    requested: int = 0
    already_archived: int = 0
    archived: int = 0
    adopted: int = 0
    unavailable: array[int] = field(default_factory=lambda: array("q"))
    refused: array[int] = field(default_factory=lambda: array("q"))
    failed: Rows[Failure] = field(default_factory=lambda: Rows(Failure))
    kept_aside: list[str] = field(default_factory=list)
    unfinished: array[int] = field(default_factory=lambda: array("q"))
    removed: Rows[Tombstone] = field(default_factory=lambda: Rows(Tombstone))
    files: int = 0
    bytes: int = 0
    would_fetch: int = 0
    would_bytes: int = 0
    dry_run_sample: list[tuple[int, str, int | None]] = field(default_factory=list)
    abort_codes: set[ExitCode] = field(default_factory=set)
    abort_messages: list[str] = field(default_factory=list)
    sync: SyncReport | None = None
    fingerprint: Fingerprint | None = None

    @property
    def exit_code(self) -> ExitCode:
        """What the process should end with."""
        codes = set(self.abort_codes)
        if self._some_failed or self.unfinished:
            codes.add(ExitCode.FAILED)
        if self.unavailable:
            codes.add(ExitCode.UNAVAILABLE)
        return exit_code_of(codes)

    def record_abort(self, error: ArchiverError) -> None:
        """Record what ended the run before its time, and log it; what follows from it is not."""
        if error.exit_code not in self.abort_codes:
            self.record_error(error)

    def record_error(self, error: ArchiverError) -> None:
        """Record what stands by itself, whatever else ended the run; the same once only."""
        self.abort_codes.add(error.exit_code)
        if str(error) not in self.abort_messages:
            self.abort_messages.append(str(error))
            log.error("%s", error)

    def add_dry_run(self, recording: int, directory: str, size: int | None) -> None:
        """Count a recording that a run would fetch; `size` in bytes, of its MP4."""
        self.would_fetch += 1
        self.would_bytes += size or 0
        if len(self.dry_run_sample) < _SHOWN:
            self.dry_run_sample.append((recording, directory, size))
        log.info("recording %d: would go to %s, %s", recording, directory, _size(size))

    def out_of_time(self) -> None:
        """Record that `--max-duration` is over."""
        if ExitCode.MAX_DURATION not in self.abort_codes:
            self.abort_codes.add(ExitCode.MAX_DURATION)
            self.abort_messages.append("--max-duration is over; the next run goes on")
            log.warning("%s", self.abort_messages[-1])

    @property
    def anything_failed(self) -> bool:
        """Whether a person should hear of this run even with `-q`."""
        spared = (ExitCode.OK, ExitCode.UNAVAILABLE, ExitCode.MAX_DURATION)
        return self._some_failed or self.exit_code not in spared

    @property
    def _some_failed(self) -> bool:
        return bool(self.failed or self.refused or (self.sync is not None and self.sync.failed))

    @property
    def failed_recordings(self) -> int:
        """How many recordings failed, with whichever of their files."""
        return len(distinct(self.failed.ids))

    def to_json(self) -> dict[str, Any]:
        """The report as `--json` prints it; the keys are an interface. Its lists may be long."""
        result: dict[str, Any] = {
            "started_at": self.started_at,
            "finished_at": self.finished_at,
            "exit_code": int(self.exit_code),
            "requested": self.requested,
            "already_archived": self.already_archived,
            "archived": self.archived,
            "unavailable": self.unavailable,
            "refused": self.refused,
            "removed": (one._asdict() for one in self.removed),
            "failed": (
                {"id": f.id, "file": str(f.file) if f.file else None, "reason": f.reason}
                for f in self.failed
            ),
            "files": self.files,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
            "fingerprint": str(self.fingerprint) if self.fingerprint else None,
        }
        if self.dry_run:
            result |= {
                "dry_run": True,
                "would_fetch": self.would_fetch,
                "would_bytes": self.would_bytes,
            }
        if self.sync is not None:
            result["sync"] = self.sync.to_json()
        return result

    def not_archived(self) -> Iterator[tuple[int, str]]:
        """Every recording that did not make it, once, with the reason: for `--error-file`."""
        yield from self._reasons()
        for id_ in self.unfinished:
            yield id_, "not finished: the run ended before"

    def _reasons(self) -> Iterator[tuple[int, str]]:
        for id_, failures in groupby(self.failed, lambda failure: failure.id):
            yield id_, "; ".join(f"{f.file}: {f.reason}" if f.file else f.reason for f in failures)
        for id_ in self.refused:
            yield id_, "refused: the service calls this ID invalid"
        for id_ in self.unavailable:
            yield id_, "unavailable: not ready for download yet"

    def summary(self) -> list[tuple[str, str]]:
        """The closing summary as (style, line); styles are rich's, for a terminal."""
        lines = [("bold", self._headline())]
        if self.sync is not None:
            lines += self.sync.lines(dry_run=self.dry_run, stopped=bool(self.abort_messages))
        if self.unfinished:
            text = f"  not finished: {len(self.unfinished):,}; run again to go on with them"
            lines.append(("yellow", text))
        for id_, directory, size in self.dry_run_sample:
            lines.append(("", f"  {id_}  {directory}  {_size(size)}"))
        if self.would_fetch > len(self.dry_run_sample):
            more = self.would_fetch - len(self.dry_run_sample)
            lines.append(("", f"  … and {more:,} more: -v tells of each"))
        for id_, reason in islice(self._reasons(), _SHOWN):
            style = "yellow" if reason.startswith("unavailable") else "red"
            lines.append((style, f"  {id_}  {reason}"))
        more = self.failed_recordings + len(self.refused) + len(self.unavailable) - _SHOWN
        if more > 0:
            lines.append(
                (
                    "yellow",
                    f"  … and {more:,} more: all of them are in --error-file and "
                    "--json, and in `g2a-archive status`",
                )
            )
        for one in islice(self.removed, _SHOWN) if self.sync is None else ():
            lines.append(("", f"  {one.id}  {one}"))
        for name in self.kept_aside[:_SHOWN]:
            lines.append(("yellow", f"  kept aside, as another file stood in its place: {name}"))
        if len(self.kept_aside) > _SHOWN:
            more = len(self.kept_aside) - _SHOWN
            lines.append(("yellow", f"  … and {more:,} more kept aside: the log names them"))
        if self.fingerprint is not None:
            lines.append(("", f"  fingerprint: {self.fingerprint}"))
        return lines

    def _headline(self) -> str:
        if self.dry_run:
            return (
                f"Would fetch {self.would_fetch:,} of {_recordings(self.requested)} "
                f"(MP4s: {size_text(self.would_bytes)})" + self._already() + self._losses()
            )
        if not self.requested and self.abort_codes:
            return "Stopped before anything was archived; run again to go on"
        if not self.requested:
            what = "was asked for" if self.sync is None else "is listed or owed"
            return f"Nothing to do: no recording {what}"
        if self.removed and self.already_archived + len(self.removed) == self.requested:
            return "Nothing to do" + self._already() + self._taken_out()
        if self.already_archived == self.requested:
            if self.requested == 1:
                return "Nothing to do: the recording is archived"
            return f"Nothing to do: all {self.requested:,} recordings are archived"
        if not (self.archived or self.files or self.bytes) and (self.abort_messages or self.sync):
            return (
                f"Archived none of {_recordings(self.requested)}" + self._already() + self._losses()
            )
        speed = self.bytes / self.seconds if self.seconds > 0 else 0.0
        return (
            f"Archived {self.archived:,} of {_recordings(self.requested)}: "
            f"{pluralize(self.files, 'file')}, {size_text(self.bytes)} in "
            f"{duration_text(self.seconds)} ({size_text(speed)}/s)"
            + self._already()
            + (f"; {pluralize(self.adopted, 'file')} adopted" if self.adopted else "")
            + self._taken_out()
            + self._losses()
        )

    def _already(self) -> str:
        return f"; {self.already_archived:,} already archived" if self.already_archived else ""

    def _taken_out(self) -> str:
        """Removed ones are neither archived nor failed."""
        if not self.removed:
            return ""
        return f"; {len(self.removed):,} removed earlier, which `--again` would fetch"

    def _losses(self) -> str:
        parts = []
        if self.unavailable:
            parts.append(f"{len(self.unavailable):,} not available yet")
        if self.refused:
            parts.append(f"{len(self.refused):,} refused")
        if self.failed:
            parts.append(f"{self.failed_recordings:,} failed")
        return "; " + ", ".join(parts) if parts else ""


def _size(size: int | None) -> str:
    return "size not told" if size is None else size_text(size)


def _recordings(count: int) -> str:
    return pluralize(count, "recording")
