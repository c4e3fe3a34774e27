"""One file, from a link to its last byte: adopt or fetch, resume, check, hash.

A `Transfer` is one file's state and lives through all its attempts. An attempt makes a request,
or several where answers are only parts, and ends in a result; what follows from that is the
engine's business.
"""

from __future__ import annotations

import errno
import logging
import time
from contextlib import suppress

from g2a_archive.archive import content
from g2a_archive.archive.disk.domains import Doing, local_error
from g2a_archive.archive.disk.space import CrowdedError
from g2a_archive.archive.partial import NO_VALIDATOR, Partial, Validator
from g2a_archive.archive.storage import Storage
from g2a_archive.download.transfer import adoption, decisions
from g2a_archive.download.transfer.decisions import Action, Seen, Verdict, validator_of
from g2a_archive.download.transfer.receive import Body, Tools
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
from g2a_archive.download.transfer.sharing import share, splittable
from g2a_archive.errors import Interrupted, StorageError
from g2a_archive.models import FileKind, Link, size_text
from g2a_archive.transport.answer import Answer, faulty
from g2a_archive.transport.errors import NetworkError

log = logging.getLogger("g2a_archive")

_LINK_LIFETIME = 47 * 3600.0
"""Seconds for which a link is used; the vendor promises "at least 48 hours"."""

_EVERYWHERE = (1 << 31) - 1
"""Bytes that a file can have on every file system."""

_MOST_PARTS = 10_000
"""Answers to one attempt, of which each is a part of what was asked for."""


def fetch(tools: Tools, transfer: Transfer) -> Result | Whole:
    """Make one attempt at a file, up to its last byte. Raises `LocalError`, `StorageError`."""
    try:
        adopted = adoption.adopt(transfer, tools.storage, tools.sums)
        if adopted is not None:
            _leftover(transfer, tools.storage).discard()
            return adopted
        found = _attempt(tools, transfer)
        if transfer.part is not None and not isinstance(found, Whole):
            transfer.part.suspend()
        return found
    except (OSError, StorageError) as error:
        part, code = transfer.part, getattr(error, "errno", 0)
        if part is not None:
            with suppress(OSError):
                (part.give_back if code in (errno.ENOSPC, errno.EDQUOT) else part.suspend)()
        if isinstance(error, StorageError):
            raise
        path = part.path if part else tools.storage.partial
        raise local_error(error, Doing.WRITE, error.filename or path) from error


def _leftover(transfer: Transfer, storage: Storage) -> Partial:
    """What an earlier run left of the file; often nothing."""
    part = Partial(storage.partial, transfer.name)
    if not storage.leftovers.isdisjoint(part.files):
        part.load()
    return part


def _attempt(tools: Tools, transfer: Transfer) -> Result | Whole:
    storage = tools.storage
    if tools.stop.is_set():
        return Stopped()
    if _aged(transfer.link):
        return NewLink("the link is older than 47 hours", failed=False)
    size = transfer.expected or 0
    largest = storage.largest_file(transfer.directory) if size > _EVERYWHERE else None
    if largest is not None and size > largest:
        here = f"{storage.root / transfer.directory}"
        return Failed(f"the file system of {here} takes no file over {size_text(largest)}")
    storage.make_directory(transfer.directory)
    if transfer.part is None:
        transfer.part = _leftover(transfer, storage)
    for _ in range(_MOST_PARTS):
        if not tools.has_room(transfer):
            return Stopped()
        with suppress(CrowdedError):  # then it waits for others, and asks again
            found = _ask(tools, transfer, transfer.part)
            if found is not None:
                return found
    return Again("the file host sends parts without end", progress=True)


def _ask(tools: Tools, transfer: Transfer, part: Partial) -> Result | Whole | None:
    """Send a request and act on its answer; None where the rest is to be asked for."""
    headers = decisions.range_headers(transfer.held())
    answer: Answer | None = None
    try:
        answer = tools.downloads.get(transfer.link.url, headers)
        transfer.answered, transfer.sending = True, not faulty(answer.status)
        transfer.kept_by = answer.kept_by | (transfer.kept_by if transfer.size else set())
        return _Answered(tools, transfer, part, answer).take(ranged="Range" in headers)
    except NetworkError as error:
        if answer is None and "Range" in headers and transfer.last and error.at_once:
            transfer.whole = True
            return None
        slow = answer is not None and answer.floor.slow
        return Stopped() if tools.stop.is_set() else _broken(transfer, part, error, slow=slow)
    except Interrupted:
        return Stopped()
    finally:
        transfer.splittable = transfer.sending = False
        if transfer.pieces is not None:
            transfer.pieces.close()
            transfer.pieces = None
        if answer is not None:
            answer.close()


def _broken(transfer: Transfer, part: Partial, error: NetworkError, *, slow: bool) -> Result:
    """The connection failed: its bytes are kept for the next attempt or the next run.

    An attempt that was slower than the floor is no progress: else a host that sends a byte a
    minute would never be given up.
    """
    transfer.whole = transfer.whole or error.odd_part
    if error.final:
        return Failed(str(error))
    progress = transfer.gained() and not slow
    transfer.high_water = max(transfer.high_water, part.size)
    at = f" at {part.size / 2**20:.1f} MB" if part.size else ""
    reason, host = f"{error}{at}", error.unanswered
    return Again(reason, progress=progress, unanswered=host, untried=error.untried)


class _Answered(Body):
    """An answer of the file host, and what is to be done with it.

    Its methods return None where the rest is to be asked for, and raise `NetworkError` where the
    connection fails.
    """

    def take(self, *, ranged: bool) -> Result | Whole | None:
        """Act on the answer, whose body is still to be read."""
        transfer = self.transfer
        seen = self._seen()
        held = transfer.held()
        verdict = decisions.judge(seen, held, ranged=ranged)
        if verdict.action in (Action.START, Action.COMPARE):
            compare = verdict.action is Action.COMPARE
            return self._take_whole(seen, compare=compare, ranged=ranged)
        if verdict.action is Action.APPEND:
            return self._go_on(decisions.first_asked(held))
        if verdict.action is Action.COMPLETE:
            self.part.resume(self.part.size, self.tools.stop.is_set)
            return self._finish()
        moved = verdict.action is Action.MOVED
        refused = verdict.action is Action.NEW_LINK and transfer.renewed and ranged
        if moved or refused or verdict.action is Action.WHOLE:
            transfer.moved, transfer.whole = transfer.moved or moved, True
            return None
        return self._give_up(verdict)

    def _seen(self) -> Seen:
        answer, head = self.answer, b""
        if answer.status == 400:
            with suppress(NetworkError):
                head = answer.read(content.HEAD)
        return Seen(
            status=answer.status,
            validator=validator_of(answer),
            range=answer.content_range(),
            decodable=answer.decodable,
            encoded=answer.encoded,
            proved=answer.announced or answer.encoded or not answer.named_coding,
            length=answer.whole_length,
            head=head,
        )

    def _take_whole(self, seen: Seen, *, compare: bool, ranged: bool) -> Result | Whole | None:
        """The file comes from its first byte on; to `compare`, bytes that are here are kept."""
        transfer, part, answer = self.transfer, self.part, self.answer
        if (found := self._before_first_byte()) is not None:
            return found
        transfer.told = {}
        transfer.whole = False
        if part.size and (wrong := self.wrong(answer.head(content.HEAD))) is not None:
            # What is here stays. No MP4: it may have been the rest of one, so all is asked for.
            transfer.whole = wrong.action is Action.AGAIN
            return self._give_up(wrong)
        if compare:
            return self._take_compared(seen.validator, ranged=ranged)
        if part.size:
            transfer.restart()
        self.claim(answer.length or transfer.expected or 0)
        part.begin(answer.whole_length, NO_VALIDATOR if answer.encoded else seen.validator)
        return self._take_rest()

    def _before_first_byte(self) -> Result | None:
        """What the length of a whole file decides before any of it is written."""
        transfer, length = self.transfer, self.answer.whole_length
        if (found := adoption.confirmed(transfer, length, self.answer.digests)) is not None:
            return found
        if transfer.expected is not None and length not in (None, transfer.expected):
            return self._contradiction(length or 0)
        return _looked_at_again(transfer) if length == 0 else None

    def _contradiction(self, length: int) -> Result:
        """The announced length is not `recordingSize`: nothing is written."""
        head = b""
        with suppress(NetworkError):
            head = self.answer.read(content.HEAD)
        wrong = self.wrong(head)
        if wrong is not None and wrong.action is Action.NEW_LINK:
            return NewLink(wrong.reason)
        if self.answer.followed():
            return UNASKED
        return Again(
            f"the file host announces {length} bytes, recordingSize is {self.transfer.expected}"
        )

    def _take_compared(self, validator: Validator, *, ranged: bool) -> Result | Whole | None:
        """Hold a whole file against the bytes that are here, and go on after them.

        Until all of them are, they are of the file that their own validator names: whatever ends
        this early leaves them as they are.
        """
        transfer, part, answer = self.transfer, self.part, self.answer
        self.claim(max(0, (answer.length or 0) - part.size))
        part.resume(None, self.tools.stop.is_set)
        at, rest = self.compare(0)
        total = answer.whole_length
        if at == part.size:
            varies = transfer.moved or part.validator.contradicts(validator)
            part.confirm(total if answer.announced else part.total, validator, varies=varies)
        elif not (rest or answer.announced):
            raise NetworkError("the connection was closed early")
        elif ranged and validator == part.validator != NO_VALIDATOR:
            transfer.whole = True  # the host contradicts itself: this may have been the rest
            return None
        else:
            part.replace_from(at, total, validator)
            transfer.restart()
        return self._take_rest(rest)

    def _go_on(self, begin: int) -> Result | Whole | None:
        """The rest of the file comes, from `begin` on: bytes that are here must be the same."""
        transfer, part, answer = self.transfer, self.part, self.answer
        self.claim(answer.length or 0)
        part.resume(answer.content_range()[2], self.tools.stop.is_set)
        at, rest = self.compare(begin)
        whole = part.size == transfer.held().known
        over = answer.ended and not (rest or whole)
        if begin == part.size or (at == part.size and not over):
            return self._take_rest(rest)
        if rest:
            return self._give_up(Verdict(Action.RESTART, "the file changed at the host"))
        # The part ended among them: where parts are small, less can come again.
        transfer.overlap = (at - begin) // 2
        return None

    def _take_rest(self, first: bytes = b"") -> Result | Whole | None:
        """Read the body, of which `first` was read already, and act on its end."""
        tools, transfer, part, answer = self.tools, self.transfer, self.part, self.answer
        if not answer.encoded:
            transfer.told |= answer.digests
        transfer.splittable = splittable(answer, part)
        if part.extents:
            transfer.pieces = transfer.pieces or Pieces(tools.jobs)
        try:
            wrong = self.receive(first)
            shared = wrong is None and part.total is not None and part.size < part.total
            if shared and transfer.pieces is not None:
                share(tools, transfer, part, answer, transfer.pieces)
        except NetworkError as error:
            if answer.encoded:  # our bytes are not those of the host, so they can't be resumed
                part.discard()
            elif error.ragged_end and not answer.announced and part.size == transfer.expected:
                return self._finish()
            raise
        if wrong is not None:
            part.discard()
            return self._give_up(wrong)
        if tools.stop.is_set():
            return Stopped()
        known = transfer.held().known
        left = part.size < known if known is not None else answer.status == 206
        if left and not answer.encoded:
            return self._short()
        return self._finish()

    def _short(self) -> Result | Whole | None:
        """Fewer bytes came than there are: of a part that was announced so, the rest is next."""
        transfer, part, answer = self.transfer, self.part, self.answer
        if answer.status == 206 and part.size > transfer.high_water and answer.ended:
            transfer.high_water = part.size
            transfer.attempts, transfer.renewed = 0, False
            return None
        plain = answer.status == 200 and transfer.expected is None
        if plain and part.size == transfer.high_water:
            # Another answer ended at the same byte, too, and announced more than it had.
            part.total = None
            return self._finish()
        known = transfer.held().known
        told = "" if known is None else f" of {known}"
        raise NetworkError(f"only {part.size}{told} bytes came")

    def _give_up(self, verdict: Verdict) -> Result:
        if verdict.action is Action.NEW_LINK:
            return NewLink(verdict.reason)
        odd = verdict.action is Action.FAIL or self.answer.status in (200, 206)
        if odd and verdict.action is not Action.RESTART and self.answer.followed():
            self.part.discard()
            return UNASKED
        if verdict.action is Action.FAIL:
            return Failed(verdict.reason)
        if verdict.action is Action.RESTART:
            self.part.discard()
            self.transfer.restart()
        unanswered = self.answer.host if faulty(self.answer.status) else ""
        often = self.answer.status == 429
        return Again(verdict.reason, self.answer.wait, unanswered=unanswered, often=often)

    def _finish(self) -> Result | Whole:
        """All bytes came: prove that they are all, and right."""
        wrong = self._not_whole()
        if wrong is None:
            return Whole(self.part, self.answer)
        self.part.discard()
        return UNASKED if self.answer.followed() else wrong

    def _not_whole(self) -> Result | None:
        transfer, part, answer = self.transfer, self.part, self.answer
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
        unproved = unproved and transfer.kind is FileKind.MP4
        if unproved and not content.boxes_add_up(part.fd, part.size):
            return Again("the MP4 ended early")
        for name, told in (*transfer.told.items(), *answer.trailing_digests.items()):
            if part.digest(name) != told:
                return Again("what came does not match the digest that the host tells")
        return None


def _looked_at_again(transfer: Transfer) -> NewLink | None:
    """A file that is said to be empty is believed where a new link says so, too."""
    if transfer.empty or transfer.kind is FileKind.MP4:
        return None
    transfer.empty = True
    return NewLink("the file is empty", failed=False)


def _aged(link: Link) -> bool:
    return link.age(time.time(), time.monotonic()) > _LINK_LIFETIME
