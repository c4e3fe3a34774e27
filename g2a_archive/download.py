"""Puts a run together: storage, catalogue, plan, service, threads; and takes it apart again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import tzinfo
from pathlib import Path

from g2a_archive import layout
from g2a_archive.catalog import Catalog
from g2a_archive.errors import ArchiverError, InputError
from g2a_archive.models import RunSettings, utc_now
from g2a_archive.plan import Plan, make_plan
from g2a_archive.progress import Display
from g2a_archive.report import Report
from g2a_archive.session import Authorizer
from g2a_archive.stopping import StopSwitch
from g2a_archive.storage import Storage, catalog_path, check_destination
from g2a_archive.summing import write_checksums

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
        self._deadline = (
            self._start + settings.max_duration if settings.max_duration is not None else None
        )
        self.report = Report(utc_now(), dry_run=settings.dry_run)
        self.owed_count: int | None = None
        self.last_success: float | None = None
        self.began = False

    def archive(self, ids: Iterable[int], *, owed: bool = False) -> Report:
        """Archive `ids`, without doubles and in their order, and what is owed if asked.

        Whatever ends or prevents the run is in the report; raises only `InputError`.
        """
        wanted = list(dict.fromkeys(ids))
        self.report.requested = len(wanted)
        try:
            if self.settings.dry_run:
                self._rehearse(wanted, owed=owed)
            elif wanted or owed:
                self._really(wanted, owed=owed)
        except InputError:
            raise
        except ArchiverError as error:
            self.report.note(error)
            if not self.began:
                self.report.unfinished = wanted
        return self._finished()

    def _finished(self) -> Report:
        self.report.finished_at = utc_now()
        self.report.seconds = time.monotonic() - self._start
        return self.report

    def _zone(self) -> tzinfo | None:
        return layout.zone(self.settings.timezone) if self.settings.timezone else None

    def _really(self, wanted: list[int], *, owed: bool) -> None:
        settings = self.settings
        storage = Storage(self.root, catalog=settings.catalog, min_free=settings.min_free)
        if not storage.own.is_dir() and not settings.no_create:
            check_destination(self.root)
            self.credentials()  # without any, nothing should be created
        storage.open(create=not settings.no_create)
        try:
            stopped = self.switch.event.is_set
            with Catalog(storage.catalog, interrupted=stopped) as catalog:
                self._with_catalog(storage, catalog, wanted, owed=owed)
        finally:
            storage.close()

    def _with_catalog(
        self, storage: Storage, catalog: Catalog, wanted: list[int], *, owed: bool
    ) -> None:
        report = self.report
        if owed:
            wanted = list(dict.fromkeys([*wanted, *catalog.owed()]))
        plan = make_plan(catalog, self.root, wanted, self.settings.kinds)
        report.requested = len(wanted)
        report.already_archived = plan.already
        if not plan.todo:
            write_checksums(catalog, self.root)
            self._record(catalog, catalog.begin_run(self.command))
            return
        authorizer = self.credentials()
        if plan.missing:
            catalog.damaged(plan.missing)
            for id_, kind, _ in plan.missing:
                log.warning("recording %d: %s: its file is gone; fetching it again", id_, kind)
        number = catalog.begin_run(self.command)
        self.began = True
        try:
            self._run(storage, catalog, plan, authorizer)
        finally:
            self._record(catalog, number)

    def _run(self, storage: Storage, catalog: Catalog, plan: Plan, authorizer: Authorizer) -> None:
        # Only here is anything needed that speaks HTTP: a night with nothing new stays light.
        from g2a_archive.assembly import assemble

        run, pool, look = assemble(
            self.settings,
            plan,
            self.report,
            authorizer=authorizer,
            catalog=catalog,
            storage=storage,
            zone=self._zone(),
            switch=self.switch,
            deadline=self._deadline,
        )
        with self.display.watch(look):
            run.execute(pool)

    def _record(self, catalog: Catalog, number: int) -> None:
        """Keep the run's outcome in the catalogue; a failing disk has been told already."""
        report = self._finished()
        outcome: dict[str, object] = {
            "exit_code": int(report.exit_code),
            "requested": report.requested,
            "already_archived": report.already_archived,
            "archived": report.archived,
            "unavailable": len(report.unavailable),
            "refused": len(report.refused),
            "failed": len(report.failed_recordings()),
            "files": report.files,
            "bytes": report.bytes,
            "seconds": round(report.seconds, 3),
        }
        try:
            catalog.end_run(number, outcome)
            self.owed_count = catalog.owed_count()
            self.last_success = catalog.last_success()
        except ArchiverError as error:
            report.note(error)

    def _rehearse(self, wanted: Sequence[int], *, owed: bool) -> None:
        """`--dry-run`: ask for links, count, write nothing."""
        path = catalog_path(self.root, self.settings.catalog)
        check_destination(self.root)
        catalog = Catalog(path, readonly=True) if path.exists() else None
        try:
            if owed and catalog is not None:
                wanted = list(dict.fromkeys([*wanted, *catalog.owed()]))
            plan = make_plan(catalog, self.root, wanted, self.settings.kinds)
        finally:
            if catalog is not None:
                catalog.close()
        self.report.requested = len(wanted)
        self.report.already_archived = plan.already
        if plan.todo:
            from g2a_archive.assembly import rehearse

            rehearse(
                self.settings,
                plan,
                self.report,
                authorizer=self.credentials(),
                zone=self._zone(),
                switch=self.switch,
                deadline=self._deadline,
            )
