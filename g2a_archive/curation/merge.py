"""Other archives taken into one, so that SIGKILL at any instant costs nothing but time.

The order of each step: files are imported under their final names (`merge_files`), flushed,
and recorded; with `--move` only then taken out of the source, and at last out of its catalogue.
What a killed merge had imported and not recorded, the next one finds in its place; what it had
taken out and not forgotten, the next one finds in the target.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from g2a_archive.archive import layout
from g2a_archive.archive.checksums import write_checksums
from g2a_archive.archive.database import inventory, pages
from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.archive.database.tombstones import (
    finish_removals,
    is_outdated,
    remove_empty_directories,
    restore_in_copy,
)
from g2a_archive.archive.disk.lock import NoLocksError, RunLock, lock_paths
from g2a_archive.archive.disk.mounts import MissingPart, require_some_mounted, unmounted_error
from g2a_archive.archive.storage import Storage, catalog_path, is_there
from g2a_archive.console.progress import Display, Snapshot
from g2a_archive.curation import merge_rows as rows
from g2a_archive.curation.merge_files import FileImporter, device_of, is_one
from g2a_archive.curation.merge_report import MergeReport
from g2a_archive.curation.merge_rows import RecordingRows
from g2a_archive.curation.merge_source import SourceArchive, SourceError, source_errors
from g2a_archive.curation.merge_work import SourceMerger
from g2a_archive.download.stopping import StopSwitch
from g2a_archive.errors import (
    ArchiverError,
    InputError,
    Interrupted,
    NewerCatalogError,
    StorageError,
)
from g2a_archive.models import RunSettings, utc_now

_UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)


class Merge:
    """One run of `merge`."""

    def __init__(
        self,
        settings: RunSettings,
        sources: Sequence[SourceArchive],
        *,
        move: bool,
        switch: StopSwitch,
        display: Display,
    ) -> None:
        self._settings = settings
        self._sources = list(sources)
        self._move = move
        self._switch = switch
        self._display = display
        self._root = Path(settings.dest).absolute()
        self._zone = layout.zone(settings.timezone)
        self._total = 0
        self._copied_bytes = 0
        self._catalog: Catalog  # once it is open
        self._files: FileImporter | None = None
        self._away: Sequence[MissingPart] = ()
        names = [source.name for source in self._sources]
        self.report = MergeReport(utc_now(), names, dry_run=settings.dry_run, move=move)

    def run(self) -> MergeReport:
        """Do it. What ends it once it has begun is in the report.

        Raises what forbids to begin: `InputError`, `LockedError`, `StorageError`.
        """
        begun = time.monotonic()
        self._check()
        with ExitStack() as stack:
            number = self._open(stack)
            with self._display.watch(self._snapshot):
                try:
                    self._take_all()
                except Interrupted:
                    self.report.abort_codes |= {self._switch.code} if self._switch.code else set()
                except ArchiverError as error:
                    self.report.record_abort(error)
                self._settle()
            self.report.finished_at = utc_now()
            self.report.seconds = time.monotonic() - begun
            if number is not None:
                self._record(number)
        return self.report

    def _snapshot(self) -> Snapshot:
        report = self.report
        count = self._copied_bytes or None
        failed = len(report.failed) + len(report.contradictions)
        return Snapshot("Merging", report.recordings, self._total, count, failed=failed)

    # --- before and after -------------------------------------------------------------------

    def _check(self) -> None:
        """Refuse, before anything is touched, what cannot be meant, or is of a newer program.

        Of several sources, one that cannot be read is told, and keeps no other out.
        """
        target = catalog_path(self._root, self._settings.catalog)
        seen: dict[str, str] = {os.path.realpath(target): "the archive itself"}
        root = Path(os.path.realpath(self._root))
        for source in self._sources:
            real = Path(os.path.realpath(source.root))
            with suppress(OSError):  # a mount may show it in two places
                real = root if is_one(os.stat(real), os.stat(root)) else real
            if real == root:
                raise InputError(f"{source.name} is the archive that it is to be merged into")
            if root in real.parents or real in root.parents:
                raise InputError(
                    f"of {source.name} and {self._root}, one lies within the other",
                    hint="move it out, or choose another --dest",
                )
            place = os.path.realpath(source.catalog)
            if place in seen:
                raise InputError(f"{source.name} has the same catalogue as {seen[place]}")
            seen[place] = source.name
        failed: dict[SourceArchive, StorageError] = {}
        for source in self._sources:
            try:
                self._total += self._count_of(source)
            except NewerCatalogError:
                raise
            except StorageError as error:
                failed[source] = error
                if len(failed) == len(self._sources):
                    raise
        for source, why in failed.items():
            self._sources.remove(source)
            self.report.record_abort(why, source.name)

    def _open(self, stack: ExitStack) -> int | None:
        """The target: for writing, or only to be read in a dry run."""
        settings, stop = self._settings, self._switch.event.is_set
        storage = Storage(self._root, catalog=settings.catalog, min_free=settings.min_free)
        if settings.dry_run:
            self._catalog = stack.enter_context(storage.read_catalog(stop))
            restore_in_copy(self._catalog, self._root)
            self._look_for_drives(self._catalog)
            return None
        storage.open(self._switch.lock_callbacks(), create=not settings.no_create)
        stack.callback(storage.close)
        self._catalog = stack.enter_context(storage.open_catalog(stop))
        finish_removals(self._catalog, self._root)  # what a killed `remove` has left
        self._look_for_drives(self._catalog)
        storage.unmounted = self._away
        self._files = stack.enter_context(FileImporter(storage, stop, self._count))
        return self._catalog.begin_run("merge")

    def _look_for_drives(self, catalog: Catalog) -> None:
        """Tell which of the target's are not mounted; raise `StorageError` where none is."""
        self._away = require_some_mounted(catalog, self._root)
        if self._away:
            self.report.record_abort(unmounted_error(self._away))

    def _count(self, count: int) -> None:
        self._copied_bytes += count

    def _settle(self) -> None:
        """Write the target's `SHA256SUMS`, also of what came before the merge was stopped."""
        if self._files is None:
            return
        try:
            with suppress(Interrupted):
                finish_removals(self._catalog, self._root)  # of the tombstones that came
            write_checksums(self._catalog, self._root)
            fingerprint = self._catalog.fingerprint()
            self.report.fingerprint = str(fingerprint) if fingerprint else None
        except ArchiverError as error:
            self.report.record_abort(error)

    def _record(self, number: int) -> None:
        report = self.report
        outcome: dict[str, object] = {
            "finished_at": report.finished_at,
            "exit_code": int(report.exit_code),
            "requested": report.recordings,
            "already_archived": report.alike,
            "archived": report.archived,
            "failed": len({one.id for one in (*report.failed, *report.contradictions)}),
            "files": report.files,
            "bytes": report.bytes,
            "seconds": round(report.seconds, 3),
            "fingerprint": report.fingerprint,
        }
        try:
            self._catalog.end_run(number, outcome)
        except ArchiverError as error:
            report.record_abort(error)

    # --- one source after the other ---------------------------------------------------------

    def _take_all(self) -> None:
        """Take all sources; one that cannot be had does not keep the others out."""
        for source in self._sources:
            with ExitStack() as stack:
                try:
                    locks = [] if self._settings.dry_run else self._locked(source, stack)
                    readonly = self._settings.dry_run or not self._move
                    catalog = self._opened(source.catalog, readonly=readonly, locks=locks)
                    stack.enter_context(catalog)
                except ArchiverError as error:
                    self.report.record_abort(error, source.name)
                    continue
                self._take_source(source, catalog)

    def _locked(self, source: SourceArchive, stack: ExitStack) -> list[RunLock]:
        """Both locks of a source, as a run there would take them; or as much as can be had."""
        own, beside = map(RunLock, lock_paths(source.root / layout.ARCHIVE_DIR, source.catalog))
        locks = [beside, own] if source.elsewhere else [own]
        for lock in locks:
            with suppress(NoLocksError):
                try:
                    lock.acquire(self._switch.lock_callbacks())
                except StorageError as error:
                    code = getattr(error.__cause__, "errno", None)
                    if self._move or code not in _UNWRITABLE:
                        raise
                    lock.acquire_shared(self._switch.lock_callbacks())
                stack.callback(lock.release)
        return locks

    def _take_source(self, source: SourceArchive, catalog: Catalog) -> None:
        taker = SourceMerger(
            source,
            catalog,
            self._root,
            self._catalog,
            self._files,
            self.report,
            layout=self._settings.layout,
            zone=self._zone,
            stop=self._switch.event.is_set,
            away=self._away,
        )
        if self._files is not None:
            self._files.copying = device_of(source.root) != device_of(self._root)
        try:
            if is_outdated(catalog, source.root):  # what it calls archived was removed for good
                raise SourceError(
                    f"{source.catalog} is older than the last removal there, as from a backup",
                    hint=f"`g2a-archive download --owed -d {source.root}` brings it up to date",
                )
            for entries in self._pages(catalog):
                taker.merge_page(entries)
            # Only where all of it was taken is here what `sync` has found there.
            if not taker.incomplete:
                with source_errors():
                    scans = rows.Scans.of(catalog)
                if self._files is not None:
                    rows.merge_scans(self._catalog, scans)
        except SourceError as error:  # the other sources may well be fine
            self.report.record_abort(error, source.name)
        finally:
            if self._move and not catalog.readonly:
                self._tidy(source, catalog)

    def _tidy(self, source: SourceArchive, catalog: Catalog) -> None:
        """Bring up to date what tells of the files that a source no longer has."""
        try:
            gone = catalog.stale_directories()
            write_checksums(catalog, source.root)
            remove_empty_directories(source.root, gone)
            pages.write_again(catalog, source.root)
        except ArchiverError as error:
            self.report.record_abort(error, source.name)

    def _pages(self, catalog: Catalog) -> Iterator[list[RecordingRows]]:
        after = 0
        while True:
            if self._switch.event.is_set():
                raise Interrupted
            with source_errors():
                entries = rows.page(catalog, after)
            if not entries:
                return
            yield entries
            after = entries[-1].id

    def _count_of(self, source: SourceArchive) -> int:
        """How many recordings a source knows. Raises `StorageError`."""
        if not is_there(source.catalog):
            raise StorageError(
                f"there is no archive at {source.name}: {source.catalog} does not exist",
                hint="is the drive mounted? ARCHIVE=CATALOG names a catalogue elsewhere; "
                "`verify --rebuild` brings back a lost one",
            )
        with self._opened(source.catalog, readonly=True) as catalog:
            return inventory.count(catalog)

    def _opened(self, path: Path, *, readonly: bool, locks: Sequence[RunLock] = ()) -> Catalog:
        def held() -> None:
            for lock in locks:
                lock.require()

        stop = self._switch.event.is_set
        return Catalog(path, readonly=readonly, interrupted=stop, held=held)
