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
from g2a_archive.archive.disk.domains import Operation, local_error
from g2a_archive.archive.disk.space import SpaceReservedError
from g2a_archive.archive.partial import NO_VALIDATOR, Partial, Validator
from g2a_archive.archive.storage import Storage
from g2a_archive.download.transfer import adoption, decisions
from g2a_archive.download.transfer.decisions import Action, ResponseInfo, Verdict, validator_of
from g2a_archive.download.transfer.receive import Body, Tools
from g2a_archive.download.transfer.results import (
    UNSOLICITED,
    Complete,
    Failed,
    NewLink,
    Result,
    Retry,
    Stopped,
    Transfer,
)
from g2a_archive.download.transfer.segments import Segments
from g2a_archive.download.transfer.sharing import fetch_segments, splittable
from g2a_archive.errors import Interrupted, StorageError
from g2a_archive.models import FileKind, size_text
from g2a_archive.transport.answer import Answer, is_host_failure
from g2a_archive.transport.errors import NetworkError

log = logging.getLogger("g2a_archive")

_LINK_LIFETIME = 47 * 3600.0
"""Seconds for which a link is used; the vendor promises "at least 48 hours"."""

_EVERYWHERE = (1 << 31) - 1
"""Bytes that a file can have on every file system."""

_MOST_PARTS = 10_000
"""Answers to one attempt, of which each is a part of what was asked for."""


def fetch(tools: Tools, transfer: Transfer) -> Result | Complete:
    """Make one attempt at a file, up to its last byte. Raises `LocalError`, `StorageError`."""
    part = transfer.part = transfer.part or _leftover(transfer, tools.storage)
    try:
        adopted = adoption.adopt(transfer, tools.storage, tools.sums)
        if adopted is not None:
            part.discard()
            return adopted
        found = _attempt(tools, transfer, part)
        if not isinstance(found, Complete):
            part.suspend()
        return found
    except (OSError, StorageError) as error:
        full = getattr(error, "errno", 0) in (errno.ENOSPC, errno.EDQUOT)
        with suppress(OSError):
            (part.free_tail if full else part.suspend)()
        if isinstance(error, StorageError):
            raise
        raise local_error(error, Operation.WRITE, error.filename or part.path) from error


def _leftover(transfer: Transfer, storage: Storage) -> Partial:
    """What an earlier run left of the file; often nothing."""
    part = Partial(storage.partial, transfer.name)
    if not storage.partial_names.isdisjoint(part.files):
        part.load()
    return part


def _attempt(tools: Tools, transfer: Transfer, part: Partial) -> Result | Complete:
    storage = tools.storage
    if tools.stop.is_set():
        return Stopped()
    if transfer.link.age(time.time(), time.monotonic()) > _LINK_LIFETIME:
        return NewLink("the link is older than 47 hours", failed=False)
    size = transfer.expected or 0
    largest = storage.largest_file(transfer.directory) if size > _EVERYWHERE else None
    if largest is not None and size > largest:
        here = f"{storage.root / transfer.directory}"
        return Failed(f"the file system of {here} takes no file over {size_text(largest)}")
    storage.make_directory(transfer.directory)
    for _ in range(_MOST_PARTS):
        if not tools.wait_for_space(transfer):
            return Stopped()
        with suppress(SpaceReservedError):  # then it waits for others, and asks again
            found = _ask(tools, transfer, part)
            if found is not None:
                return found
    return Retry("the file host sends parts without end", progress=True)


def _ask(tools: Tools, transfer: Transfer, part: Partial) -> Result | Complete | None:
    """Send a request and act on its answer; None where the rest is to be asked for."""
    headers = decisions.range_headers(transfer.partial_state())
    answer: Answer | None = None
    try:
        answer = tools.downloads.get(transfer.link.url, headers)
        transfer.answered, transfer.sending = True, not is_host_failure(answer.status)
        transfer.reused_hosts = answer.reused_hosts | (
            transfer.reused_hosts if transfer.size else set()
        )
        return _ResponseHandler(tools, transfer, part, answer).take(ranged="Range" in headers)
    except NetworkError as error:
        if answer is None and "Range" in headers and transfer.is_last_attempt and error.at_once:
            transfer.request_full = True
            return None
        slow = answer is not None and answer.low_speed.slow
        return Stopped() if tools.stop.is_set() else _broken(transfer, part, error, slow=slow)
    except Interrupted:
        return Stopped()
    finally:
        transfer.splittable = transfer.sending = False
        if transfer.segments is not None:
            transfer.segments.close()
            transfer.segments = None
        if answer is not None:
            answer.close()


def _broken(transfer: Transfer, part: Partial, error: NetworkError, *, slow: bool) -> Result:
    """The connection failed: its bytes are kept for the next attempt or the next run.

    An attempt that was slower than the low speed limit is no progress: else a host that sends a
    byte a minute would never be given up.
    """
    transfer.request_full = transfer.request_full or error.bad_range
    if error.final:
        return Failed(str(error))
    progress = transfer.size > transfer.high_water and not slow
    transfer.high_water = max(transfer.high_water, part.size)
    at = f" at {part.size / 2**20:.1f} MB" if part.size else ""
    reason, host = f"{error}{at}", error.failed_host
    return Retry(reason, progress=progress, failed_host=host, not_sent=error.not_sent)


class _ResponseHandler(Body):
    """An answer of the file host, and what is to be done with it.

    Its methods return None where the rest is to be asked for, and raise `NetworkError` where the
    connection fails.
    """

    def take(self, *, ranged: bool) -> Result | Complete | None:
        """Act on the answer, whose body is still to be read."""
        transfer = self.transfer
        seen = self._seen()
        held = transfer.partial_state()
        verdict = decisions.decide(seen, held, ranged=ranged)
        if verdict.action in (Action.START, Action.COMPARE):
            compare = verdict.action is Action.COMPARE
            return self._take_whole(seen, compare=compare, ranged=ranged)
        if verdict.action is Action.APPEND:
            return self._go_on(decisions.first_asked(held))
        if verdict.action is Action.COMPLETE:
            self.part.resume(self.part.size, self.tools.stop.is_set)
            return self._finish()
        changed = verdict.action is Action.VALIDATOR_CHANGED
        refused = verdict.action is Action.NEW_LINK and transfer.renewed and ranged
        if changed or refused or verdict.action is Action.REQUEST_FULL:
            transfer.validator_changed = transfer.validator_changed or changed
            transfer.request_full = True
            return None
        return self._give_up(verdict)

    def _seen(self) -> ResponseInfo:
        answer = self.answer
        tells = answer.status in (400, 503)
        head = answer.error_head(content.HEAD_SIZE) if tells else b""
        return ResponseInfo(
            status=answer.status,
            validator=validator_of(answer),
            range=answer.content_range(),
            decodable=answer.decodable,
            encoded=answer.encoded,
            proved=answer.is_delimited or answer.encoded or not answer.named_coding,
            length=answer.whole_length,
            head=head,
        )

    def _take_whole(
        self, seen: ResponseInfo, *, compare: bool, ranged: bool
    ) -> Result | Complete | None:
        """The file comes from its first byte on; to `compare`, bytes that are here are kept."""
        transfer, part, answer = self.transfer, self.part, self.answer
        if (found := self._before_first_byte()) is not None:
            return found
        transfer.digests = {}
        transfer.request_full = False
        if part.size and (wrong := self.wrong(answer.peek(content.HEAD_SIZE))) is not None:
            # What is here stays. No MP4: it may have been the rest of one, so all is asked for.
            transfer.request_full = wrong.action is Action.AGAIN
            return self._give_up(wrong)
        if compare:
            return self._take_compared(seen.validator, ranged=ranged)
        if part.size:
            transfer.restart()
        self.reserve(answer.length or transfer.expected or 0)
        part.begin(answer.whole_length, NO_VALIDATOR if answer.encoded else seen.validator)
        return self._take_rest()

    def _before_first_byte(self) -> Result | None:
        """What the length of a whole file decides before any of it is written."""
        transfer, length = self.transfer, self.answer.whole_length
        if (found := adoption.adopt_candidate(transfer, length, self.answer.digests)) is not None:
            return found
        if transfer.expected is not None and length not in (None, transfer.expected):
            return self._contradiction(length or 0)
        return _looked_at_again(transfer) if length == 0 else None

    def _contradiction(self, length: int) -> Result:
        """The announced length is not `recordingSize`: nothing is written."""
        head = b""
        with suppress(NetworkError):
            head = self.answer.read(content.HEAD_SIZE)
        wrong = self.wrong(head)
        if wrong is not None and wrong.action is Action.NEW_LINK:
            return NewLink(wrong.reason)
        if self.answer.has_unsolicited():
            return UNSOLICITED
        return Retry(
            f"the file host announces {length} bytes, recordingSize is {self.transfer.expected}"
        )

    def _take_compared(self, validator: Validator, *, ranged: bool) -> Result | Complete | None:
        """Hold a whole file against the bytes that are here, and go on after them.

        Until all of them are, they are of the file that their own validator names: whatever ends
        this early leaves them as they are.
        """
        transfer, part, answer = self.transfer, self.part, self.answer
        self.reserve(max(0, (answer.length or 0) - part.size))
        part.resume(None, self.tools.stop.is_set)
        at, rest = self.compare(0)
        total = answer.whole_length
        if at == part.size:
            varies = transfer.validator_changed or part.validator.contradicts(validator)
            part.confirm(total if answer.is_delimited else part.total, validator, varies=varies)
        elif not (rest or answer.is_delimited):
            raise NetworkError("the connection was closed early")
        elif ranged and validator == part.validator != NO_VALIDATOR:
            transfer.request_full = True  # the host contradicts itself: this may have been the rest
            return None
        else:
            part.replace_from(at, total, validator)
            transfer.restart()
        return self._take_rest(rest)

    def _go_on(self, begin: int) -> Result | Complete | None:
        """The rest of the file comes, from `begin` on: bytes that are here must be the same."""
        transfer, part, answer = self.transfer, self.part, self.answer
        self.reserve(answer.length or 0)
        part.resume(answer.content_range()[2], self.tools.stop.is_set)
        at, rest = self.compare(begin)
        whole = part.size == transfer.partial_state().known
        over = answer.ended and not (rest or whole)
        if begin == part.size or (at == part.size and not over):
            return self._take_rest(rest)
        if rest:
            return self._give_up(Verdict(Action.RESTART, "the file changed at the host"))
        # The part ended among them: where parts are small, less can come again.
        transfer.overlap = (at - begin) // 2
        return None

    def _take_rest(self, first: bytes = b"") -> Result | Complete | None:
        """Read the body, of which `first` was read already, and act on its end."""
        tools, transfer, part, answer = self.tools, self.transfer, self.part, self.answer
        if not answer.encoded:
            transfer.digests |= answer.digests
        transfer.splittable = splittable(answer, part)
        if part.extents:
            transfer.segments = transfer.segments or Segments(tools.jobs)
        try:
            wrong = self.receive(first)
            shared = wrong is None and part.total is not None and part.size < part.total
            if shared and transfer.segments is not None:
                fetch_segments(tools, transfer, part, answer, transfer.segments)
        except NetworkError as error:
            if answer.encoded:  # our bytes are not those of the host, so they can't be resumed
                part.discard()
            elif error.ragged_end and not answer.is_delimited and part.size == transfer.expected:
                return self._finish()
            raise
        if wrong is not None:
            part.discard()
            return self._give_up(wrong)
        if tools.stop.is_set():
            return Stopped()
        known = transfer.partial_state().known
        left = part.size < known if known is not None else answer.status == 206
        if left and not answer.encoded:
            return self._short()
        return self._finish()

    def _short(self) -> Result | Complete | None:
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
        known = transfer.partial_state().known
        told = "" if known is None else f" of {known}"
        raise NetworkError(f"only {part.size}{told} bytes came")

    def _give_up(self, verdict: Verdict) -> Result:
        if verdict.action is Action.NEW_LINK:
            return NewLink(verdict.reason)
        odd = verdict.action is Action.FAIL or self.answer.status in (200, 206)
        if odd and verdict.action is not Action.RESTART and self.answer.has_unsolicited():
            self.part.discard()
            return UNSOLICITED
        if verdict.action is Action.FAIL:
            return Failed(verdict.reason)
        if verdict.action is Action.RESTART:
            self.part.discard()
            self.transfer.restart()
        failed_host = self.answer.host if is_host_failure(self.answer.status) else ""
        wait, often = self.answer.wait, verdict.often
        return Retry(verdict.reason, wait, failed_host=failed_host, often=often)

    def _finish(self) -> Result | Complete:
        """All bytes came: prove that they are all, and right."""
        wrong = self._not_whole()
        if wrong is None:
            return Complete(self.part, self.answer)
        self.part.discard()
        return UNSOLICITED if self.answer.has_unsolicited() else wrong

    def _not_whole(self) -> Result | None:
        transfer, part, answer = self.transfer, self.part, self.answer
        if part.total is not None and part.size != part.total:
            return Retry(f"{part.size} bytes came, {part.total} were announced")
        if transfer.expected is not None and part.size != transfer.expected:
            return Retry(f"{part.size} bytes came, recordingSize is {transfer.expected}")
        if part.size == 0:
            if transfer.kind is FileKind.MP4 or not answer.is_complete:
                return Retry("the file is empty")
            if (again := _looked_at_again(transfer)) is not None:
                return again
            log.warning(
                "recording %d: %s: it is empty at the host, too", transfer.recording, transfer.kind
            )
        unproved = transfer.expected is None and not answer.is_delimited and answer.status < 400
        unproved = unproved and transfer.kind is FileKind.MP4
        if unproved and not content.boxes_add_up(part.fd, part.size):
            return Retry("the MP4 ended early")
        for name, told in (*transfer.digests.items(), *answer.trailing_digests.items()):
            if part.digest(name) != told:
                return Retry("what came does not match the digest that the host tells")
        return None


def _looked_at_again(transfer: Transfer) -> NewLink | None:
    """A file that is said to be empty is believed where a new link says so, too."""
    if transfer.reported_empty or transfer.kind is FileKind.MP4:
        return None
    transfer.reported_empty = True
    return NewLink("the file is empty", failed=False)
