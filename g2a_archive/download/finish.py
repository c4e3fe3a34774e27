"""Whole files get flushed, and then their names: many small ones together, others one by one.

Threads of their own wait for the disk while the next files are fetched.
"""

from __future__ import annotations

import errno
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from g2a_archive.archive.domains import Doing, local_error
from g2a_archive.archive.flushing import GroupFlush
from g2a_archive.archive.layout import file_name, file_names
from g2a_archive.archive.partial import Partial
from g2a_archive.archive.storage import Storage
from g2a_archive.download.results import Stored, Transfer
from g2a_archive.errors import StorageError, storage_error
from g2a_archive.models import StoredFile

log = logging.getLogger("g2a_archive")

SMALL = 1 << 20
"""Bytes up to which files are flushed together."""

_MANY = 32
"""Small files that make a common flush worth it. A short run, or one from a slow host, flushes
nothing but its own."""

_FEW = 4
"""The same for a run that has come to flush so."""

_GATHER = 0.006
"""Seconds in which small files gather; from a fast host, that is dozens."""

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


Ending = tuple[Transfer, Stored | BaseException]


class Finisher:
    """Flushes files and names them; `ended` hears of each.

    Of files that were flushed together, `flushed` hears: they are still to be given to `name`. It
    is quick, and many small steps of several threads would hold each other up.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        ended: Callable[[Sequence[Ending]], None],
        flushed: Callable[[Sequence[Transfer]], None],
        jobs: int,
        set_mtime: bool,
    ) -> None:
        self._storage = storage
        self._ended = ended
        self._flushed = flushed
        self._set_mtime = set_mtime
        self._together = False
        self._small: queue.SimpleQueue[Sequence[Transfer] | None] = queue.SimpleQueue()
        self._each: queue.SimpleQueue[Transfer | None] = queue.SimpleQueue()
        self._most = min(jobs, _MOST_THREADS)
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the threads. Raises `StorageError`."""
        try:
            group = GroupFlush.of(str(self._storage.partial))
        except OSError as error:
            raise storage_error(error, "open", self._storage.partial) from error
        self._together = group is not None
        if group is not None:
            threading.Thread(target=self._work_groups, args=(group,), daemon=True).start()
        self._start_threads(self._most if group is None else _LARGE_AT_ONCE)

    def _start_threads(self, count: int) -> None:
        """Have `count` threads that flush files one by one."""
        while len(self._threads) < count:
            self._threads.append(threading.Thread(target=self._work_each, daemon=True))
            self._threads[-1].start()

    @property
    def ahead(self) -> int:
        """How many files should be on their way at least; known after `start`."""
        return _AHEAD if self._together else 0

    def put(self, transfers: Sequence[Transfer]) -> None:
        """Take over files of which all bytes are here and right."""
        small = []
        for transfer in transfers:
            part = transfer.part
            assert part is not None
            is_small = self._together and transfer.size < SMALL
            try:
                if is_small or self._each.qsize() >= _MOST_OPEN:
                    part.put_away()
            except OSError as error:
                self._ended([(transfer, local_error(error, Doing.WRITE, part.path))])
                continue
            if is_small:
                small.append(transfer)
            else:
                self._each.put(transfer)
        if small:
            self._small.put(small)

    def close(self) -> None:
        """Let the threads end once they are through with what they have."""
        self._small.put(None)
        for _ in self._threads:
            self._each.put(None)

    def _work_each(self) -> None:
        while (transfer := self._each.get()) is not None:
            self._finish(transfer)

    def _work_groups(self, group: GroupFlush) -> None:
        enough = _MANY
        while (some := self._small.get()) is not None:
            waiting = [*some]
            time.sleep(_GATHER)
            with suppress(queue.Empty):
                while (more := self._small.get_nowait()) is not None:
                    waiting += more
                self._small.put(None)
            if self._together and len(waiting) >= enough:
                enough = _FEW
                self._flush_together(waiting, group)
            elif self._together:
                for transfer in waiting:
                    self._finish(transfer)
            else:
                self._apart(waiting)
        group.close()

    def _flush_together(self, transfers: Sequence[Transfer], group: GroupFlush) -> None:
        began = time.monotonic()
        try:
            for transfer in transfers:
                self._stamp(transfer)
            group.flush()
        except OSError:  # perhaps of another program's file: ours will tell one by one
            self._apart(transfers)
        except BaseException as error:
            self._ended([(transfer, error) for transfer in transfers])
        else:
            self._flushed(transfers)
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
        except BaseException as error:
            self._ended([(transfer, error)])
        else:
            self.name([transfer])

    def name(self, transfers: Sequence[Transfer]) -> None:
        """Give files their names that were flushed, and tell of them together."""
        self._ended([(transfer, self._outcome(transfer)) for transfer in transfers])

    def _outcome(self, transfer: Transfer) -> Stored | BaseException:
        part = transfer.part
        assert part is not None
        try:
            part.synced()
            return self._name(transfer, part)
        except OSError as error:
            return local_error(error, Doing.WRITE, part.path)
        except BaseException as error:
            return error

    def _name(self, transfer: Transfer, part: Partial) -> Stored:
        """Give a flushed file its name. Raises `StorageError`."""
        head = part.head
        part.close()
        names = file_names(transfer.recording, transfer.kind)
        name = file_name(transfer.recording, transfer.kind, head)
        try:
            self._storage.make_directory(transfer.directory)
            aside = self._storage.publish(part.path, transfer.directory, names, name)
        except StorageError:
            with suppress(OSError):
                part.write_note()  # whole and flushed: the next run need not fetch it all again
            raise
        part.done()
        path = f"{transfer.directory}/{name}"
        digest = part.sha.hexdigest()
        stored = StoredFile(transfer.recording, transfer.kind, path, part.size, digest)
        directory = f"{self._storage.root}/{transfer.directory}"
        return Stored(stored, aside=aside, flush=frozenset({directory}))

    def _stamp(self, transfer: Transfer) -> None:
        """`--set-mtime`. A share may refuse it; that is no reason to lose a recording.

        Raises `OSError` where it is the disk that fails.
        """
        if not self._set_mtime or transfer.part is None:
            return
        try:
            when = transfer.start.timestamp()
            os.utime(transfer.part.path, (when, when), follow_symlinks=False)
        except (OSError, OverflowError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
                raise
            reason = error.strerror if isinstance(error, OSError) else "the time is out of range"
            log.warning(
                "recording %d: cannot set the time of its file: %s", transfer.recording, reason
            )
