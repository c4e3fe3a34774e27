"""Puts a run together: storage, catalogue, plan, service, threads; and takes it apart again."""

from __future__ import annotations

import logging
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from g2a_archive.archive.checksums import write_checksums
from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.archive.database.lookup import archived
from g2a_archive.archive.database.tombstones import finish_removals, restore_in_copy, tombstones
from g2a_archive.archive.disk import strictpath
from g2a_archive.archive.disk.leftovers import remove_stale_partials
from g2a_archive.archive.disk.libc import share_arenas
from g2a_archive.archive.disk.mounts import unmounted_error
from g2a_archive.archive.storage import Storage, catalog_path, is_there
from g2a_archive.console.progress import Display
from g2a_archive.console.report import Report
from g2a_archive.download.plan import Plan, make_plan
from g2a_archive.download.stopping import StopSwitch
from g2a_archive.errors import (
    ArchiverError,
    InputError,
    Interrupted,
    LocalError,
    LockedError,
    unexpected_error,
)
from g2a_archive.models import IdSet, RunSettings, distinct, kinds_mask, utc_now

if TYPE_CHECKING:
    from g2a_archive.service.client import Service
    from g2a_archive.service.session import Authorizer

log = logging.getLogger("g2a_archive")


class Download:
    """One run of `download`, `sync` or `demo`: from IDs to a report."""

    def __init__(
        self,
        settings: RunSettings,
        *,
        command: str,
        credentials: Callable[[], Authorizer],
        switch: StopSwitch,
        display: Display,
    ) -> None:
        self.settings = settings
        self.command = command
        self.credentials = credentials
        self.switch = switch
        self.display = display
        self.root = Path(settings.dest).absolute()
        self._start = time.monotonic()
        self.report = Report(utc_now(), dry_run=settings.dry_run)
        self._unreported: Sequence[int] = ()  # asked for, and nothing is said of it yet
        self._recorded = False
        self._number: int | None = None
        self._asked: Sequence[int] = ()
        self._service: Service | None = None
        self._storage: Storage | None = None
        self.catalog: Catalog  # within `work`

    def archive(self, ids: Iterable[int], *, owed: bool = False) -> Report:
        """Archive `ids`, without doubles and in their order, and what is owed if asked.

        Whatever ends or prevents the run is in the report; raises only `InputError`.
        """
        wanted = distinct(self.select_shard(ids))
        self.add_requested(wanted)
        if not (wanted or owed):
            return self._finished()
        self._unreported = wanted

        def job() -> None:
            more = self.select_shard(self.catalog.owed()) if owed else ()
            self.fetch(distinct(chain(wanted, more)) if owed else wanted)

        return self.work(job)

    def work(self, job: Callable[[], None]) -> Report:
        """Do `job` while the archive is open and `catalog` is there.

        With `--dry-run` the catalogue is only read, and empty where there is none yet. Whatever
        ends or prevents the job is in the report; raises only `InputError`.
        """
        share_arenas()
        limited = self.switch.limited(self.settings.max_duration)
        with self._guarded(), limited, self._opened():
            try:
                with self._guarded():
                    job()
                with self._guarded():
                    self._sweep()
            finally:
                self._record()
        self.report.unfinished.extend(self._unreported)
        return self._finished()

    def _count_without_lock(self) -> None:
        """Another run has the lock: what is archived already is told from its catalogue."""
        with suppress(ArchiverError, Interrupted), self._read() as catalog:
            rows = archived(catalog, self._unreported, kinds_mask(self.settings.kinds))
            done = IdSet(row[0] for row in rows)
            left = array("q", (id_ for id_ in self._unreported if id_ not in done))
            self.report.already_archived += len(self._unreported) - len(left)
            self._unreported = left

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except Interrupted:
            self._stopped()
        except InputError as error:
            self.report.abort_codes.add(error.exit_code)
            raise
        except Exception as error:
            self.record_error(error)
            if isinstance(error, LockedError):
                self._count_without_lock()

    def _stopped(self) -> None:
        if self.switch.code is not None:
            self.report.abort_codes.add(self.switch.code)
        else:
            self.check_time_limit()

    def record_error(self, error: Exception) -> Report:
        """Record what ended the run; of an error that nobody expected, only where it arose."""
        self.report.record_abort(
            error if isinstance(error, ArchiverError) else unexpected_error(error)
        )
        if self.switch.code is not None:
            self.report.abort_codes.add(self.switch.code)
        return self._finished()

    def select_shard(self, ids: Iterable[int]) -> Iterable[int]:
        """Those of `ids` that are this run's business: all, or its `--shard`."""
        shard = self.settings.shard
        return ids if shard is None else shard.select(ids)

    def begin_run(self) -> None:
        """Record that this run has begun; what became of it is recorded at its end."""
        if self._number is None and not self.settings.dry_run:
            self._number = self.catalog.begin_run(self.command)

    def service(self) -> Service:
        """The service's calls, with this run's settings. Raises `CredentialsError`."""
        if self._service is None:
            # Only here is anything needed that speaks HTTP: a night with nothing new stays light.
            from g2a_archive.download.assembly import make_service

            self._service = make_service(self.settings, self.credentials(), self.switch)
            self.catalog.now = self._service.clock.text
        return self._service

    def check_time_limit(self) -> bool:
        """Whether `--max-duration` is over; then it is in the report."""
        if self.switch.timed_out:
            self.report.out_of_time()
        return self.switch.timed_out

    def add_requested(self, ids: Sequence[int]) -> None:
        """Count `ids` as requested, each once."""
        if ids is not self._asked:  # a million IDs need no second copy
            self._asked = distinct(chain(self._asked, ids)) if self._asked else ids
            self.report.requested = len(self._asked)

    def _finished(self) -> Report:
        if self._recorded:
            return self.report
        report = self.report
        report.finished_at = utc_now() if self._service is None else self._service.clock.text()
        # The service may have told meanwhile that the clock was ahead.
        report.started_at = min(report.started_at, report.finished_at)
        self.report.seconds = time.monotonic() - self._start
        return self.report

    @contextmanager
    def _opened(self) -> Iterator[None]:
        settings = self.settings
        stopped = self.switch.event.is_set
        with ExitStack() as stack:
            storage = Storage(self.root, catalog=settings.catalog, min_free=settings.min_free)
            storage.check(create=not settings.no_create)
            if settings.dry_run:
                self.catalog = stack.enter_context(storage.read_catalog(stopped))
                restore_in_copy(self.catalog, storage.root)
            else:
                if not is_there(storage.metadata_dir, strictpath.is_dir):
                    self.credentials()  # without any, nothing should be created
                storage.open(self.switch.lock_callbacks(), create=not settings.no_create)
                stack.callback(storage.close)
                self._storage = storage
                self.catalog = stack.enter_context(storage.open_catalog(stopped))
                finish_removals(self.catalog, storage.root)
            yield

    def _sweep(self) -> None:
        """Remove partial files nobody will ask for again; the catalogue's troubles are told."""
        if self._storage is not None:
            with suppress(ArchiverError):
                remove_stale_partials(self._storage.partial, self.catalog)

    def fetch(self, wanted: Sequence[int]) -> None:
        """Archive what of `wanted` is not archived yet; only within `work`.

        With `--dry-run`: ask for links, count, write nothing.
        """
        report, catalog, storage = self.report, self.catalog, self._storage
        again = self.settings.again
        plan = make_plan(catalog, self.root, wanted, self.settings.kinds, again=again)
        self.add_requested(wanted)
        self._unreported = plan.todo
        report.already_archived += plan.already
        report.unfinished.extend(plan.on_unmounted)
        report.failed.extend(plan.failed)
        report.removed.extend(tombstones(catalog, plan.removed))
        for failure in plan.failed:
            log.error("recording %d: %s", failure.id, failure.reason)
        if plan.unmounted:
            report.record_abort(unmounted_error(plan.unmounted))
        if storage is None:
            self._dry_run(plan)
            return
        storage.unmounted = plan.unmounted
        if not plan.todo:
            self.begin_run()
            try:
                write_checksums(catalog, self.root)
            except LocalError as error:  # of some directories
                report.record_abort(error)
            return
        storage.space.require()
        service = self.service()
        if plan.missing:
            catalog.mark_damaged(plan.missing)
            for id_, kind, _ in plan.missing:
                log.warning("recording %d: %s: its file is gone; fetching it again", id_, kind)
        self.begin_run()
        self._run(storage, catalog, plan, service)

    def _run(self, storage: Storage, catalog: Catalog, plan: Plan, service: Service) -> None:
        from g2a_archive.download.engine import Engine

        engine = Engine(
            self.settings,
            plan,
            self.report,
            service=service,
            catalog=catalog,
            storage=storage,
            switch=self.switch,
        )
        self._unreported = ()
        try:
            with self.display.watch(engine.snapshot):
                engine.execute()
        finally:
            self.report.unfinished.extend(engine.unfinished())
        if self.report.unfinished:
            self.check_time_limit()

    def _record(self) -> None:
        """Keep the run's outcome in the catalogue; a failing disk has been told already."""
        if self._service is not None and (wrong := self._service.clock.skew_warning()):
            log.warning("%s", wrong)
        report, catalog, number = self._finished(), self.catalog, self._number
        # What is wrong with the catalogue is told by others.
        with self._guarded(), suppress(ArchiverError):
            report.fingerprint = catalog.fingerprint()
        if number is None:
            return
        self._recorded = True  # with this time of its end, which stays
        outcome: dict[str, object] = {
            "started_at": report.started_at,
            "finished_at": report.finished_at,
            "exit_code": int(report.exit_code),
            "requested": report.requested,
            "already_archived": report.already_archived,
            "archived": report.archived,
            "unavailable": len(report.unavailable),
            "refused": len(report.refused),
            "failed": report.failed_recordings,
            "files": report.files,
            "bytes": report.bytes,
            "seconds": round(report.seconds, 3),
            "fingerprint": str(report.fingerprint) if report.fingerprint else None,
        }
        try:
            catalog.end_run(number, outcome)
        except ArchiverError as error:
            report.record_abort(error)

    def owed_and_last_success(self) -> tuple[int | None, float | None]:
        """How many recordings are owed, and when a run last ended with 0 (Unix time).

        Read without the lock, as is the fingerprint that the report lacks: also where this run
        could not begin. None where that is not known.
        """
        known = suppress(ArchiverError, Interrupted, OSError)
        with self._guarded(), known, self._read() as catalog:
            if self._service is not None:
                catalog.now = self._service.clock.text
            with catalog.snapshot():
                self.report.fingerprint = self.report.fingerprint or catalog.fingerprint()
                return catalog.owed_count(), catalog.last_success()
        return None, None

    def _read(self) -> Catalog:
        """For what it is nice to know at the end: a signal ends any wait."""
        path = catalog_path(self.root, self.settings.catalog)
        return Catalog(path, readonly=True, interrupted=lambda: self.switch.code is not None)

    def _dry_run(self, plan: Plan) -> None:
        if not plan.todo:
            return
        from g2a_archive.download.assembly import dry_run

        service = self.service()
        self._unreported = ()
        dry_run(self.settings, plan, self.report, catalog=self.catalog, service=service)
