"""What has become of each recording of a run: report, log and catalogue, always in step.

Nothing is recorded before it is flushed: files by the workers, their directories here, then one
commit for all that ended since the last.
"""

from __future__ import annotations

import logging
import math
import time
from array import array
from collections.abc import Iterable, Sequence

from g2a_archive.archive.database.catalog import Catalog, RecordingResult
from g2a_archive.archive.database.lookup import KnownRecording, archived
from g2a_archive.archive.storage import Storage
from g2a_archive.console.report import Report
from g2a_archive.download.jobs import RecordingTask
from g2a_archive.download.transfer.results import Stored, Transfer
from g2a_archive.errors import LocalError
from g2a_archive.models import Failure, FileKind, IdSet, Rows, State, distinct, pluralize
from g2a_archive.transport.connections import HostPort

log = logging.getLogger("g2a_archive")

_BATCH_SECONDS = 0.25


class Recorder:
    """Kept by the run's main thread; others may look at its numbers."""

    def __init__(self, report: Report, catalog: Catalog, storage: Storage) -> None:
        self.report = report
        self._catalog = catalog
        self._storage = storage
        self.tasks: dict[int, RecordingTask] = {}
        self._begun: list[RecordingTask] = []  # and the catalogue does not know yet where
        # What came on connections that were in use before, by their host: recording, kind, and
        # whether it was adopted.
        self._unproved: dict[HostPort, Rows[tuple[int, FileKind, bool]]] = {}
        self._fetched: set[tuple[int, FileKind]] = set()  # by this run, and suspect
        # What ended, and is not in the catalogue yet.
        self._ended: list[RecordingResult] = []
        self._flush: set[str] = set()
        self._archived_ids: list[int] = []
        self._reported = array("q")  # recordings that are counted, or listed, in the report
        self.commit_at = math.inf  # monotonic seconds
        self.received = 0
        self.expected_bytes = 0
        self.expected_count = 0
        self.settled = 0

    def begin(self, task: RecordingTask, transfers: Sequence[Transfer]) -> None:
        """A recording whose links have come is under way."""
        self.tasks[task.recording.id] = task
        self.expected_bytes += sum(transfer.expected or 0 for transfer in transfers)
        self.expected_count += 1
        for kind, reason in task.failures.items():
            log.error("recording %d: %s: %s", task.recording.id, kind, reason)
        if not task.waiting:
            self.end(task)
        else:
            self._begun.append(task)

    def pop_directories(self) -> list[tuple[int, str, str]]:
        """Where files will be named of what has begun since the last time: ID, directory, start."""
        begun, self._begun = self._begun, []
        return [(task.recording.id, task.directory, task.recording.start_text) for task in begun]

    def record_unavailable(
        self, id_: int, state: State, known: KnownRecording | None = None
    ) -> None:
        """The service left a recording out of its answer, or refused its ID."""
        if known is not None and known.looked_at_again:  # and the file still is not offered
            self._record_result(RecordingResult(id_, State.ARCHIVED, unoffered=known.unoffered))
            self.report.already_archived += 1
            return
        refused = state is State.REFUSED
        (self.report.refused if refused else self.report.unavailable).append(id_)
        text = "refused by the service" if refused else "not available yet"
        log.info("recording %d: %s", id_, text)
        self._record_result(RecordingResult(id_, state, reason=text))

    def stored(self, transfer: Transfer, outcome: Stored) -> None:
        """A file is under its final name, flushed."""
        self._flush.add(f"{self._storage.root}/{transfer.directory}")
        task = self.tasks[transfer.recording]
        task.files.append(outcome.file)
        task.troubles.pop(transfer.kind, None)
        adopted = outcome.adopted and (transfer.recording, transfer.kind) not in self._fetched
        for host in transfer.reused_hosts:
            rows = self._unproved.setdefault(host, Rows(lambda *row: row))
            rows.append((transfer.recording, transfer.kind, adopted))
        if adopted:
            self.report.adopted += 1
            log.info("recording %d: %s: adopted, it was there", transfer.recording, transfer.kind)
        else:
            self.report.files += 1
            log.info("recording %d: %s: %s", transfer.recording, transfer.kind, outcome.file.path)
        for aside in outcome.aside:
            name = f"{transfer.directory}/{aside}"
            self.report.kept_aside.append(name)
            log.warning(
                "recording %d: another file stood in its place; it is kept as %s",
                transfer.recording,
                name,
            )
        self._finish_file(task, transfer)

    def record_error(self, transfer: Transfer, reason: str) -> None:
        """An attempt at a file brought nothing; should the run end now, that is remembered."""
        self.tasks[transfer.recording].troubles[transfer.kind] = reason

    def fail_file(self, transfer: Transfer, reason: str) -> None:
        """A file will not come in this run."""
        log.error("recording %d: %s: %s", transfer.recording, transfer.kind, reason)
        task = self.tasks[transfer.recording]
        task.failures[transfer.kind] = reason
        self._finish_file(task, transfer)

    def fail_recording(self, id_: int, reason: str) -> None:
        """A recording failed before any of its files was begun."""
        log.error("recording %d: %s", id_, reason)
        self.report.failed.append(Failure(id_, None, reason))
        self._record_result(RecordingResult(id_, State.FAILED, reason=reason))

    def defer(self, transfer: Transfer) -> None:
        """Leave a file for the next run; what arrived of it is kept in `partial/`."""
        task = self.tasks[transfer.recording]
        task.dropped = True
        self._finish_file(task, transfer)

    def _finish_file(self, task: RecordingTask, transfer: Transfer) -> None:
        task.waiting.discard(transfer.kind)
        if not task.waiting:
            self.end(task)

    def end(self, task: RecordingTask) -> None:
        """Nothing of this recording is under way any more."""
        del self.tasks[task.recording.id]
        for kind, reason in task.failures.items():
            self.report.failed.append(Failure(task.recording.id, kind, reason))
        self._record_result(task.result())
        if task.dropped or task.failures:
            return
        if task.archived_before and not task.files:
            self.report.already_archived += 1  # a file that was not offered still is not
        else:
            self._archived_ids.append(task.recording.id)

    def _record_result(self, result: RecordingResult) -> None:
        if not self._ended:
            self.commit_at = time.monotonic() + _BATCH_SECONDS
        self._ended.append(result)
        self.settled += 1
        if result.state is not State.QUEUED:
            self._reported.append(result.id)

    def commit(self) -> None:
        """Flush the directories of what ended, then record it, in one transaction."""
        unflushed = self._storage.flush(self._flush)
        self._flush.clear()
        for directory, error in unflushed.items():
            self._fail_unflushed(directory, error)
        self._catalog.record_results(self._ended)
        self._ended.clear()
        self.commit_at = math.inf
        self.report.archived += len(self._archived_ids)
        self._archived_ids.clear()

    def _fail_unflushed(self, directory: str, error: LocalError) -> None:
        """What was named in a directory that cannot be flushed has failed.

        Raises `StorageError` where it is the archive as a whole that cannot be written.
        """
        self._storage.require_writable(error)
        for one in self._ended:
            place = f"{self._storage.root}/{one.directory}/"
            if not one.files or not place.startswith(f"{directory}/"):
                continue
            for file in one.files:
                one.kinds &= ~file.kind.bit
            one.files.clear()
            one.state, one.reason = State.FAILED, str(error)
            log.error("recording %d: %s", one.id, error)
            self.report.failed.append(Failure(one.id, None, str(error)))
            self._reported.append(one.id)
            if one.id in self._archived_ids:
                self._archived_ids.remove(one.id)
        for task in self.tasks.values():  # another flush, that works, would not prove these
            if task.files and f"{self._storage.root}/{task.directory}/".startswith(f"{directory}/"):
                task.failures |= dict.fromkeys((file.kind for file in task.files), str(error))
                task.files.clear()
                log.error("recording %d: %s", task.recording.id, error)

    def requeue_suspects(self, hosts: Iterable[HostPort], mask: int) -> Sequence[int]:
        """What came from these hosts on connections in use before may be other recordings' files:
        it is owed again. Returns the recordings that were archived with all kinds of `mask`.

        Only while no recording is under way, and all is committed. Raises `CatalogError`.
        """
        unproved = (self._unproved.pop(host, ()) for host in hosts)
        rows = sorted(row for some in unproved for row in some)
        suspects = {(id_, kind): adopted for id_, kind, adopted in rows}
        if not suspects:
            return ()
        ids = distinct(id_ for id_, _ in suspects)
        again = array("q", (id_ for id_, _, _ in archived(self._catalog, ids, mask)))
        self._catalog.mark_suspect(suspects)
        fetched = {file for file, adopted in suspects.items() if not adopted}
        self._fetched |= fetched
        self.report.archived -= len(again)
        self.report.adopted -= len(suspects) - len(fetched)
        self.report.files -= len(fetched)
        self.settled -= len(again)
        among = IdSet(again)
        self._reported = array("q", (id_ for id_ in self._reported if id_ not in among))
        log.warning(
            "a file host sent what nobody had asked for: %s may be of other recordings, "
            "and will be fetched again",
            pluralize(len(suspects), "file"),
        )
        return again

    def unreported(self, ids: Iterable[int]) -> Sequence[int]:
        """Those of `ids` that are left for the next run, with what could not be committed."""
        reported, archived_ids = IdSet(self._reported), IdSet(self._archived_ids)
        return array("q", (id_ for id_ in ids if id_ not in reported or id_ in archived_ids))
