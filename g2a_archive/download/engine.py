"""The run: IDs → chunks → links → transfers → catalogue → report.

The main thread decides and writes the catalogue; to the other threads it talks through queues.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from g2a_archive.archive.checksums import write_checksums
from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.archive.database.lookup import begun
from g2a_archive.archive.disk.space import NoRoomError
from g2a_archive.archive.storage import Storage
from g2a_archive.console.progress import FileView, Snapshot
from g2a_archive.console.report import Report
from g2a_archive.download.assembly import make_tools
from g2a_archive.download.cores import CpuAffinity
from g2a_archive.download.jobs import make_task
from g2a_archive.download.link_queue import LinkQueue
from g2a_archive.download.plan import Plan
from g2a_archive.download.recorder import Recorder
from g2a_archive.download.schedule import Schedule
from g2a_archive.download.stopping import StopSwitch
from g2a_archive.download.transfer.results import Failed, NewLink, Retry, Stored, Transfer
from g2a_archive.download.workers import Assisted, Attempted, Event, Linked, Workers
from g2a_archive.errors import (
    ArchiverError,
    Domain,
    ExitCode,
    Interrupted,
    LocalError,
    StorageError,
)
from g2a_archive.models import LinkResult, Recording, RunSettings, State, kinds_mask
from g2a_archive.service.client import Service
from g2a_archive.service.pace import backoff
from g2a_archive.threads import sleep

log = logging.getLogger("g2a_archive")

_UNREACHABLE = 3
_STOP_SECONDS = 10.0


class Engine:
    """Archives what a plan has to do. One object, one run."""

    def __init__(
        self,
        settings: RunSettings,
        plan: Plan,
        report: Report,
        *,
        service: Service,
        catalog: Catalog,
        storage: Storage,
        switch: StopSwitch,
    ) -> None:
        tools = make_tools(settings, storage, switch)
        self._settings = settings
        self._mask = kinds_mask(settings.kinds)
        self._plan = plan
        self._report = report
        self._service = service
        self._catalog = catalog
        self._storage = storage
        self._switch = switch
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        ask = partial(service.links, of=len(plan.todo))
        self._workers = Workers(self._events, tools, ask, set_mtime=settings.set_mtime)
        self._network = tools.downloads.network
        self._links = LinkQueue(plan.todo, service, self._workers.ask)
        self._recorder = Recorder(report, catalog, storage)
        hosts = tools.downloads.hosts
        self._schedule = Schedule(hosts, jobs=tools.jobs, segments=settings.segments)
        self._queued = False
        self._cores = CpuAffinity()

    def snapshot(self) -> Snapshot:
        """How far the run is. For another thread: what it reads may change meanwhile."""
        files = []
        recorder = self._recorder
        received = recorder.received
        for transfer in list(self._schedule.active):
            part, segments = transfer.part, transfer.segments
            received += transfer.received
            if transfer.sending and part is not None and part.size:
                here = max(part.size, segments.here) if segments is not None else part.size
                files.append(FileView(transfer.name, here, part.total))
        total, count = len(self._plan.todo), recorder.expected_count
        return Snapshot(
            what="Archiving",
            done=recorder.settled,
            total=total,
            bytes=received,
            bytes_total=recorder.expected_bytes * total // count if count else None,
            failed=len(self._report.failed),
            files=tuple(files),
        )

    def unfinished(self) -> Sequence[int]:
        """What of the plan nothing else is told of, once the run has ended."""
        return self._recorder.unreported(self._plan.todo)

    # --- the loop -----------------------------------------------------------------------------

    def execute(self) -> None:
        """Run until nothing is left, or the switch is off; then everything is recorded.

        What ends a run early (storage, credentials, a signal, the time limit) is in the report.
        """
        self._switch.wake = lambda: self._events.put(None)
        try:
            self._workers.start()
            while not self._switch.event.is_set() and (self._pending or self._requeue_suspects()):
                self._pump(time.monotonic())
                self._handle(self._next_event(time.monotonic()))
        except ArchiverError as error:
            self._report.record_abort(error)
        finally:
            self._wind_down()

    @property
    def _pending(self) -> bool:
        return self._links.pending or self._schedule.pending

    def _requeue_suspects(self) -> bool:
        """Nothing is left to do: is what came what was asked for? What may not be, comes again."""
        self._recorder.commit()
        self._switch.event.wait(self._network.late_wait())
        again = self._recorder.requeue_suspects(self._network.pop_suspects(), self._mask)
        self._plan.known.update((one.id, one) for one in begun(self._catalog, again, self._mask))
        self._links.requeue(again)
        return self._pending

    def _pump(self, now: float) -> None:
        """Hand out what can be done now: link calls, files, a commit."""
        schedule = self._schedule
        waiting = schedule.waiting // len(self._settings.kinds)
        self._links.pump(now, waiting, idle=schedule.idle)
        schedule.hand_out(self._workers, now, more=self._links.pending)
        if now >= self._recorder.commit_at:
            self._recorder.commit()

    def _next_event(self, now: float) -> Event:
        """The next event, or None when it is time to look around."""
        self._network.end_overdue()
        self._cores.update(now, self._report.files, self._recorder.received)
        due = self._links.due_at, self._recorder.commit_at, self._schedule.next_at
        until = min(now + 1.0, *due)
        try:
            return self._events.get(timeout=max(0.001, until - now))
        except queue.Empty:
            return None

    def _handle(self, event: Event) -> None:
        if isinstance(event, Attempted):
            self._attempted(event)
        elif isinstance(event, Assisted):
            self._schedule.helped(event.transfer, well=event.outcome is True)
            if isinstance(event.outcome, BaseException):
                raise event.outcome
        elif isinstance(event, Linked):
            self._linked(event)

    # --- links --------------------------------------------------------------------------------

    def _linked(self, event: Linked) -> None:
        self._links.answered(event.ids)
        answer = event.answer
        if isinstance(answer, BaseException):
            self._link_failure(answer)
            return
        self._sort_answer(answer)  # first: the catalogue may fail, and what came of these is told
        self._record_queued()
        if self._service.unreachable_in_a_row >= _UNREACHABLE:
            for id_ in self._links.close():
                self._recorder.fail_recording(id_, "not tried: the service could not be reached")
                if time.monotonic() >= self._recorder.commit_at:  # they may be a million
                    self._recorder.commit()

    def _record_queued(self) -> None:
        """All that was asked for is owed, once a call was accepted: before, the credentials may be
        what is wrong. And where files will be named, before any is: a killed run records none."""
        places = self._recorder.pop_directories()
        if self._service.ever_answered and (places or not self._queued):
            ids = () if self._queued else self._plan.todo
            self._queued = True
            self._catalog.queue(ids, self._mask, places)

    def _link_failure(self, error: BaseException) -> None:
        if not isinstance(error, ArchiverError | Interrupted) or isinstance(error, StorageError):
            raise error
        if isinstance(error, Interrupted):
            return
        # No more links; the files whose links are here can still be fetched.
        self._links.close()
        for id_ in list(self._links.renewals):
            for transfer in self._links.renewals.pop(id_):
                self._recorder.defer(transfer)
        self._report.record_abort(error)

    def _sort_answer(self, answer: LinkResult) -> None:
        for recording in answer.recordings:
            if recording.id in self._links.renewals:
                self._renew(recording)
            else:
                self._begin(recording)
        for id_, reason in answer.failed.items():
            self._handle_no_links(id_, reason, None)
        for id_ in answer.refused:
            self._handle_no_links(id_, "the service now refuses this ID", State.REFUSED)
        for id_ in answer.unavailable:
            self._handle_no_links(id_, "no longer in the service's answer", State.UNAVAILABLE)

    def _handle_no_links(self, id_: int, reason: str, state: State | None) -> None:
        """No links for this recording; one that is under way already fails by its files."""
        if id_ in self._links.renewals:
            for transfer in self._links.renewals.pop(id_):
                self._recorder.fail_file(transfer, f"no new link: {reason}")
            return
        if state is None:
            self._recorder.fail_recording(id_, reason)
            return
        self._recorder.record_unavailable(id_, state, self._plan.known.get(id_))

    def _begin(self, recording: Recording) -> None:
        known = self._plan.known.get(recording.id)
        try:
            task, transfers = make_task(recording, known, self._settings, self._catalog)
        except ValueError as error:
            self._recorder.fail_recording(recording.id, str(error))
            return
        self._recorder.begin(task, transfers)
        self._schedule.add(transfers)

    def _renew(self, recording: Recording) -> None:
        for transfer in self._links.renewals.pop(recording.id):
            link = recording.links.get(transfer.kind)
            if link is None:
                self._recorder.fail_file(transfer, "the service no longer gives a link to it")
                continue
            transfer.link = link
            if transfer.expected is not None:
                transfer.expected = recording.size
            self._schedule.add_first(transfer)

    # --- what became of a file ----------------------------------------------------------------

    def _attempted(self, event: Attempted) -> None:
        transfer, outcome = event.transfer, event.outcome
        self._returned(event)
        if isinstance(outcome, Stored):
            self._recorder.stored(transfer, outcome)
        elif isinstance(outcome, Retry):
            self._retry(transfer, outcome)
        elif isinstance(outcome, NewLink):
            self._new_link(transfer, outcome)
        elif isinstance(outcome, Failed):
            self._recorder.fail_file(transfer, outcome.reason)
        elif isinstance(outcome, LocalError):
            self._handle_local_error(transfer, outcome)
        elif isinstance(outcome, NoRoomError):
            self._no_room(transfer, outcome)
        elif isinstance(outcome, BaseException):
            raise outcome

    def _returned(self, event: Attempted) -> None:
        transfer = event.transfer
        self._schedule.returned(transfer, whole=isinstance(event.outcome, Stored))
        self._storage.space.release(transfer)
        self._recorder.received += transfer.received
        transfer.received = 0

    def _handle_local_error(self, transfer: Transfer, error: LocalError) -> None:
        """The disk refuses this file. Raises `StorageError` where it proves to refuse all."""
        if error.domain is Domain.TRANSIENT:
            self._retry(transfer, Retry(str(error)))
            return
        if error.domain is not Domain.FILE:
            self._storage.require_writable(error)
        self._recorder.fail_file(transfer, str(error))

    def _no_room(self, transfer: Transfer, error: NoRoomError) -> None:
        """The run ends for large files; what is under way, and what is small, still comes."""
        self._report.record_abort(error)  # once
        self._links.close()
        for one in (transfer, *self._schedule.pop_large()):
            self._recorder.defer(one)

    def _retry(self, transfer: Transfer, outcome: Retry) -> None:
        transfer.failed_host = outcome.failed_host
        if outcome.failed_host and not outcome.not_sent:
            self._schedule.refused(transfer, often=outcome.often)
        if not outcome.progress:
            self._recorder.record_error(transfer, outcome.reason)
        if outcome.not_sent:
            self._schedule.delay(transfer, time.monotonic())
            return
        if outcome.progress:
            transfer.attempts, transfer.renewed = 0, False
        if transfer.is_last_attempt:
            self._recorder.fail_file(transfer, outcome.reason)
            return
        transfer.attempts += 1
        wait = backoff(transfer.attempts, outcome.wait)
        which = transfer.recording, transfer.kind
        tries = transfer.attempts, transfer.retries, wait
        text = "recording %d: %s: %s, retry %d/%d in %.1f s"
        log.warning(text, *which, outcome.reason, *tries)
        self._schedule.delay(transfer, time.monotonic() + wait, first=outcome.progress)

    def _new_link(self, transfer: Transfer, outcome: NewLink) -> None:
        if transfer.renewed and outcome.failed:
            self._recorder.fail_file(transfer, f"{outcome.reason}, also with a new link")
            return
        if ExitCode.CREDENTIALS in self._report.abort_codes:  # nobody can be asked for another
            self._recorder.defer(transfer)
            return
        transfer.renewed = transfer.renewed or outcome.failed
        which = transfer.recording, transfer.kind
        log.info("recording %d: %s: %s; asking for a new one", *which, outcome.reason)
        self._links.want_new_link(transfer, time.monotonic())

    # --- the end --------------------------------------------------------------------------------

    def _wind_down(self) -> None:
        """Stop what still runs, record all that is finished, bring the checksums up to date."""
        self._cores.release()
        if self._pending:
            self._switch.stop()
        sleep(self._network.late_wait())  # also where the run is stopped
        if self._pending:
            self._network.abort()
            self._drain()
        under_way = sum(one.received for one in self._schedule.active)
        self._report.bytes += self._recorder.received + under_way
        if self._report.failed and not self._service.ever_answered:
            self._report.abort_codes.add(ExitCode.SERVICE)
        if self._switch.code is not None:
            self._report.abort_codes.add(self._switch.code)
        for task in list(self._recorder.tasks.values()):
            task.dropped = True
            self._recorder.end(task)
        try:
            try:
                # The run may have ended between two calls for the first chunk.
                self._record_queued()
                self._recorder.commit()
                # If it was stopped:
                self._recorder.requeue_suspects(self._network.pop_suspects(), self._mask)
            finally:
                self._workers.close()  # others can have the threads
            write_checksums(self._catalog, self._storage.root)
        except ArchiverError as error:
            self._report.record_abort(error)

    def _drain(self) -> None:
        """Record what the workers end with, now that they are asked to stop.

        A connect cannot be interrupted, and need not be waited for: nothing is written then.
        """
        until = time.monotonic() + _STOP_SECONDS
        while any(one.answered for one in self._schedule.active) and time.monotonic() < until:
            with suppress(queue.Empty):
                event = self._events.get(timeout=max(0.0, until - time.monotonic()))
                if not isinstance(event, Attempted):
                    continue
                self._returned(event)
                outcome = event.outcome
                if isinstance(outcome, Stored):
                    self._recorder.stored(event.transfer, outcome)
                elif isinstance(outcome, ArchiverError) and not isinstance(outcome, LocalError):
                    self._report.record_abort(outcome)
