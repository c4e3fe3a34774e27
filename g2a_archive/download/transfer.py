"""One file, from a link to its last byte: adopt or fetch, resume, check, hash.

A `Transfer` is one file's state and lives through all its attempts; a `Fetcher` is one worker's
tools. An attempt ends in an outcome; what follows from it is the archiver's business.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from g2a_archive.archive import content
from g2a_archive.archive.domains import Doing, domain_of, local_error
from g2a_archive.archive.flushing import flush_file
from g2a_archive.archive.layout import file_names
from g2a_archive.archive.partial import NO_VALIDATOR, Partial, Validator
from g2a_archive.archive.storage import Storage
from g2a_archive.download import decisions as decide
from g2a_archive.download.decisions import NO_RANGE, Action, Seen
from g2a_archive.download.receive import Floor, Receiver, splittable
from g2a_archive.download.results import (
    Again,
    Failed,
    NewLink,
    Outcome,
    Stopped,
    Stored,
    Transfer,
    Whole,
)
from g2a_archive.download.segments import Pieces
from g2a_archive.errors import Domain
from g2a_archive.models import LINK_LIFETIME, FileKind, Link, StoredFile
from g2a_archive.service.pace import retry_after
from g2a_archive.transport.connection import Connections
from g2a_archive.transport.response import Answer, NetworkError
from g2a_archive.transport.wire import Wire

log = logging.getLogger("g2a_archive")


@dataclass(slots=True)
class Fetcher:
    """One thread's tools: a buffer, and what all threads share."""

    storage: Storage
    receiver: Receiver
    sums: Callable[[str], dict[str, str]] = lambda _: {}

    @property
    def connections(self) -> Connections:
        """The run's connections."""
        return self.receiver.connections

    @property
    def stop(self) -> threading.Event:
        """Set when the run is asked to stop."""
        return self.receiver.stop

    def fetch(
        self, transfer: Transfer, asked: Wire | None = None, came: bytes = b""
    ) -> Outcome | Whole:
        """Make one attempt, up to the last byte. Raises `StorageError`.

        `asked` is a connection that the whole file was asked for on already, since it was
        `quick`; `came` is what was read of the answer.
        """

        def act() -> Outcome | Whole:
            if asked is not None:
                return self._ask(transfer, {}, asked, came)
            adopted = self._adopt(transfer)
            if adopted is None:
                return self._attempt(transfer)
            self._leftover(transfer).discard()
            return adopted

        return self._guarded(transfer, act)

    def quick(self, transfer: Transfer) -> bool:
        """Whether all that can be done is to ask for the whole file. Raises `StorageError`."""
        if self.receiver.limiter is not None or _aged(transfer.link) or self.stop.is_set():
            return False
        if transfer.part is None:
            names = file_names(transfer.recording, transfer.kind)
            if self.storage.find(transfer.directory, names) is not None:
                return False
        return self._part(transfer).size == 0

    def take(self, transfer: Transfer, answer: Answer) -> Outcome | Whole:
        """Take in an answer to a request for the whole file. Raises `StorageError`."""
        return self._guarded(transfer, lambda: self._answered(transfer, answer, ranged=False))

    def _guarded(self, transfer: Transfer, act: Callable[[], Outcome | Whole]) -> Outcome | Whole:
        try:
            return act()
        except OSError as error:
            path = transfer.part.path if transfer.part else self.storage.partial
            if error.errno in (errno.ENOSPC, errno.EDQUOT) and transfer.part is not None:
                transfer.part.give_back()
            raise local_error(error, Doing.WRITE, error.filename or path) from error
        finally:
            self.storage.space.release(transfer)

    # --- a file that is there already ---------------------------------------------------------

    def _adopt(self, transfer: Transfer) -> Stored | None:
        """Take a file under its final name as ours, if it fits; None if it must be fetched."""
        names = file_names(transfer.recording, transfer.kind)
        path = self.storage.find(transfer.directory, names)
        if path is None or not os.path.isfile(path):
            return None
        try:
            found = self._read(transfer, path)
        except OSError as error:
            if domain_of(error, Doing.READ) is not Domain.FILE:
                raise local_error(error, Doing.READ, path) from error
            log.warning(
                "recording %d: %s: the file that is there cannot be read (%s)",
                transfer.recording,
                transfer.kind,
                error.strerror,
            )
            return None
        if found is None:
            return None
        size, digest = found
        listed = transfer.known_sha256 or self.sums(transfer.directory).get(os.path.basename(path))
        if listed is not None and listed != digest:
            return None
        relative = f"{transfer.directory}/{os.path.basename(path)}"
        stored = StoredFile(transfer.recording, transfer.kind, relative, size, digest)
        return Stored(stored, adopted=True, flush=frozenset({os.path.dirname(path)}))

    def _read(self, transfer: Transfer, path: str) -> tuple[int, str] | None:
        """Size and SHA-256 of a file, flushed, that can be the recording's; None if it can't."""
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            fits = decide.adoptable(
                transfer.kind,
                head=file.read(content.HEAD),
                size=size,
                expected=transfer.expected,
                boxes_add_up=transfer.expected is None
                and transfer.kind is FileKind.MP4
                and content.boxes_add_up(file.fileno(), size),
            )
            if not fits:
                return None
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            flush_file(file.fileno())
        return size, digest

    # --- fetching -----------------------------------------------------------------------------

    def _attempt(self, transfer: Transfer) -> Outcome | Whole:
        if self.stop.is_set():
            return Stopped()
        if _aged(transfer.link):
            return NewLink("the link is older than 47 hours", aged=True)
        self._part(transfer)
        held = transfer.held()
        headers = {}
        if decide.can_resume(held):
            headers["Range"] = f"bytes={held.size}-"
            if held.validator.condition is not None:
                headers["If-Range"] = held.validator.condition
        return self._ask(transfer, headers)

    def _ask(
        self,
        transfer: Transfer,
        headers: Mapping[str, str],
        asked: Wire | None = None,
        came: bytes = b"",
    ) -> Outcome | Whole:
        try:
            answer = self.connections.get(transfer.link.address, headers, asked, came)
        except NetworkError as error:
            return self._broken(transfer, str(error))
        return self._answered(transfer, answer, ranged="Range" in headers)

    def _answered(self, transfer: Transfer, answer: Answer, *, ranged: bool) -> Outcome | Whole:
        transfer.answered = True
        part = transfer.part
        assert part is not None
        try:
            return self._take(transfer, part, answer, ranged=ranged)
        finally:
            transfer.splittable = False
            if transfer.pieces is not None:
                transfer.pieces.close()
                transfer.pieces = None
            self.connections.release(answer)

    def _part(self, transfer: Transfer) -> Partial:
        """What this run, or an earlier one, has of the file."""
        if transfer.part is None:
            transfer.part = self._leftover(transfer)
            transfer.high_water = transfer.part.size
        return transfer.part

    def _leftover(self, transfer: Transfer) -> Partial:
        """What an earlier run left of the file; often nothing."""
        part = Partial(self.storage.partial, transfer.name)
        left = self.storage.leftovers
        if left and not left.isdisjoint(part.files):
            part.load()
        return part

    def _take(
        self, transfer: Transfer, part: Partial, answer: Answer, *, ranged: bool
    ) -> Outcome | Whole:
        """Act on an answer whose body is still to be read."""
        part_of = answer.content_range() if answer.status != 200 else NO_RANGE
        # Nothing is left to be resumed of what is written at once.
        at_once = not ranged and self.receiver.at_once(answer)
        validator = NO_VALIDATOR if at_once else Validator.of(answer)
        seen = Seen(answer.status, validator, part_of, answer.decodable)
        verdict = decide.judge(seen, transfer.held(), ranged=ranged)
        if verdict.action is Action.START:
            length = None if answer.encoded else answer.length
            if transfer.expected is not None and length not in (None, transfer.expected):
                return self._contradiction(transfer, answer, length or 0)
            self.storage.space.claim(
                transfer, length or 0, at_once=at_once, directory=transfer.directory
            )
            part.begin(length, Validator() if answer.encoded else seen.validator)
        elif verdict.action is Action.APPEND:
            self.storage.space.claim(transfer, answer.length or 0, directory=transfer.directory)
            part.resume(seen.range[2], self.receiver.buffer, self.stop.is_set)
        elif verdict.action is Action.COMPLETE:
            part.resume(part.size, self.receiver.buffer, self.stop.is_set)
            return self._finish(transfer, part, proved=True)
        else:
            return self._give_up(transfer, part, verdict, answer)
        floor = Floor(self.receiver.timeout)
        transfer.splittable = splittable(answer, part)
        if part.extents:
            transfer.pieces = transfer.pieces or Pieces(self.receiver.jobs)
        try:
            wrong = self.receiver.receive(transfer, part, answer, floor)
        except NetworkError as error:
            if answer.encoded:  # our bytes are not those of the host, so they can't be resumed
                part.discard()
            return self._broken(transfer, str(error), slow=floor.slow)
        if wrong is not None:
            part.discard()
            return self._give_up(transfer, part, wrong, answer)
        if self.stop.is_set():
            part.suspend()
            return Stopped()
        known = part.total if part.total is not None else transfer.expected
        if known is not None and part.size < known and not answer.encoded:
            reason = f"only {part.size} of {known} bytes came"
            return self._broken(transfer, reason, slow=floor.slow)
        return self._finish(transfer, part, proved=answer.chunked or answer.length is not None)

    def _contradiction(self, transfer: Transfer, answer: Answer, length: int) -> Outcome:
        """The announced length is not `recordingSize`: nothing is written."""
        with suppress(NetworkError):
            head = bytes(
                self.receiver.buffer[: answer.read_into(self.receiver.buffer[: content.HEAD])]
            )
            if content.is_html(head, answer.header("Content-Type")):
                return NewLink("the link was answered with a web page")
        return Again(
            f"the file host announces {length} bytes, recordingSize is {transfer.expected}"
        )

    def _give_up(
        self, transfer: Transfer, part: Partial, verdict: decide.Verdict, answer: Answer
    ) -> Outcome:
        if verdict.action is Action.NEW_LINK:
            return NewLink(verdict.reason)
        if verdict.action is Action.FAIL:
            return Failed(verdict.reason)
        if verdict.action is Action.RESTART:
            part.discard()
        return Again(verdict.reason, retry_after(answer.header("Retry-After")))

    def _broken(self, transfer: Transfer, reason: str, *, slow: bool = False) -> Outcome:
        """The connection failed: keep the bytes for the next attempt or the next run.

        An attempt that was slower than the floor is no progress: else a host that sends a byte a
        minute would never be given up.
        """
        part = transfer.part
        assert part is not None
        part.suspend()
        if self.stop.is_set():
            return Stopped()
        progress = part.size > transfer.high_water and not slow
        transfer.high_water = max(transfer.high_water, part.size)
        at = f" at {part.size / 2**20:.1f} MB" if part.size else ""
        return Again(f"{reason}{at}", progress=progress)

    def _finish(self, transfer: Transfer, part: Partial, *, proved: bool) -> Outcome | Whole:
        """All bytes came: prove that they are all."""
        if self.stop.is_set():
            part.suspend()
            return Stopped()
        reason = ""
        if part.total is not None and part.size != part.total:
            reason = f"{part.size} bytes came, {part.total} were announced"
        elif transfer.expected is not None and part.size != transfer.expected:
            reason = f"{part.size} bytes came, recordingSize is {transfer.expected}"
        elif (
            transfer.kind is FileKind.MP4
            and transfer.expected is None
            and not proved
            and not content.boxes_add_up(part.fd, part.size)
        ):
            reason = "the MP4 ended early"
        if reason:
            part.discard()
            return Again(reason)
        return Whole()


def _aged(link: Link) -> bool:
    return link.age(time.time(), time.monotonic()) > LINK_LIFETIME
