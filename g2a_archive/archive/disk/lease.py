"""A lease on an archive: keeps runs apart that do not see each other's locks.

Two machines that mount the same share may each have a lock of their own: over SMB with `nobrl`,
through FUSE, or one of them the NAS itself. Both would write to one catalogue and the same partial
files. So a run also has a file that only one can make (`O_EXCL`, which servers keep), and renews
it while it works. A run that was killed leaves it: on the same machine the lock tells that it is
over; elsewhere its lease is watched, and ends with nobody renewing it. No clock is asked.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from g2a_archive.archive.disk.flushing import boot_id
from g2a_archive.errors import Interrupted, LockedError, storage_error
from g2a_archive.models import utc_now
from g2a_archive.threads import sleep, spawn

log = logging.getLogger("g2a_archive")

_RENEWED = 5.0
"""Seconds from one renewal to the next."""

_WATCHED = 60.0
"""Seconds without a renewal after which a lease is over: a busy NAS may take long to write one."""

_LOOKS = 3.0
"""Seconds from one look at another's lease to the next: an SMB client keeps what it has seen while
it is opened again each second, and is not told of what the server itself writes."""

_STEP = 0.2
"""Seconds after which a signal is seen."""

_MOST = 512
"""Bytes of a lease that are read."""

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW

_LEASE = re.compile(r"host [^\n]+\n([^\n]+)\n")
"""Who has it, and the machine that its lock is good on; what follows changes as it is renewed."""


@dataclass(frozen=True, slots=True)
class LockCallbacks:
    """Who takes a lock: whether it is to stop, and what to call if another run takes the lease."""

    stopped: Callable[[], bool]
    on_lost: Callable[[], None]


NO_CALLBACKS = LockCallbacks(lambda: False, lambda: None)


class Lease:
    """The lease beside a `lock`, which is held before it is taken.

    Where none can be made, as on a full disk, there is none: the lock is all that there is.
    """

    def __init__(self, lock: Path) -> None:
        self.path = lock.with_name(f"{lock.name}.lease")
        self._own_text = self._lost = ""
        self._number, self._renewed_at = 0, 0.0
        self._over = threading.Event()
        self._renewing: threading.Thread | None = None

    def take(self, callbacks: LockCallbacks) -> None:
        """Make it ours, and renew it from now on. Raises as `watch` does."""
        left = self.watch(callbacks)
        mine = f"{this_run()}\n{self._machine()}\n"
        try:
            if left is not None:  # nothing that came since
                self.path.unlink(missing_ok=True)
            self._make(mine)
        except FileExistsError:
            raise locked_error(self._read() or "") from None  # by one that was quicker
        except OSError:
            return
        self._own_text, self._lost, self._renewed_at = mine, "", _now()
        self._over.clear()
        if left is not None and self._is_elsewhere(left):
            # Another run may have watched it as long, and removed ours for the one that was left.
            self._wait(callbacks)
            if not (there := self._read() or "").startswith(mine):
                raise locked_error(there)
        self._renewing = spawn(self._renew, callbacks.on_lost)

    def require(self) -> None:
        """Raise `LockedError` where another run has it by now.

        It may where this run stood still for long, in a machine that slept, say: then it is looked
        at first.
        """
        if self._own_text and not self._lost and _now() - self._renewed_at > _WATCHED / 2:
            with suppress(OSError):
                self._lost = self._renewed()
        if self._lost:
            raise locked_error(self._lost)

    def remote_holder(self) -> str | None:
        """What it says, if another machine's run has it, or has left it; else None."""
        seen = self._read()
        return seen if seen is not None and self._is_elsewhere(seen) else None

    def watch(self, callbacks: LockCallbacks) -> str | None:
        """Return once no run elsewhere has it: after `_WATCHED` seconds where one has left it.

        Returns what it says if it is still there, of a run that was killed. Raises `LockedError`
        where it is renewed, `Interrupted` where `callbacks` ask to stop, and `StorageError` for
        a directory.
        """
        seen = self._read()
        if seen is None or not self._is_elsewhere(seen):
            return seen
        if os.path.isdir(self.path):  # which nobody renews, and cannot be taken away as a lease is
            error = IsADirectoryError(errno.EISDIR, "")
            raise storage_error(error, "make the lease", self.path, option="")
        log.warning(
            "a run elsewhere works on this archive, or was killed: %s; watching for up to %.0f s "
            "whether it renews its lease",
            holder_text(seen),
            _WATCHED,
        )
        until = time.monotonic() + _WATCHED
        while time.monotonic() < until:
            self._wait(callbacks)
            now = self._read()
            if now is None:
                return None
            if now != seen:
                raise locked_error(now)
        return seen

    def _wait(self, callbacks: LockCallbacks) -> None:
        until = time.monotonic() + _LOOKS
        while time.monotonic() < until:
            if callbacks.stopped():
                raise Interrupted
            sleep(_STEP)

    def release(self) -> None:
        """Give it back, if it is still ours."""
        if not self._own_text:
            return
        self._over.set()
        if self._renewing is not None:
            self._renewing.join(_STEP)
        with suppress(OSError):
            if (self._read() or "").startswith(self._own_text):
                self.path.unlink(missing_ok=True)
        self._own_text = ""

    def _renew(self, lost: Callable[[], None]) -> None:
        """Until it is over; a share that fails for a while is told by all else that is done."""
        while not self._over.wait(_RENEWED):
            with suppress(OSError):
                self._lost = self._lost or self._renewed()
            if self._lost and not self._over.is_set():
                log.error(
                    "stopping, as another run works on this archive: %s", holder_text(self._lost)
                )
                lost()
                return

    def _renewed(self) -> str:
        """Write that we are still there; the other's lease, unwritten to, where it is lost."""
        mine = self._own_text
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:  # somebody removed it
            if not self._over.is_set():
                self._make(mine)
            return ""
        except OSError:
            if other := _of_another(self._read() or "", mine):  # another user's
                return other
            raise
        try:
            if other := _of_another(text_in(fd), mine):
                return other
            self._number += 1
            os.pwrite(fd, f"{mine}{self._number:010}\n".encode(), 0)
            os.fsync(fd)  # other machines see what was sent away
        finally:
            os.close(fd)
        self._renewed_at = _now()
        return ""

    def _make(self, text: str) -> None:
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            os.write(fd, text.encode())
        except OSError:
            self.path.unlink()
            raise
        finally:
            os.close(fd)

    def _read(self) -> str | None:
        """What it says, or when it was written where that cannot be read; None if there is none."""
        try:
            fd = os.open(self.path, _READ)
        except OSError:
            with suppress(OSError):
                return f"\n{os.lstat(self.path).st_mtime_ns}"
            return None
        try:
            return text_in(fd)
        finally:
            os.close(fd)

    def _is_elsewhere(self, text: str) -> bool:
        found = _LEASE.match(text)
        return not found or found[1] != self._machine()

    def _machine(self) -> str:
        """Names what sees one lock: this machine since it started, and this mount of the device."""
        return f"{boot_id() or os.uname().nodename}/{self.path.parent.stat().st_dev}"


def _of_another(text: str, mine: str) -> str:
    return text if _LEASE.match(text) and not text.startswith(mine) else ""


def _now() -> float:
    """Seconds, those included in which the machine slept."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def this_run() -> str:
    """What a lock and a lease say of this run."""
    return f"host {os.uname().nodename}, process {os.getpid()}, since {utc_now()}"


def locked_error(text: str) -> LockedError:
    """What is said where another run has the lock, or the lease, with this text."""
    return LockedError(
        f"another run is working on this archive: {holder_text(text)}",
        hint="wait for it to end, or stop it; the lock is free once it is gone",
    )


def holder_text(text: str) -> str:
    """Who the holder is, for a sentence."""
    first = "".join(c for c in text.partition("\n")[0] if c.isprintable())
    return first if first.startswith("host ") else "its holder cannot be read"


def text_in(fd: int) -> str:
    """What an open lock or lease says; "" where it cannot be read."""
    try:
        return os.pread(fd, _MOST, 0).decode("utf-8", "replace")
    except OSError:
        return ""
