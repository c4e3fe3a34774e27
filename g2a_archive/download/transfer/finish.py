"""Whole files get flushed, and then their names: many small ones together, others one by one.

Threads of their own wait for the disk while the next files are fetched.
"""

from __future__ import annotations

import errno
import logging
import os
import queue
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from g2a_archive.archive.disk.domains import Operation, local_error
from g2a_archive.archive.disk.flushing import GroupFlush
from g2a_archive.archive.layout import file_name, file_names
from g2a_archive.archive.partial import Partial
from g2a_archive.archive.storage import Storage
from g2a_archive.download.transfer.adoption import adopt_identical
from g2a_archive.download.transfer.results import UNSOLICITED, Complete, Retry, Stored, Transfer
from g2a_archive.errors import storage_error
from g2a_archive.models import StoredFile
from g2a_archive.threads import no_threads_error, spawn

log = logging.getLogger("g2a_archive")

SMALL = 1 << 20
"""Bytes up to which files are flushed together."""

_MANY = 8
"""Small files waiting, as they came while others were flushed, from which on a common flush is
worth it: any number from 4 to 32 is as quick. A slow host's files are flushed one by one."""

_AHEAD = 320
"""Files on their way where they are flushed together: some come while others are flushed."""

_LONG = 1.0
"""Seconds: a common flush that takes longer than this waits for the data of other programs."""

_DISK_ERRORS = {
    *(errno.EIO, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ESTALE),
    *(errno.ENOENT, errno.ENODEV, errno.ENXIO),
}
"""What is no share's refusal to set a time."""

_LARGE_AT_ONCE = 2
_MOST_THREADS = 8

_MOST_OPEN = 8
"""Files that may be open while they wait for a thread; others are opened again."""


Outcome = Stored | Retry | BaseException


class Finisher:
    """Flushes files and names them; `ended` hears what became of each."""

    def __init__(
        self,
        storage: Storage,
        *,
        ended: Callable[[Transfer, Outcome], None],
        jobs: int,
        set_mtime: bool,
    ) -> None:
        self._storage = storage
        self._ended = ended
        self._set_mtime = set_mtime
        self._time_refused = False
        self._together = False
        self._small: queue.SimpleQueue[tuple[Transfer, Complete] | None] = queue.SimpleQueue()
        self._each: queue.SimpleQueue[tuple[Transfer, Complete] | None] = queue.SimpleQueue()
        self._most = min(jobs, _MOST_THREADS)
        self._threads = 0

    def start(self) -> None:
        """Start the threads. Raises `StorageError`."""
        try:
            group = GroupFlush.of(str(self._storage.partial))
        except OSError as error:
            raise storage_error(error, "open", self._storage.partial) from error
        self._together = group is not None and spawn(self._work_groups, group) is not None
        self._start_threads(self._most if group is None else _LARGE_AT_ONCE)
        if not self._threads:
            raise no_threads_error()

    def _start_threads(self, count: int) -> None:
        """Have `count` threads that flush files one by one, as far as there are any."""
        while self._threads < count and spawn(self._work_each):
            self._threads += 1

    @property
    def prefetch(self) -> int:
        """How many files should be on their way at least; known after `start`."""
        return _AHEAD if self._together else 0

    def put(self, transfer: Transfer, complete: Complete) -> None:
        """Take over a file of which all bytes are here and right. Raises `LocalError`."""
        part = complete.part
        small = self._together and part.size < SMALL
        try:
            if small or self._each.qsize() >= _MOST_OPEN:
                part.close_until_flushed()
        except OSError as error:
            raise local_error(error, Operation.WRITE, part.path) from error
        (self._small if small else self._each).put((transfer, complete))

    def close(self) -> None:
        """Let the threads end once they are through with what they have."""
        self._small.put(None)
        for _ in range(self._threads):
            self._each.put(None)

    def _work_each(self) -> None:
        while (one := self._each.get()) is not None:
            self._finish(*one)

    def _work_groups(self, group: GroupFlush) -> None:
        while (first := self._small.get()) is not None:
            waiting = [first]
            with suppress(queue.Empty):
                while (more := self._small.get_nowait()) is not None:
                    waiting.append(more)
                self._small.put(None)
            many = self._together and len(waiting) >= _MANY
            flushed = many and self._flush_together(waiting, group)
            for one in waiting:
                if flushed or self._together:
                    self._finish(*one, flushed=flushed)
                else:
                    self._each.put(one)
        group.close()

    def _flush_together(
        self, waiting: Sequence[tuple[Transfer, Complete]], group: GroupFlush
    ) -> bool:
        """Flush these; False where that failed.

        It may have been of another program's file: what is wrong with ours, each will tell itself.
        """
        began = time.monotonic()
        try:
            for transfer, complete in waiting:
                self._apply_mtime(transfer, complete.part)
            group.flush()
            flushed = True
        except Exception:
            flushed = False
        if not flushed or time.monotonic() - began > _LONG:
            # From here on each file is flushed by itself, several at a time.
            self._together = False
            self._start_threads(self._most)
        return flushed

    def _finish(self, transfer: Transfer, complete: Complete, *, flushed: bool = False) -> None:
        """Flush a file, unless it is, and name it; whatever becomes of it, the run hears of it."""
        part = complete.part
        outcome: Outcome
        try:
            if not flushed:
                self._apply_mtime(transfer, part)
                part.sync()
            if complete.answer.is_suspect:
                part.discard()
                outcome = UNSOLICITED
            else:
                outcome = self._publish(transfer, part)
        except OSError as error:
            outcome = local_error(error, Operation.WRITE, part.path)
        except BaseException as error:
            outcome = error
        if isinstance(outcome, BaseException):
            with suppress(Exception):
                part.save_complete()
        self._ended(transfer, outcome)

    def _publish(self, transfer: Transfer, part: Partial) -> Stored:
        """Give a flushed file its name. Raises `StorageError`."""
        head = part.head
        part.close()
        digest = part.sha.hexdigest()
        name = file_name(transfer.recording, transfer.kind, head)
        path = f"{transfer.directory}/{name}"
        self._storage.make_directory(transfer.directory)
        # Where nothing stood as it began, one look is enough: on a share that takes 2 ms for each,
        # the others cost a tenth of the time of small files.
        names: tuple[str, ...] = (name,)
        if transfer.found is not None:
            names = file_names(transfer.recording, transfer.kind)
            there = f"{self._storage.root}/{path}"
            if (adopted := adopt_identical(transfer, there, part.size, digest)) is not None:
                part.discard()
                return adopted
        stored = StoredFile(transfer.recording, transfer.kind, path, part.size, digest)
        aside = self._storage.publish(part.path, transfer.directory, names, name)
        part.remove_control_file()
        return Stored(stored, aside=aside)

    def _apply_mtime(self, transfer: Transfer, part: Partial) -> None:
        """`--set-mtime`. A share may refuse it; that is no reason to lose a recording.

        Raises `OSError` where it is the disk that fails.
        """
        if not self._set_mtime:
            return
        try:
            when = transfer.start.timestamp()
            os.utime(part.path, (when, when), follow_symlinks=False)
        except (OverflowError, ValueError):  # where times have 32 bits
            log.warning(
                "recording %d: cannot set the time of its file: the time is out of range",
                transfer.recording,
            )
        except OSError as error:
            if error.errno in _DISK_ERRORS:
                raise
            if not self._time_refused:  # what a share refuses once, it always refuses
                self._time_refused = True
                log.warning(
                    "recording %d: cannot set the time of its file: %s (told once)",
                    transfer.recording,
                    error.strerror,
                )
