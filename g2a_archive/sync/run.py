"""`sync`: find what the service has, archive it as `download` does, then tell the service.

The order of a run: list; mark what an earlier run left; ask for transcoding (so that it goes on
while we download); archive, the oldest first; wait for transcodings; mark; give up.

Where windows were needed, the catalogue remembers how far all is found, and the next run begins a
week before that: a recording may become ready late. What was seen once, it remembers by itself.
"""

from __future__ import annotations

import logging
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice

from g2a_archive.console.progress import Snapshot
from g2a_archive.console.report import Report, SyncReport
from g2a_archive.download.run import Download
from g2a_archive.errors import (
    ArchiverError,
    CredentialsError,
    ExitCode,
    ServiceError,
    UnreachableError,
)
from g2a_archive.models import IdSet, ListState, State, SyncSettings, iso, pluralize
from g2a_archive.service.clock import MAX_SKEW
from g2a_archive.service.pace import sleep_or_interrupt
from g2a_archive.sync.listing import Listing, Query, each_query, queries
from g2a_archive.sync.state import SyncState, Unmarked
from g2a_archive.sync.windows import Span, span_of

log = logging.getLogger("g2a_archive")

OVERLAP = 7 * 86400
"""Seconds before the end of the last listing from which the next one looks again."""

ASK_AGAIN = 20 * 3600.0
"""Seconds for which a transcoding is not asked for again: less than from one night to the next."""

FIRST_POLL = 10.0
SLOWEST_POLL = 60.0
"""Seconds between two looks at transcodings: more and more, up to this."""

_FEW = 16
"""Where so many that the service lists are refused one by one, the credentials lack the right."""

_SERIOUS = {ExitCode.STORAGE, ExitCode.CREDENTIALS, ExitCode.SIGINT, ExitCode.SIGTERM}


class Sync:
    """One run of `sync`. `clock` is monotonic seconds, `wait` waits and may be interrupted."""

    def __init__(
        self,
        download: Download,
        settings: SyncSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] | None = None,
    ) -> None:
        self._download = download
        self._settings = settings
        self._clock = clock
        self._wait = wait or (lambda seconds: sleep_or_interrupt(download.switch.event, seconds))
        self._queries = queries(settings.selection)
        self._state: SyncState  # once the archive is open
        self._refused: list[CredentialsError] = []
        self.report = download.report
        self.sync = self.report.sync = SyncReport()

    def run(self) -> Report:
        """Do it. Whatever ends or prevents it is in the report; raises only `InputError`."""
        return self._download.work(self._job)

    def _job(self) -> None:
        self._download.service()  # without credentials, nothing begins
        self._download.begin_run()
        scopes = [query.scope for query in self._queries]
        download = self._download
        clock, run = download.service().clock, download.settings
        self._state = SyncState(download.catalog, scopes, clock, run.shard, run.kinds)
        found = self._list()
        try:
            self._archive(found)
        finally:
            self._tell(self._refused)  # not before: what the other keys have is archived first
        self._give_up()

    def _archive(self, found: Listing) -> None:
        self._state.reset_future_times()
        if self._stopped():
            return
        self._mark(found, first=True)
        waiting = self._waiting(found)
        asked = self._transcode(waiting)
        self._download.fetch(self._todo(found, IdSet(waiting)))
        self._wait_for(asked)
        self._mark(found)

    def _stopped(self) -> bool:
        """Whether this run should begin nothing more."""
        switch = self._download.switch
        if switch.code is not None:
            self.report.abort_codes.add(switch.code)
        return self._download.check_time_limit() or bool(self.report.abort_codes & _SERIOUS)

    # --- finding ----------------------------------------------------------------------------

    def _list(self) -> Listing:
        """Ask for everything there is; what is found is remembered answer by answer."""
        service = self._download.service()
        found = Listing(service.ready, service.clock, shard=self._download.settings.shard)
        try:
            with self._download.display.watch(found.snapshot):
                failed = each_query(self._queries, lambda query: self._list_query(found, query))
        finally:
            self.sync.listed, self.sync.calls = len(found.ids()), found.calls
            self.sync.overflowing = found.overflowing
        self._refused = [error for error in failed if isinstance(error, CredentialsError)]
        unheard = (CredentialsError, UnreachableError)
        if len(self._refused) == len(self._queries) or (
            failed and found.calls <= len(failed) and all(isinstance(e, unheard) for e in failed)
        ):
            self._tell(failed)
            raise failed[0]  # nor would the link call be heard, for what is owed
        self._tell(error for error in failed if error not in self._refused)
        return found

    def _tell(self, errors: Iterable[ArchiverError]) -> None:
        for error in errors:
            self.report.record_error(error)

    def _list_query(self, found: Listing, query: Query) -> None:
        if self._stopped():
            return
        selection, state = self._settings.selection, self._state
        usual = selection.since is None and selection.until is None
        windows_before = state.ever_scanned(query.scope)
        for one in found.walk(query, lambda: self._span(query)):
            remember = usual and (one.walked or windows_before)
            state.record_window(one, scanned=one.complete_until if remember else None)
            if self._stopped():
                return
        if usual:
            self._close_gaps(found, query)

    def _span(self, query: Query) -> Span:
        """Which starts to ask for, by what is known of the time now."""
        chosen = span_of(self._settings.selection, self._download.service().clock.best())
        scanned = self._state.complete_until(query.scope)
        if chosen.begin or chosen.end or self._settings.full or scanned is None:
            return chosen
        if self._settings.mark_archived:
            # What is marked is not listed any more: one call may well tell all the rest.
            return Span(resume=scanned - OVERLAP)
        return Span(begin=scanned - OVERLAP)

    def _close_gaps(self, found: Listing, query: Query) -> None:
        """Look again at seconds that once held more than the service told."""
        for second in self._state.gaps(query.scope):
            if iso(second) in found.overflowing:
                continue
            self._state.record_window(found.second(query, second))

    # --- what to do -------------------------------------------------------------------------

    def _waiting(self, found: Listing) -> array[int]:
        """What waits to be transcoded, and is of interest: to be told as not available yet."""
        ids = found.ids(ListState.TRANSCODE)
        done = self._state.not_wanted(ids)
        waiting = array("q", (id_ for id_ in ids if id_ not in done))
        self._download.add_requested(waiting)
        self.report.unavailable.extend(waiting)
        self.sync.waiting = waiting
        return waiting

    def _todo(self, found: Listing, waiting: IdSet) -> array[int]:
        """What is ready, and what is owed from earlier runs, in the order of its start.

        Also that of which the service did not offer a file at the first look.
        """
        owed = ((one.id, one.rank) for one in self._state.owed() if one.id not in waiting)
        return found.ready_and(chain(self._state.unoffered(), owed))

    # --- transcoding ------------------------------------------------------------------------

    def _transcode(self, waiting: Sequence[int]) -> list[int]:
        """Ask for what is to be transcoded; returns all whose transcoding is under way."""
        if not self._settings.transcode:
            return []
        clock = self._download.service().clock
        recent, latest = iso(int(clock.now() - ASK_AGAIN)), iso(int(clock.best()) + MAX_SKEW)
        owed = self._state.owed()
        under_way = {one.id for one in owed if recent <= (one.transcode_at or "") <= latest}
        wanted = [id_ for id_ in waiting if id_ not in under_way]
        self.sync.to_transcode = len(wanted)
        if self._download.settings.dry_run:
            return []

        transcode = self._download.service().transcode
        for ids in self._accepted(wanted, transcode, "transcode it", IdSet(wanted)):
            self._state.asked_for_transcoding(ids)
            self.sync.transcoding += len(ids)
            under_way.update(ids)
        return sorted(under_way)

    def _wait_for(self, asked: Sequence[int]) -> None:
        """Look for transcodings that end, gently, and archive what becomes ready."""
        seconds = self._settings.wait
        if seconds is None or self._download.settings.dry_run or not asked:
            return
        ours = IdSet(asked)
        owed = {
            one.id: one.rank
            for one in self._state.owed()
            if one.state is State.UNAVAILABLE and one.id in ours
        }
        pending = [id_ for id_ in asked if id_ in owed]
        until, delay = self._clock() + seconds, FIRST_POLL
        total = len(pending)

        def look() -> Snapshot:
            return Snapshot("Waiting for transcoding", total - len(pending), total, None)

        while pending and not self._stopped():
            left = until - self._clock()
            if left <= 0:
                log.info("%d are not transcoded yet; the next run looks again", len(pending))
                return
            with self._download.display.watch(look):
                self._wait(min(delay, left))
                ready = self._ready_of(pending)
            delay = min(SLOWEST_POLL, delay * 1.5)
            if ready:
                pending = [id_ for id_ in pending if id_ not in ready]
                left_out = (i for i in self.report.unavailable if i not in ready)
                self.report.unavailable = array("q", left_out)
                self._download.fetch(sorted(ready, key=lambda id_: owed[id_]))
                delay = FIRST_POLL

    def _ready_of(self, pending: Sequence[int]) -> set[int]:
        """Those that the service gives links to by now. The link call tells it best: it takes
        their IDs, where the list call could be full of others.
        """
        service, ready = self._download.service(), set()
        for ids in _chunks(pending, service.chunk_limit):
            ready |= {recording.id for recording in service.links(ids).recordings}
        return ready

    # --- marking ----------------------------------------------------------------------------

    def _mark(self, found: Listing, *, first: bool = False) -> None:
        """Mark what is archived whole: in the catalogue, and its files on disk.

        What is not is told at the end only: of what is gone, this run may fetch it again.
        """
        if not self._settings.mark_archived or self.report.abort_codes & _SERIOUS:
            return
        here, ready = array("q"), found.ids(ListState.DOWNLOAD)
        for one in self._state.unmarked(ready):
            missing = self._missing(one)
            if missing is None:
                here.append(one.id)
            elif not first and one.id not in self.sync.refused:
                self._problems([one.id], f"not marked as archived: {missing} is not as recorded")
        self.sync.to_mark = len(here)
        if self._download.settings.dry_run:
            return

        listed, valid, others = IdSet(ready), array("q"), array("q")
        for id_ in here:
            if id_ not in self.sync.refused:
                (valid if id_ in listed else others).append(id_)
        mark = self._download.service().mark_archived
        for ids in self._accepted(valid + others, mark, "mark it as archived", listed):
            self._state.record_marked(ids)
            self.sync.marked += len(ids)

    def _missing(self, one: Unmarked) -> str | None:
        """The first of a recording's files that is not there, or has another size; or None."""
        for path, size in one.files:
            try:
                if (self._download.root / path).stat().st_size != size:
                    return path
            except OSError:
                return path
        return None

    # --- the rest ---------------------------------------------------------------------------

    def _give_up(self) -> None:
        """Call lost, loudly, what has been owed for too long; not in a run that was cut short."""
        if self._settings.give_up_after is None or self.report.abort_codes:
            return
        report = self.report
        missed = IdSet(report.unavailable + report.refused + report.failed.ids)
        now = self._download.service().clock.now()
        for one in self._state.give_up(now - self._settings.give_up_after):
            if self._download.settings.dry_run and one.id not in missed:
                continue  # a real run would have it by now
            log.error(
                "recording %d: given up and lost: owed since %s, tried %s: %s",
                one.id,
                one.since,
                pluralize(one.tries, "time"),
                one.reason,
            )
            self.sync.lost.append(one.id)

    def _problems(self, ids: Iterable[int], what: str) -> None:
        for id_ in ids:
            log.error("recording %d: %s", id_, what)
            self.sync.refused[id_] = what

    def _accepted(
        self, ids: Sequence[int], call: Callable[[list[int]], list[int]], what: str, listed: IdSet
    ) -> Iterator[list[int]]:
        """Make calls for at most 500 IDs each; yields those that each was accepted for.

        One that fails to the end leaves the rest. `call` returns what is refused, which takes two
        calls each. So the first is for few: are they all `listed`, thus valid, and all refused, so
        would be all the others.
        """
        limit = self._download.service().chunk_limit
        few = list(ids[: min(_FEW, limit)])
        rest = _chunks(ids[len(few) :], limit)
        try:
            for some in chain([few] if few else [], rest):
                if self._stopped():
                    return
                refused = call(some)
                among = set(refused)
                yield [id_ for id_ in some if id_ not in among]
                self._problems(refused, f"the service refuses to {what}")
                if some is few and len(refused) == _FEW and all(i in listed for i in few):
                    self._refused.append(
                        CredentialsError(
                            f"the service refuses this for each of {_FEW} recordings that it lists",
                            hint="may these credentials transcode and mark? check their scopes",
                        )
                    )
                    return
        except ServiceError as error:
            self.report.record_error(error)


def _chunks(ids: Sequence[int], size: int) -> Iterable[list[int]]:
    rest = iter(ids)
    while some := list(islice(rest, size)):
        yield some
