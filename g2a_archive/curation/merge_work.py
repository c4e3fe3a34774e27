"""The recordings of a source, a page at a time: decided, imported, recorded, deleted there."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import tzinfo
from pathlib import Path
from typing import Any

from g2a_archive.archive import layout
from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.archive.disk.flushing import flush_directory
from g2a_archive.archive.disk.mounts import MissingPart, missing_parts, unmounted_error
from g2a_archive.curation import merge_rows as rows
from g2a_archive.curation.merge_files import (
    NOT_HELD,
    FileImporter,
    ImportedFile,
    IncomingFile,
    NotTakenError,
    examine,
    remove_files,
)
from g2a_archive.curation.merge_report import MergeReport, NotTaken
from g2a_archive.curation.merge_rows import MergePlan, RecordingRows
from g2a_archive.curation.merge_source import SourceArchive, SourceError, source_errors
from g2a_archive.errors import Interrupted, StorageError, storage_error
from g2a_archive.models import FileKind, State, StoredFile, utc_now

_COPIED_AT_ONCE = 1 << 30
"""Bytes that are copied before they are recorded: no more than that is read again after a kill."""


@dataclass(slots=True)
class Work:
    """One recording on its way."""

    source: RecordingRows
    target: RecordingRows | None
    plan: MergePlan
    directory: str | None
    placements: list[IncomingFile] = field(default_factory=list)
    placed: dict[FileKind, dict[str, Any]] = field(default_factory=dict)
    ready: set[FileKind] = field(default_factory=set)  # right there by what was just done or seen
    missed: dict[FileKind, str] = field(default_factory=dict)
    untouched: bool = False


@dataclass(slots=True)
class SourceMerger:
    """Merges recordings of a source, with `source_catalog`, into the target, with `catalog`.

    Without `files`, nothing is done, and what would be is counted.
    """

    source: SourceArchive
    source_catalog: Catalog
    root: Path
    catalog: Catalog
    files: FileImporter | None
    report: MergeReport
    layout: str
    zone: tzinfo | None
    stop: Callable[[], bool]
    away: Sequence[MissingPart] = ()
    """The parts of the target that are not mounted."""
    unmounted: Sequence[MissingPart] | None = None
    """Those of the source, once they were looked for."""
    incomplete: bool = False
    """Whether some recordings were left out that the target may not know."""

    def merge_page(self, entries: Sequence[RecordingRows]) -> None:
        """Merge a page of the source's recordings.

        Raises `StorageError` where the target takes nothing any more, `SourceError` where the
        source can be had no further, and `Interrupted`.
        """
        held = rows.entries_of(self.catalog, [entry.id for entry in entries])
        works = []
        for entry in entries:
            self.report.recordings += 1
            target = held.get(entry.id)
            plan = rows.decide(entry, target)
            if not plan.contradicts and self._has_local_files(entry, target):
                plan = MergePlan(contradicts={None: "removed there, and its files are here"})
            if plan.kept_out:
                self._tell(self.report.removed, entry.id, None, "removed from this archive")
            for kind, reason in plan.contradicts.items():
                self._tell(self.report.contradictions, entry.id, kind, reason)
            if not plan.kept_out and not plan.contradicts:
                works.append(self._work(entry, target, plan))
        works = self._mounted(works)
        if self.files is None:
            self._dry_run(works)
            return
        for some in self._parts(self.files, works):
            full = None
            try:
                self._import(self.files, some)
            except StorageError as error:  # what has come until then is recorded all the same
                full = error
            done = self._commit(self.files, some)
            if self.report.move:
                self._delete_from_source(self.files, done)
            if full is not None:
                raise full
            if self.stop():
                raise Interrupted

    def _has_local_files(self, entry: RecordingRows, target: RecordingRows | None) -> bool:
        """Whether files stand here of what was removed there, though no catalogue tells of them.

        As after this archive has lost its own: they are not to go unasked.
        """
        removed = (one is not None and one.state is State.REMOVED for one in (entry, target))
        if tuple(removed) != (True, False) or not (directory := self._directory(entry, target)):
            return False
        names = (name for kind in FileKind for name in layout.file_names(entry.id, kind))
        return any(os.path.lexists(f"{self.root}/{directory}/{name}") for name in names)

    def _mounted(self, works: list[Work]) -> list[Work]:
        """Without what lies, there or here, on a drive that is not mounted: that is no damage.

        Nor can it be deleted there, whether it is here already or not.
        """
        needed = {
            work.source.id
            for work in works
            if work.placements or (self.report.move and work.source.files)
        }
        if not needed:
            return works
        if self.unmounted is None:
            with source_errors():
                self.unmounted = missing_parts(self.source_catalog, self.source.root)
            if self.unmounted:
                self.incomplete = True
                self.report.record_abort(unmounted_error(self.unmounted), self.source.name)
        there = self.unmounted
        away = {
            work.source.id
            for work in works
            if any(part.holds(work.source.row["directory"]) for part in there)
            or any(part.holds(work.directory) for part in self.away)
        }
        left = [work for work in works if work.source.id not in needed & away]
        if self.away and len(left) < len(works):
            self.incomplete = True
        return left

    def _tell(self, where: list[NotTaken], id_: int, kind: FileKind | None, reason: str) -> None:
        self.report.not_taken(where, NotTaken(id_, kind, self.source.name, reason))

    def _work(self, entry: RecordingRows, target: RecordingRows | None, plan: MergePlan) -> Work:
        work = Work(entry, target, plan, self._directory(entry, target))
        for kind in plan.lacks:
            work.missed[kind] = entry.files[kind]["damage"]
        for kind in plan.take:
            file = entry.files[kind]
            name = file["path"].rpartition("/")[2]
            if work.directory is None or not _is_ours(entry.id, kind, file["path"]):
                work.missed[kind] = "its path is none that this program makes"
                continue
            work.placements.append(
                IncomingFile(
                    entry.id,
                    kind,
                    f"{self.source.root}/{file['path']}",
                    file["size"],
                    file["sha256"],
                    work.directory,
                    name,
                    mends=target is not None and kind in target.files,
                )
            )
        for kind, reason in work.missed.items():
            self._tell(self.report.failed, entry.id, kind, reason)
        return work

    def _directory(self, entry: RecordingRows, target: RecordingRows | None) -> str | None:
        """Where a recording belongs in the target: by its start, as a download would have it."""
        if target is not None and target.row["directory"]:
            return str(target.row["directory"])
        with suppress(ValueError):
            start = layout.parse_start(entry.row["start_time"])
            return layout.directory_for(start, self.layout, self.zone)
        with suppress(ValueError):  # of a rebuilt catalogue, which knows no start
            return layout.checked_directory(entry.row["directory"] or "")
        return None

    def _parts(self, files: FileImporter, works: list[Work]) -> Iterator[list[Work]]:
        """What is imported and recorded together."""
        some: list[Work] = []
        size = 0
        for work in works:
            size += sum(one.size for one in work.placements)
            some.append(work)
            if files.copying and size >= _COPIED_AT_ONCE:
                yield some
                some, size = [], 0
        if some:
            yield some

    def _dry_run(self, works: list[Work]) -> None:
        for work in works:
            for one in work.placements:
                try:
                    examine(one.source, one.size)
                except NotTakenError as error:
                    self._tell(self.report.failed, one.recording, one.kind, error.reason)
                    work.missed[one.kind] = error.reason
                else:
                    self.report.files += 1
                    self.report.bytes += one.size
                    work.placed[one.kind] = work.source.files[one.kind]
            self._tally(work, self._merged(work))

    # --- one part ---------------------------------------------------------------------------

    def _import(self, files: FileImporter, works: list[Work]) -> None:
        """Import the files; what became of each is in `works`."""
        by_id = {work.source.id: work for work in works}
        now = utc_now()
        for one, result in files.import_files(
            [work.placements for work in works if work.placements]
        ):
            work = by_id[one.recording]
            if isinstance(result, NotTakenError):
                where = self.report.contradictions if result.contradicts else self.report.failed
                self._tell(where, one.recording, one.kind, result.reason)
                work.missed[one.kind] = result.reason
                work.untouched = work.untouched or result.contradicts or result.here
                continue
            file = StoredFile(one.recording, one.kind, result.path, one.size, one.sha256)
            old = work.source.files[one.kind]
            checked = result.how == "linked"
            work.placed[one.kind] = rows.file_row(file, old, checked=checked, now=now)
            work.ready.add(one.kind)
            self._count_file(one, result)

    def _count_file(self, one: IncomingFile, result: ImportedFile) -> None:
        report = self.report
        report.files += 1
        report.bytes += one.size
        report.linked += result.how == "linked"
        report.copied += result.how == "copied"
        if result.aside is not None:
            report.kept_aside.append(result.aside)

    def _commit(self, files: FileImporter, works: list[Work]) -> list[Work]:
        """Flush, then record; returns the works that are recorded, or were nothing new."""
        unflushed = files.flush()
        done: list[Work] = []
        entries: list[RecordingRows] = []
        files_rows: list[dict[str, Any]] = []
        for work in works:
            settled = work.placed.keys() | work.missed.keys()
            if work.untouched or not settled >= set(work.plan.take):  # or asked to stop
                self.incomplete = True
                continue
            place = f"{self.root}/{work.directory}/" if work.directory else ""
            why = [error for path, error in unflushed.items() if place.startswith(f"{path}/")]
            if why:
                self.incomplete = True
                self._tell(self.report.failed, work.source.id, None, str(why[0]))
                continue
            entry = self._merged(work)
            if self._tally(work, entry):
                entries.append(entry)
                files_rows += work.placed.values()
            done.append(work)
        known = {w.target.id for w in works if w.target and w.target.state is State.REMOVED}
        removed = [e.id for e in entries if e.state is State.REMOVED and e.id not in known]
        with source_errors():
            past = rows.past_files(self.source_catalog, removed) if removed else []
        if entries:
            rows.write(self.catalog, entries, files_rows, removed, past)
        return done

    def _merged(self, work: Work) -> RecordingRows:
        return rows.merged(
            work.source,
            work.target,
            placed=work.placed,
            missed=work.missed,
            directory=work.directory,
            now=utc_now(),
        )

    def _tally(self, work: Work, entry: RecordingRows) -> bool:
        """Count a recording; returns whether it brought anything new."""
        if entry == work.target:
            self.report.alike += not work.missed
            return False
        self.report.merged += 1
        self.report.archived += bool(work.placed)
        return True

    # --- --move -----------------------------------------------------------------------------

    def _delete_from_source(self, files: FileImporter, works: list[Work]) -> None:
        """Empty the source of what the target has by now: files first, then what told of them."""
        gone: list[int] = []
        places: set[str] = set()
        try:
            for work in works:
                if work.missed or work.source.state is State.REMOVED:
                    continue
                if (stays := self._not_held(files, work)) is not None:
                    self._tell(self.report.failed, work.source.id, *stays)
                    continue
                its = [f"{self.source.root}/{file['path']}" for file in work.source.files.values()]
                places.update(map(os.path.dirname, its))
                try:
                    remove_files(its)
                except OSError as error:
                    self._report_undeleted(work, error)
                    continue
                gone.append(work.source.id)
        finally:  # also where it is asked to stop: the source claims nothing that it has no more
            with source_errors():
                self._flush(places)
                if gone:
                    rows.forget(self.source_catalog, gone)
            self.report.moved += len(gone)

    def _report_undeleted(self, work: Work, error: OSError) -> None:
        """Report a recording that cannot be deleted from its source, which is not this one's."""
        if error.errno == errno.EROFS:
            why = storage_error(error, "remove what was merged from", self.source.root)
            raise SourceError(why.message, hint=why.hint) from error
        reason = f"it is here now, and cannot be taken out of there: {error.strerror}"
        self._tell(self.report.failed, work.source.id, None, reason)

    def _flush(self, places: set[str]) -> None:
        try:
            for place in places:
                with suppress(FileNotFoundError):
                    flush_directory(place)
        except OSError as error:
            what = "remove what was merged from"
            raise storage_error(error, what, self.source.root) from error

    def _not_held(self, files: FileImporter, work: Work) -> tuple[FileKind, str] | None:
        """A file that must stay in the source, whatever the target's catalogue says, and why."""
        here = {**(work.target.files if work.target is not None else {}), **work.placed}
        for kind, file in work.source.files.items():
            mine, path = here.get(kind), f"{self.source.root}/{file['path']}"
            if mine is None or mine["damage"] or not _is_ours(work.source.id, kind, file["path"]):
                return kind, NOT_HELD
            place, size, sha256 = mine["path"], mine["size"], mine["sha256"]
            if why := files.target_problem(place, size, sha256, path, seen=kind in work.ready):
                return kind, why
        return None


def _is_ours(recording: int, kind: FileKind, path: str) -> bool:
    """Whether a path in a catalogue, which anybody may have written, is one of an archive's."""
    directory, _, name = path.rpartition("/")
    return name in layout.file_names(recording, kind) and layout.is_directory(directory)
