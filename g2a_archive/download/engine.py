"""The run: IDs → chunks → links → transfers → catalogue → report.

The main thread decides and writes the catalogue; it talks to the other threads only through
queues. Nothing is claimed before it is flushed: files by the workers, their directories here,
then one commit for all that ended since the last.
"""

from __future__ import annotations

import heapq
import logging
import queue
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from datetime import tzinfo
from itertools import count

from g2a_archive.archive.catalog import Catalog
from g2a_archive.archive.checksums import write_checksums
from g2a_archive.archive.storage import Storage
from g2a_archive.console.report import Report
from g2a_archive.download.finish import SMALL
from g2a_archive.download.jobs import make_job
from g2a_archive.download.link_queue import LinkFeed
from g2a_archive.download.plan import Plan
from g2a_archive.download.recorder import Book
from g2a_archive.download.results import Again, Failed, NewLink, Stopped, Stored, Transfer
from g2a_archive.download.segments import WORTH_IT, Pieces
from g2a_archive.download.stopping import StopSwitch
from g2a_archive.download.workers import Assisted, Attempted, Broken, Event, Events, Linked, Pool
from g2a_archive.errors import (
    ArchiverError,
    Domain,
    ExitCode,
    Interrupted,
    LocalError,
    StorageError,
)
from g2a_archive.models import LinkAnswer, Recording, RunSettings, State, kinds_mask
from g2a_archive.service.client import Service
from g2a_archive.service.pace import backoff

log = logging.getLogger("g2a_archive")

_LAST_FILES, _MOST_EVENTS, _UNREACHABLE = 8, 256, 3
_GATHER = 0.005  # seconds; small files come by the thousand a second
_STOP_SECONDS = 10.0


class Run:
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
        zone: tzinfo | None,
        switch: StopSwitch,
        deadline: float | None = None,
    ) -> None:
        self._settings = settings
        self._plan = plan
        self.report = report
        self._service = service
        self._catalog = catalog
        self._storage = storage
        self._zone = zone
        self._switch = switch
        self._deadline = deadline
        self.events = Events()
        self._pool: Pool | None = None
        self._feed: LinkFeed | None = None
        self._ready: deque[Transfer] = deque()
        self._delayed: list[tuple[float, int, Transfer]] = []
        self._serial = count()
        self.active: set[Transfer] = set()
        self._helping = 0
        self.book = Book(report, catalog, storage)
        self._queued = False
        # More than there are jobs, so that none waits for this thread.
        self._enough = settings.jobs * 4

    # --- the loop -----------------------------------------------------------------------------

    def execute(self, pool: Pool) -> None:
        """Run until nothing is left, or the switch is off; then everything is recorded.

        What ends a run early (storage, credentials, a signal, the time limit) is in the report.
        """
        self._pool = pool
        self._feed = LinkFeed(self._plan.todo, self._service, pool.ask)
        self._switch.wake = lambda: self.events.put(None)
        try:
            pool.start()
            while self._pending and not self._switch.event.is_set():
                self._pump(time.monotonic())
                self._handle(self._await(time.monotonic()))
                if self._ready and len(self.active) > self._enough // 2:
                    # The workers have enough to do: let a few more events come together, as
                    # waking up for each would take the interpreter from the workers each time.
                    self._switch.event.wait(_GATHER)
                for _ in range(_MOST_EVENTS):
                    if not self.events.waiting:
                        break
                    self._handle(self.events.get())
        except ArchiverError as error:
            self.report.note(error)
        finally:
            self._wind_down()

    @property
    def feed(self) -> LinkFeed:
        assert self._feed is not None, "only while the run executes"
        return self._feed

    @property
    def pool(self) -> Pool:
        assert self._pool is not None, "only while the run executes"
        return self._pool

    @property
    def _pending(self) -> bool:
        return bool(self.feed.pending or self._ready or self._delayed or self.active)

    def _pump(self, now: float) -> None:
        """Hand out what can be done now: link calls, files, a commit."""
        if self._deadline is not None and now >= self._deadline:
            self.report.out_of_time()
            self._switch.stop()
            return
        while self._delayed and self._delayed[0][0] <= now:
            self._ready.appendleft(heapq.heappop(self._delayed)[2])
        handed_out = max(0, len(self.active) - self._enough)
        waiting = (len(self._ready) + handed_out) // len(self._settings.kinds)
        self.feed.pump(now, waiting, idle=not self._ready and not self.active)
        last = not self.feed.pending and len(self._ready) <= self._settings.jobs * _LAST_FILES
        if last:
            # The last ones: large ones first, so that all workers end at about the same time.
            self._ready = deque(sorted(self._ready, key=lambda t: -((t.expected or 0) >> 20)))
        while self._ready and self._room(self._ready[0], last=last):
            transfer = self._ready.popleft()
            transfer.answered = False
            self.active.add(transfer)
            self.pool.fetch(transfer)
        if self._settings.segments > 1 and not self._ready and not self.feed.pending:
            self._lend_hands()
        if self.book.due(now):
            self.book.commit()

    def _room(self, transfer: Transfer, *, last: bool) -> bool:
        """Whether one more file can be handed out; of small ones, as many as flush together."""
        out = len(self.active)
        if last or (transfer.expected or 0) > SMALL:
            return out < self._enough // (2 if last else 1)
        return out < max(self._enough, self.pool.ahead)

    def _lend_hands(self) -> None:
        """Nothing else is left to fetch: idle workers help with the largest files on their way."""
        idle = self._settings.jobs - len(self.active) - self._helping
        for transfer in sorted(self.active, key=lambda t: -t.missing) if idle > 0 else ():
            if not transfer.splittable or transfer.missing < WORTH_IT:
                continue
            most = self._settings.segments - 1 - transfer.helper_failures
            while idle > 0 and transfer.helpers < most:
                if transfer.pieces is None:
                    transfer.pieces = Pieces(self._settings.segments)
                transfer.helpers += 1
                self._helping += 1
                idle -= 1
                self.pool.assist(transfer)

    def _assisted(self, event: Assisted) -> None:
        self._helping -= 1
        event.transfer.helpers -= 1
        if isinstance(event.outcome, BaseException) and not isinstance(event.outcome, LocalError):
            raise event.outcome
        event.transfer.helper_failures += event.outcome is not True

    def _await(self, now: float) -> Event:
        """The next event, or None when it is time to look around."""
        until = self.feed.due(now + 1.0)
        if self.book.uncommitted:
            until = min(until, self.book.commit_at)
        if self._delayed:
            until = min(until, self._delayed[0][0])
        if self._deadline is not None:
            until = min(until, self._deadline)
        try:
            return self.events.get(timeout=max(0.001, until - now))
        except queue.Empty:
            return None

    def _handle(self, event: Event) -> None:
        if isinstance(event, Attempted):
            self._attempted(event)
        elif isinstance(event, Assisted):
            self._assisted(event)
        elif isinstance(event, Linked):
            self._linked(event)
        elif isinstance(event, Broken):
            raise event.error

    # --- links --------------------------------------------------------------------------------

    def _linked(self, event: Linked) -> None:
        self.feed.answered(event.ids)
        answer = event.answer
        if isinstance(answer, BaseException):
            self._link_failure(answer, event.ids)
            return
        if not self._queued and self._service.ever_answered:
            # Only now: before, the credentials may be what is wrong.
            self._queued = True
            self._catalog.queue(self._plan.todo, kinds_mask(self._settings.kinds))
        self._sort_answer(answer)
        if self._service.unreachable_in_a_row >= _UNREACHABLE and self.feed.open:
            for id_ in self.feed.close():
                self.book.fail_recording(id_, "not tried: the service could not be reached")

    def _link_failure(self, error: BaseException, ids: Sequence[int]) -> None:
        if isinstance(error, Interrupted):
            self.report.unfinished += [i for i in ids if i not in self.feed.renewals]
            return
        if not isinstance(error, ArchiverError) or isinstance(error, StorageError):
            raise error
        # No more links; the files whose links are here can still be fetched.
        self.report.unfinished += [i for i in ids if i not in self.feed.renewals]
        self.report.unfinished += self.feed.close()
        for id_ in list(self.feed.renewals):
            for transfer in self.feed.renewals.pop(id_):
                self.book.drop(transfer)
        self.report.note(error)

    def _sort_answer(self, answer: LinkAnswer) -> None:
        for recording in answer.recordings:
            if recording.id in self.feed.renewals:
                self._renew(recording)
            else:
                self._begin(recording)
        for id_, reason in answer.failed.items():
            self._lose(id_, reason, None)
        for id_ in answer.refused:
            self._lose(id_, "the service now refuses this ID", State.REFUSED)
        for id_ in answer.unavailable:
            self._lose(id_, "no longer in the service's answer", State.UNAVAILABLE)

    def _lose(self, id_: int, reason: str, state: State | None) -> None:
        """No links for this recording; one that is under way already fails by its files."""
        if id_ in self.feed.renewals:
            for transfer in self.feed.renewals.pop(id_):
                self.book.fail_file(transfer, f"no new link: {reason}")
            return
        if state is None:
            self.book.fail_recording(id_, reason)
            return
        self.book.lost(id_, state, self._plan.known.get(id_))

    def _begin(self, recording: Recording) -> None:
        known = self._plan.known.get(recording.id)
        old = self._catalog.files_of(recording.id) if known is not None else {}
        try:
            job, transfers = make_job(recording, known, self._settings, self._zone, old)
        except ValueError as error:
            self.book.fail_recording(recording.id, str(error))
            return
        self.book.begin(job, transfers)
        self._ready.extend(transfers)

    def _renew(self, recording: Recording) -> None:
        for transfer in self.feed.renewals.pop(recording.id):
            link = recording.links.get(transfer.kind)
            if link is None:
                self.book.fail_file(transfer, "the service no longer gives a link to it")
                continue
            transfer.link = link
            self._ready.appendleft(transfer)

    # --- what became of a file ----------------------------------------------------------------

    def _attempted(self, event: Attempted) -> None:
        transfer, outcome = event.transfer, event.outcome
        self.active.discard(transfer)
        if isinstance(outcome, Stored):
            self.book.stored(transfer, outcome)
        elif isinstance(outcome, Again):
            self._again(transfer, outcome)
        elif isinstance(outcome, NewLink):
            self._new_link(transfer, outcome)
        elif isinstance(outcome, Failed):
            self.book.fail_file(transfer, outcome.reason)
        elif isinstance(outcome, Stopped):
            self.book.drop(transfer)
        elif isinstance(outcome, LocalError):
            self._refused_here(transfer, outcome)
        else:
            raise outcome

    def _refused_here(self, transfer: Transfer, error: LocalError) -> None:
        """The disk refuses this file. Raises `StorageError` where it proves to refuse all."""
        if error.domain is Domain.PASSING:
            return self._again(transfer, Again(str(error)))
        if error.domain is not Domain.FILE:
            self._storage.try_out(error)
        return self.book.fail_file(transfer, str(error))

    def _again(self, transfer: Transfer, outcome: Again) -> None:
        if outcome.progress:
            transfer.attempts = 0
        transfer.attempts += 1
        if transfer.attempts > self._settings.retries:
            self.book.fail_file(transfer, outcome.reason)
            return
        wait = backoff(transfer.attempts, outcome.wait)
        log.warning(
            "recording %d: %s: %s, retry %d/%d in %.1f s",
            transfer.recording,
            transfer.kind,
            outcome.reason,
            transfer.attempts,
            self._settings.retries,
            wait,
        )
        item = (time.monotonic() + wait, next(self._serial), transfer)
        heapq.heappush(self._delayed, item)

    def _new_link(self, transfer: Transfer, outcome: NewLink) -> None:
        if transfer.renewed and not outcome.aged:
            self.book.fail_file(transfer, f"{outcome.reason}, also with a new link")
            return
        if ExitCode.CREDENTIALS in self.report.ends:  # nobody can be asked for another
            self.book.drop(transfer)
            return
        transfer.renewed = transfer.renewed or not outcome.aged
        log.info(
            "recording %d: %s: %s; asking for a new one",
            transfer.recording,
            transfer.kind,
            outcome.reason,
        )
        self.feed.want_new_link(transfer, time.monotonic())

    # --- the end --------------------------------------------------------------------------------

    def _wind_down(self) -> None:
        """Stop what still runs, record all that is finished, bring the checksums up to date."""
        unfinished = self.feed.unfinished() if self.feed.open else []
        if self._pending or self.book.jobs:
            self._switch.stop()
            self.pool.abort()
            self._drain()
        self.pool.close()
        self.report.unfinished += unfinished
        waiting = [
            *self._ready,
            *self.active,
            *(transfer for _, _, transfer in self._delayed),
            *(transfer for some in self.feed.renewals.values() for transfer in some),
        ]
        self.report.bytes += self.book.received + sum(one.received for one in waiting)
        if self.report.failed and not self._service.ever_answered:
            self.report.ends.add(ExitCode.SERVICE)
        if self._switch.code is not None:
            self.report.ends.add(self._switch.code)
        for job in list(self.book.jobs.values()):
            job.dropped = True
            self.book.end(job)
        try:
            self.book.commit()
            write_checksums(self._catalog, self._storage.root)
        except ArchiverError as error:
            self.book.give_up()
            self.report.note(error)

    def _drain(self) -> None:
        """Take in what the workers end with, now that they are asked to stop.

        A connect cannot be interrupted, and need not be waited for: nothing is written then.
        """
        until = time.monotonic() + _STOP_SECONDS
        while any(one.answered for one in self.active) and time.monotonic() < until:
            with suppress(queue.Empty):
                event = self.events.get(timeout=max(0.0, until - time.monotonic()))
                if not isinstance(event, Attempted):
                    continue
                if isinstance(event.outcome, Stored):
                    self._attempted(event)
                    continue
                self.active.discard(event.transfer)
                self.book.received += event.transfer.received
                outcome = event.outcome
                if isinstance(outcome, ArchiverError) and not isinstance(outcome, LocalError):
                    self.report.note(outcome)
