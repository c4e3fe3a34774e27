"""One file, from a link to its last byte: adopt or fetch, resume, check, hash.

A `Transfer` is one file's state and lives through all its attempts; a `Fetcher` is one worker's
tools. An attempt ends in a result; what follows from it is the engine's business.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from g2a_archive.archive import content
from g2a_archive.archive.disk.domains import Doing, local_error
from g2a_archive.archive.disk.space import CrowdedError
from g2a_archive.archive.partial import NO_VALIDATOR, Partial, Validator
from g2a_archive.archive.storage import Storage
from g2a_archive.download.transfer import adoption, decisions
from g2a_archive.download.transfer.decisions import NO_RANGE, Action, Seen, Verdict, validator_of
from g2a_archive.download.transfer.receive import Floor, Receiver, splittable
from g2a_archive.download.transfer.results import (
    UNASKED,
    Again,
    Failed,
    NewLink,
    Result,
    Stopped,
    Transfer,
    Whole,
)
from g2a_archive.download.transfer.segments import Pieces
from g2a_archive.models import LINK_LIFETIME, FileKind, Link, size_text
from g2a_archive.service.pace import retry_after
from g2a_archive.transport.answer import Answer
from g2a_archive.transport.errors import NetworkError

log = logging.getLogger("g2a_archive")

_MOST_PARTS = 10_000
"""Answers to one attempt, of which each is a part of what was asked for."""


@dataclass(slots=True)
class Fetcher:
    """One worker's tools: a buffer, and what all workers share."""

    storage: Storage
    receiver: Receiver
    sums: Callable[[str], dict[str, str]] = lambda _: {}

    @property
    def stop(self) -> threading.Event:
        """Set when the run is asked to stop."""
        return self.receiver.stop

    def fetch(self, transfer: Transfer) -> Result | Whole:
        """Make one attempt, up to the last byte. Raises `LocalError`, `StorageError`."""
        try:
            adopted = adoption.adopt(transfer, self.storage, self.sums)
            if adopted is not None:
                self._leftover(transfer).discard()
                return adopted
            return self._attempt(transfer)
        except OSError as error:
            path = transfer.part.path if transfer.part else self.storage.partial
            if error.errno in (errno.ENOSPC, errno.EDQUOT) and transfer.part is not None:
                transfer.part.give_back()
            raise local_error(error, Doing.WRITE, error.filename or path) from error

    # --- fetching -----------------------------------------------------------------------------

    def _attempt(self, transfer: Transfer) -> Result | Whole:
        if self.stop.is_set():
            return Stopped()
        if _aged(transfer.link):
            return NewLink("the link is older than 47 hours", aged=True)
        largest = self.storage.largest_file(transfer.directory)
        if transfer.expected is not None and largest is not None and transfer.expected > largest:
            here = f"{self.storage.root / transfer.directory}"
            return Failed(f"the file system of {here} takes no file over {size_text(largest)}")
        self.storage.make_directory(transfer.directory)
        self._part(transfer)
        for _ in range(_MOST_PARTS):
            if not self.receiver.has_room(transfer):
                return Stopped()
            with suppress(CrowdedError):  # then it waits for others, and asks again
                found = self._ask(transfer)
                if found is not None:
                    return found
        return Again("the file host sends parts without end", progress=True)

    def _part(self, transfer: Transfer) -> Partial:
        """What this run, or an earlier one, has of the file."""
        if transfer.part is None:
            transfer.part = self._leftover(transfer)
        return transfer.part

    def _leftover(self, transfer: Transfer) -> Partial:
        """What an earlier run left of the file; often nothing."""
        part = Partial(self.storage.partial, transfer.name)
        left = self.storage.leftovers
        if left and not left.isdisjoint(part.files):
            part.load()
        return part

    def _ask(self, transfer: Transfer) -> Result | Whole | None:
        """Send a request and act on its answer; None where the rest is to be asked for."""
        headers = decisions.range_headers(transfer.held())
        try:
            answer = self.receiver.downloads.get(transfer.link.url, headers)
        except NetworkError as error:
            return self._broken(transfer, error)
        transfer.answered = True
        transfer.kept_by = answer.kept_by | (transfer.kept_by if transfer.size else set())
        try:
            return self._take(transfer, answer, ranged="Range" in headers)
        finally:
            transfer.splittable = False
            if transfer.pieces is not None:
                transfer.pieces.close()
                transfer.pieces = None
            self.receiver.downloads.release(answer)

    def _take(self, transfer: Transfer, answer: Answer, *, ranged: bool) -> Result | Whole | None:
        """Act on an answer whose body is still to be read."""
        part = self._part(transfer)
        seen = self._seen(answer)
        held = transfer.held()
        verdict = decisions.judge(seen, held, ranged=ranged)
        if verdict.action in (Action.START, Action.COMPARE):
            compare = verdict.action is Action.COMPARE
            return self._take_whole(transfer, part, answer, seen, compare=compare)
        if verdict.action is Action.APPEND:
            return self._go_on(transfer, part, answer, decisions.first_asked(held))
        if verdict.action is Action.COMPLETE:
            part.resume(part.size, self.receiver.buffer, self.stop.is_set)
            return self._finish(transfer, part, answer)
        moved = verdict.action is Action.MOVED
        refused = verdict.action is Action.NEW_LINK and transfer.renewed and ranged
        if moved or refused or verdict.action is Action.WHOLE:
            transfer.moved, transfer.whole = transfer.moved or moved, True
            return None
        return self._give_up(transfer, part, verdict, answer)

    def _take_whole(
        self, transfer: Transfer, part: Partial, answer: Answer, seen: Seen, *, compare: bool
    ) -> Result | Whole | None:
        """The file comes from its first byte on; to `compare`, bytes that are here are kept."""
        if (found := self._before_first_byte(transfer, answer)) is not None:
            return found
        transfer.told = {}
        transfer.whole = False
        floor = Floor(self.receiver.timeout)
        if compare:
            try:
                return self._compare(transfer, part, answer, seen.validator, floor)
            except NetworkError as error:
                return self._broken(transfer, error, slow=floor.slow)
        if part.size:
            transfer.restart()
        self.receiver.claim(transfer, answer.length or transfer.expected or 0)
        part.begin(answer.whole_length, NO_VALIDATOR if answer.encoded else seen.validator)
        return self._receive(transfer, part, answer, floor)

    def _compare(
        self,
        transfer: Transfer,
        part: Partial,
        answer: Answer,
        validator: Validator,
        floor: Floor,
    ) -> Result | Whole | None:
        """Hold a whole file against the bytes that are here, and go on after them.

        Until all of them are, they are of the file that their own validator names: whatever ends
        this early leaves them as they are. Raises `NetworkError`.
        """
        head = answer.head(content.HEAD)
        wrong = decisions.wrong_content(transfer.kind, head, answer.header("Content-Type"))
        if wrong is not None:
            return self._give_up(transfer, part, wrong, answer)
        self.receiver.claim(transfer, max(0, (answer.length or 0) - part.size))
        part.resume(None, self.receiver.buffer, self.stop.is_set)
        at, rest = self.receiver.compare(transfer, part, answer, floor, 0)
        if self.stop.is_set():
            part.suspend()
            return Stopped()
        total = answer.whole_length
        if at == part.size:
            varies = transfer.moved or part.validator.contradicts(validator)
            part.confirm(total if answer.announced else part.total, validator, varies=varies)
        elif rest or answer.announced:
            part.replace_from(at, total, validator)
            transfer.restart()
        else:
            raise NetworkError("the connection was closed early")
        return self._receive(transfer, part, answer, floor, rest)

    def _go_on(
        self, transfer: Transfer, part: Partial, answer: Answer, begin: int
    ) -> Result | Whole | None:
        """The rest of the file comes, from `begin` on: bytes that are here must be the same."""
        self.receiver.claim(transfer, answer.length or 0)
        part.resume(answer.content_range()[2], self.receiver.buffer, self.stop.is_set)
        floor = Floor(self.receiver.timeout)
        try:
            at, rest = self.receiver.compare(transfer, part, answer, floor, begin)
        except NetworkError as error:
            return self._broken(transfer, error, slow=floor.slow)
        whole = part.size == transfer.held().known
        over = answer.ended and not (rest or whole)
        if self.stop.is_set() or begin == part.size or (at == part.size and not over):
            return self._receive(transfer, part, answer, floor, rest)
        if rest:
            changed = Verdict(Action.RESTART, "the file changed at the host")
            return self._give_up(transfer, part, changed, answer)
        # The part ended among them: where parts are small, less can come again.
        transfer.overlap = (at - begin) // 2
        return None

    def _seen(self, answer: Answer) -> Seen:
        head = b""
        if answer.status == 400:
            with suppress(NetworkError):
                head = answer.read(content.HEAD)
        return Seen(
            status=answer.status,
            validator=validator_of(answer),
            range=answer.content_range() if answer.status != 200 else NO_RANGE,
            decodable=answer.decodable,
            encoded=answer.encoded,
            proved=answer.announced or answer.encoded or not answer.named_coding,
            length=answer.whole_length,
            head=head,
        )

    def _before_first_byte(self, transfer: Transfer, answer: Answer) -> Result | None:
        """What the length of a whole file decides before any of it is written."""
        length = answer.whole_length
        if (found := adoption.confirmed(transfer, length, answer.digests)) is not None:
            return found
        if transfer.expected is not None and length not in (None, transfer.expected):
            return self._contradiction(transfer, answer, length or 0)
        return _looked_at_again(transfer) if length == 0 else None

    def _receive(
        self, transfer: Transfer, part: Partial, answer: Answer, floor: Floor, first: bytes = b""
    ) -> Result | Whole | None:
        """Read a body, of which `first` was read already, and act on its end."""
        if not answer.encoded:
            transfer.told |= answer.digests
        transfer.splittable = splittable(answer, part)
        if part.extents:
            transfer.pieces = transfer.pieces or Pieces(self.receiver.jobs)
        try:
            wrong = self.receiver.receive(transfer, part, answer, floor, first)
            shared = wrong is None and part.total is not None and part.size < part.total
            if shared and transfer.pieces is not None and not self.stop.is_set():
                self.receiver.share(transfer, part, answer, transfer.pieces)
        except NetworkError as error:
            if answer.encoded:  # our bytes are not those of the host, so they can't be resumed
                part.discard()
            elif error.ragged_end and not answer.announced and part.size == transfer.expected:
                return self._finish(transfer, part, answer)
            return self._broken(transfer, error, slow=floor.slow)
        if wrong is not None:
            part.discard()
            return self._give_up(transfer, part, wrong, answer)
        if self.stop.is_set():
            part.suspend()
            return Stopped()
        known = transfer.held().known
        left = part.size < known if known is not None else answer.status == 206
        if left and not answer.encoded:
            return self._short(transfer, part, answer, floor)
        return self._finish(transfer, part, answer)

    def _short(
        self, transfer: Transfer, part: Partial, answer: Answer, floor: Floor
    ) -> Result | Whole | None:
        """Fewer bytes came than there are: of a part that was announced so, the rest is next."""
        if answer.status == 206 and part.size > transfer.high_water and answer.ended:
            transfer.high_water = part.size
            transfer.attempts, transfer.renewed = 0, False
            return None
        plain = answer.status == 200 and not answer.announced and transfer.expected is None
        if plain and part.size == transfer.high_water:
            # Another answer ended at the same byte, too, and announced more than it had.
            part.total = None
            return self._finish(transfer, part, answer)
        known = transfer.held().known
        told = "" if known is None else f" of {known}"
        short = NetworkError(f"only {part.size}{told} bytes came")
        return self._broken(transfer, short, slow=floor.slow)

    def _contradiction(self, transfer: Transfer, answer: Answer, length: int) -> Result:
        """The announced length is not `recordingSize`: nothing is written."""
        head = b""
        with suppress(NetworkError):
            head = answer.read(content.HEAD)
        wrong = decisions.wrong_content(transfer.kind, head, answer.header("Content-Type"))
        if wrong is not None and wrong.action is Action.NEW_LINK:
            return NewLink(wrong.reason)
        if answer.followed():
            return UNASKED
        return Again(
            f"the file host announces {length} bytes, recordingSize is {transfer.expected}"
        )

    def _give_up(
        self, transfer: Transfer, part: Partial, verdict: Verdict, answer: Answer
    ) -> Result:
        if verdict.action is Action.NEW_LINK:
            return NewLink(verdict.reason)
        odd = verdict.action is Action.FAIL or answer.status in (200, 206)
        if odd and verdict.action is not Action.RESTART and answer.followed():
            part.discard()
            return UNASKED
        if verdict.action is Action.FAIL:
            return Failed(verdict.reason)
        if verdict.action is Action.RESTART:
            part.discard()
            transfer.restart()
        return Again(
            verdict.reason, retry_after(answer.header("Retry-After"), answer.header("Date"))
        )

    def _broken(self, transfer: Transfer, error: NetworkError, *, slow: bool = False) -> Result:
        """The connection failed: keep the bytes for the next attempt or the next run.

        An attempt that was slower than the floor is no progress: else a host that sends a byte a
        minute would never be given up.
        """
        part = transfer.part
        assert part is not None
        part.suspend()
        transfer.whole = transfer.whole or error.odd_part
        if self.stop.is_set():
            return Stopped()
        if error.final:
            return Failed(str(error))
        progress = transfer.gained() and not slow
        transfer.high_water = max(transfer.high_water, part.size)
        at = f" at {part.size / 2**20:.1f} MB" if part.size else ""
        reason, host = f"{error}{at}", error.unanswered
        return Again(reason, progress=progress, unanswered=host, untried=error.untried)

    def _finish(self, transfer: Transfer, part: Partial, answer: Answer) -> Result | Whole:
        """All bytes came: prove that they are all, and right."""
        if self.stop.is_set():
            part.suspend()
            return Stopped()
        wrong = self._not_whole(transfer, part, answer)
        if wrong is None:
            transfer.answer = answer
            return Whole()
        part.discard()
        return UNASKED if answer.followed() else wrong

    def _not_whole(self, transfer: Transfer, part: Partial, answer: Answer) -> Result | None:
        if part.total is not None and part.size != part.total:
            return Again(f"{part.size} bytes came, {part.total} were announced")
        if transfer.expected is not None and part.size != transfer.expected:
            return Again(f"{part.size} bytes came, recordingSize is {transfer.expected}")
        if part.size == 0:
            if transfer.kind is FileKind.MP4 or not answer.proved:
                return Again("the file is empty")
            if (again := _looked_at_again(transfer)) is not None:
                return again
            log.warning(
                "recording %d: %s: it is empty at the host, too", transfer.recording, transfer.kind
            )
        unproved = transfer.expected is None and not answer.announced and answer.status < 400
        if transfer.kind is FileKind.MP4 and unproved:
            if not content.boxes_add_up(part.fd, part.size):
                return Again("the MP4 ended early")
        elif transfer.kind is not FileKind.MP4 and content.is_error_json(part.whole_if_small()):
            return NewLink("the link was answered with an error document")
        for name, told in transfer.told.items():
            if part.digest(name) != told:
                return Again("what came does not match the digest that the host tells")
        return None


def _looked_at_again(transfer: Transfer) -> NewLink | None:
    """A file that is said to be empty is believed where a new link says so, too."""
    if transfer.empty or transfer.kind is FileKind.MP4:
        return None
    transfer.empty = True
    return NewLink("the file is empty")


def _aged(link: Link) -> bool:
    return link.age(time.time(), time.monotonic()) > LINK_LIFETIME
