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
from typing import Any

from g2a_archive.archive.disk.domains import Doing, local_error
from g2a_archive.archive.disk.flushing import GroupFlush, flush_file
from g2a_archive.archive.disk.hashing import hash_file
from g2a_archive.archive.layout import file_name, file_names
from g2a_archive.archive.partial import Partial
from g2a_archive.archive.storage import Storage
from g2a_archive.download.transfer.results import UNASKED, Again, Stored, Transfer
from g2a_archive.errors import StorageError, storage_error
from g2a_archive.models import StoredFile
from g2a_archive.threads import no_threads, spawn

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


Ending = tuple[Transfer, Stored | Again | BaseException]


class Finisher:
    """Flushes files and names them; `ended` hears of each."""

    def __init__(
        self,
        storage: Storage,
        *,
        ended: Callable[[Sequence[Ending]], None],
        jobs: int,
        set_mtime: bool,
    ) -> None:
        self._storage = storage
        self._ended = ended
        self._set_mtime = set_mtime
        self._time_refused = False
        self._together = False
        self._small: queue.SimpleQueue[Transfer | None] = queue.SimpleQueue()
        self._each: queue.SimpleQueue[Transfer | None] = queue.SimpleQueue()
        self._most = min(jobs, _MOST_THREADS)
        self._threads = 0

    def start(self) -> None:
        """Start the threads. Raises `StorageError`."""
        try:
            group = GroupFlush.of(str(self._storage.partial))
        except OSError as error:
            raise storage_error(error, "open", self._storage.partial) from error
        self._together = group is not None
        if group is not None and not spawn(self._work_groups, group):
            self._together = False
        self._start_threads(self._most if group is None else _LARGE_AT_ONCE)

    def _start_threads(self, count: int) -> None:
        """Have `count` threads that flush files one by one."""
        while self._threads < count and spawn(self._work_each):
            self._threads += 1
        if not self._threads:
            raise no_threads()

    @property
    def ahead(self) -> int:
        """How many files should be on their way at least; known after `start`."""
        return _AHEAD if self._together else 0

    def put(self, transfer: Transfer) -> None:
        """Take over a file of which all bytes are here and right. Raises `LocalError`."""
        part = transfer.part
        assert part is not None
        small = self._together and transfer.size < SMALL
        try:
            if small or self._each.qsize() >= _MOST_OPEN:
                part.put_away()
        except OSError as error:
            raise local_error(error, Doing.WRITE, part.path) from error
        (self._small if small else self._each).put(transfer)

    def close(self) -> None:
        """Let the threads end once they are through with what they have."""
        self._small.put(None)
        for _ in range(self._threads):
            self._each.put(None)

    def _work_each(self) -> None:
        while (transfer := self._each.get()) is not None:
            self._guarded([transfer], self._finish, transfer)

    def _work_groups(self, group: GroupFlush) -> None:
        while (first := self._small.get()) is not None:
            waiting = [first]
            with suppress(queue.Empty):
                while (more := self._small.get_nowait()) is not None:
                    waiting.append(more)
                self._small.put(None)
            if self._together and len(waiting) >= _MANY:
                self._guarded(waiting, self._flush_together, waiting, group)
            elif self._together:
                for transfer in waiting:
                    self._guarded([transfer], self._finish, transfer)
            else:
                self._guarded(waiting, self._apart, waiting)
        group.close()

    def _guarded(self, transfers: Sequence[Transfer], act: Callable[..., None], *args: Any) -> None:
        """Do `act`: whatever becomes of it, the run hears of these files."""
        try:
            act(*args)
        except BaseException as error:
            self._ended([(transfer, error) for transfer in transfers])

    def _flush_together(self, transfers: Sequence[Transfer], group: GroupFlush) -> None:
        began = time.monotonic()
        try:
            for transfer in transfers:
                self._stamp(transfer)
            group.flush()
        except OSError:  # perhaps of another program's file: ours will tell one by one
            self._apart(transfers)
        else:
            self._name_all(transfers)
            if time.monotonic() - began > _LONG:
                self._apart()

    def _apart(self, transfers: Sequence[Transfer] = ()) -> None:
        """From here on, flush each file by itself, several at a time."""
        self._together = False
        self._start_threads(self._most)
        for transfer in transfers:
            self._each.put(transfer)

    def _finish(self, transfer: Transfer) -> None:
        part = transfer.part
        assert part is not None
        try:
            self._stamp(transfer)
            part.sync()
        except OSError as error:
            self._ended([(transfer, local_error(error, Doing.WRITE, part.path))])
        else:
            self._name_all([transfer])

    def _name_all(self, transfers: Sequence[Transfer]) -> None:
        """Give files their names that were flushed, and tell of them together."""
        self._ended([(transfer, self._outcome(transfer)) for transfer in transfers])

    def _outcome(self, transfer: Transfer) -> Stored | Again | BaseException:
        part, answer = transfer.part, transfer.answer
        assert part is not None
        transfer.answer = None
        try:
            if answer is not None and answer.doubtful:
                part.discard()
                return UNASKED
            return self._name(transfer, part)
        except OSError as error:
            return local_error(error, Doing.WRITE, part.path)
        except BaseException as error:
            return error

    def _name(self, transfer: Transfer, part: Partial) -> Stored:
        """Give a flushed file its name. Raises `StorageError`."""
        head = part.head
        part.close()
        digest = part.sha.hexdigest()
        names = file_names(transfer.recording, transfer.kind)
        name = file_name(transfer.recording, transfer.kind, head)
        directory = f"{self._storage.root}/{transfer.directory}"
        stored = StoredFile(
            transfer.recording, transfer.kind, f"{transfer.directory}/{name}", part.size, digest
        )
        try:
            self._storage.make_directory(transfer.directory)
            if self._is_there(f"{directory}/{name}", stored):
                part.discard()
                return Stored(stored, adopted=True, flush=frozenset({directory}))
            aside = self._storage.publish(part.path, transfer.directory, names, name)
        except StorageError:
            part.keep()
            raise
        part.done()
        return Stored(stored, aside=aside, flush=frozenset({directory}))

    @staticmethod
    def _is_there(path: str, stored: StoredFile) -> bool:
        """Whether the very same file has the name already; nobody told its length before."""
        with suppress(OSError):
            if os.lstat(path).st_size == stored.size and hash_file(path)[1] == stored.sha256:
                with open(path, "rb") as file:
                    flush_file(file.fileno())
                return True
        return False

    def _stamp(self, transfer: Transfer) -> None:
        """`--set-mtime`. A share may refuse it; that is no reason to lose a recording.

        Raises `OSError` where it is the disk that fails.
        """
        if not self._set_mtime or transfer.part is None:
            return
        try:
            when = transfer.start.timestamp()
            os.utime(transfer.part.path, (when, when), follow_symlinks=False)
        except (OverflowError, ValueError):
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
