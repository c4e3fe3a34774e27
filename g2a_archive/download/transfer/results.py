"""One file's state on its way, and what an attempt at it can end in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from g2a_archive.archive.partial import Partial
from g2a_archive.download.transfer.decisions import OVERLAP, PartialState
from g2a_archive.download.transfer.segments import Segments
from g2a_archive.models import FileKind, Link, StoredFile
from g2a_archive.transport.answer import Answer
from g2a_archive.transport.connections import HostPort


@dataclass(slots=True, eq=False)
class Transfer:
    """One file on its way. `expected` is `recordingSize` (the MP4's), in bytes."""

    recording: int
    kind: FileKind
    directory: str
    start: datetime
    link: Link
    expected: int | None = None
    known_sha256: str | None = None
    attempts: int = 0
    retries: int = 0  # as many as may follow the first attempt
    renewed: bool = False  # since the last progress
    digests: dict[str, bytes] = field(default_factory=dict)  # digests, by whichever of its answers
    reported_empty: bool = False  # the host said so once already
    validator_changed: bool = False  # another validator came for what may be the same file
    request_full: bool = False  # the next request is for all of it
    overlap: int = OVERLAP
    found: str | None = None  # what stood under one of its names as the attempt began
    candidate: str | None = None  # a file under its final name, ours if the host tells its length
    part: Partial | None = None
    space_needed: int | None = None  # bytes that others under way leave no room for
    high_water: int = 0  # bytes: only what is beyond them is progress
    restarted: bool = False
    received: int = 0  # in the attempt under way
    sending: bool = False  # the host, at this moment
    splittable: bool = False
    segments: Segments | None = None
    helpers: int = 0
    helper_failures: int = 0
    failed_host: str = ""  # the host that had no answer to the last attempt, be it a redirect's
    reused_hosts: set[HostPort] = field(default_factory=set)  # as of an answer: of all its bytes
    answered: bool = False  # whether the attempt under way came as far as the host's answer

    @property
    def reserves_incrementally(self) -> bool:
        """Whether free space is claimed for no more than what comes next of it.

        Of its length there is only the host's word, which must keep no others' files out.
        """
        return self.kind is not FileKind.MP4

    @property
    def size(self) -> int:
        """Bytes that are here."""
        return self.part.size if self.part is not None else 0

    @property
    def missing(self) -> int:
        """Bytes still to come, as far as is known."""
        part = self.part
        return part.total - part.size if part is not None and part.total is not None else 0

    @property
    def name(self) -> str:
        """The file's name in `partial/`, less its suffix."""
        return f"{self.recording}.{self.kind}"

    @property
    def is_last_attempt(self) -> bool:
        """Whether no other attempt follows the one that is due, unless it makes progress."""
        return self.attempts >= self.retries

    def partial_state(self) -> PartialState:
        """What we have of the file."""
        part = self.part
        assert part is not None
        return PartialState(
            size=part.size,
            total=part.total,
            expected=self.expected,
            validator=part.validator,
            sparse=bool(part.extents),
            varies=part.varies,
            request_full=self.request_full,
            overlap=self.overlap,
            last=self.is_last_attempt,
        )

    def restart(self) -> None:
        """What is here is of no use. All bytes count as progress anew the first time that this is
        so, but no more than once: a file that is never whole would be fetched for ever."""
        if not self.restarted:
            self.restarted, self.high_water = True, 0
        self.validator_changed, self.request_full, self.overlap = False, False, OVERLAP


class Stored(NamedTuple):
    """The file is whole, flushed, and has its final name; its directory is still to be flushed."""

    file: StoredFile
    adopted: bool = False
    aside: Sequence[str] = ()


class Retry(NamedTuple):
    """The attempt failed; another may work. `wait` is the host's `Retry-After` in seconds.

    `progress`: bytes came that were not here before. `failed_host`: the host, be it a redirect's,
    that was not reached, had no answer, or only one that is a fault of its own. `not_sent`: that
    was no attempt at the file, as the host is down, say. `often`: it is asked too often.
    """

    reason: str
    wait: float | None = None
    progress: bool = False
    failed_host: str = ""
    not_sent: bool = False
    often: bool = False


UNSOLICITED = Retry("the file host sent what nobody had asked for", not_sent=True)
"""It comes once more, on a new connection, which is no fault of this file."""


class NewLink(NamedTuple):
    """Another link is needed. Where the last one `failed`, so that a second one in a row is given
    up: one that is too old was not even tried, and one that leads to an empty file works."""

    reason: str
    failed: bool = True


class Failed(NamedTuple):
    """No attempt will work."""

    reason: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """The run is asked to stop; the bytes so far are kept."""


class Complete(NamedTuple):
    """All bytes are here and right; the file is still to be flushed and named.

    `answer` is the one of which the last bytes are.
    """

    part: Partial
    answer: Answer


Result = Stored | Retry | NewLink | Failed | Stopped
