"""The four calls of the service, their limits and their errors.

The link call is the vendor's "Download Recordings" description; list, transcode and mark
archived are from the vendor's public reference for the same API. All take at most 500 IDs, and
answer 400 (malformed), 403 (bad authorization or an invalid ID in the list) or 500.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar
from urllib.parse import urlencode

from g2a_archive.errors import (
    ArchiverError,
    BadRequestError,
    CallTooLongError,
    CredentialsError,
    ForbiddenError,
    ServiceError,
    UnreachableError,
)
from g2a_archive.models import ID_PLACES, LIST_LIMIT, LinkResult, Recording
from g2a_archive.service import payloads
from g2a_archive.service.session import (
    ApiSession,
    Call,
    expired_credentials_error,
    refused_credentials_error,
)

log = logging.getLogger("g2a_archive")

_T = TypeVar("_T")

_PATH = "/archive/recordings"

LONG_QUERY = 2000
"""Bytes of a query, or of IDs in a path, that a proxy on the way may call malformed."""

SUSPICIOUS_REFUSALS = 16
"""So many IDs refused in a row, one by one, may mean the credentials."""

_DOUBTFUL = "refused with 403: an invalid ID, or the credentials, as no call was accepted yet"


@dataclass(slots=True)
class _Chunk:
    """What is known so far about the IDs of one chunk."""

    suspicious: int = SUSPICIOUS_REFUSALS
    found: dict[int, Recording] = field(default_factory=dict)
    unavailable: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)
    malformed: str | None = None  # why the service does not understand the call, however short
    accepted: bool = False
    refusals_in_doubt: int = 0  # so many of the last refused ones, since a call was accepted
    renewed: bool = False
    renewal_error: ServiceError | None = None  # why the token endpoint gave no other token

    def accept(self) -> None:
        """A call was accepted: what was refused before it was so for its IDs."""
        self.accepted, self.refusals_in_doubt = True, 0


class Service:
    """The service, as the rest of the program sees it. Safe to use from several threads."""

    def __init__(
        self, session: ApiSession, *, id_attribute: str = "recordingIds", ids_in: str = "path"
    ) -> None:
        """`id_attribute` names the IDs of the link call; `ids_in` is one of `ID_PLACES`."""
        self._session = session
        self._attribute = id_attribute
        self._ids_in = ids_in
        self.clock = session.clock
        self._lock = threading.Lock()
        self._good_id: int | None = None
        self._good_list: str | None = None
        self._listed: int | None = None  # ready for download, so the list says
        self._early_refusals = 0
        self._malformed = False  # whether a short call got a 400, too
        self.chunk_limit = LIST_LIMIT
        self.unreachable_in_a_row = 0

    @property
    def ever_answered(self) -> bool:
        """Whether any link call of this run was answered as it should be."""
        return self._good_id is not None

    @property
    def _credentials_proven(self) -> bool:
        """Whether a call was accepted, so that a refusal says something of the IDs."""
        return self._good_id is not None or self._good_list is not None

    # --- links ------------------------------------------------------------------------------

    def links(self, ids: Sequence[int], *, of: int = LIST_LIMIT) -> LinkResult:
        """Ask for the links of at most 500 recordings; bisect refusals to single IDs.

        `of`: how many the whole run asks for. Raises `CredentialsError` where the credentials are
        what is refused, and `Interrupted`. A call that failed to the end is in the answer's
        `failed`, with its reason; so is a refusal that may mean the credentials.
        """
        chunk = _Chunk(suspicious=min(SUSPICIOUS_REFUSALS, of))
        try:
            self._bisect(list(ids), chunk, certain=False)
            if chunk.refusals_in_doubt and self._credentials_proven:
                self._recheck_credentials(chunk)
        except ServiceError as error:  # the credentials; and no others could be had
            self._count_unreachable(error)
            del chunk.refused[len(chunk.refused) - chunk.refusals_in_doubt :]
            told = {*chunk.found, *chunk.unavailable, *chunk.refused, *chunk.failed}
            chunk.failed.update((id_, str(error)) for id_ in ids if id_ not in told)
        if not self._credentials_proven:
            chunk.failed.update(dict.fromkeys(chunk.refused, str(chunk.renewal_error or _DOUBTFUL)))
            chunk.refused.clear()
        return LinkResult(
            recordings=tuple(chunk.found[i] for i in ids if i in chunk.found),
            unavailable=tuple(chunk.unavailable),
            refused=tuple(chunk.refused),
            failed=chunk.failed,
        )

    def _bisect(self, ids: list[int], chunk: _Chunk, *, certain: bool) -> bool:
        """Ask for `ids`; halve, depth first, while they are refused. True if any was refused.

        `certain`: an invalid ID must be among them, since the whole was refused and the other
        half was not, so that asking for all of them again would be a call too many.
        """
        if len(ids) > self.chunk_limit:  # known as too long meanwhile
            return self._halve(ids, chunk)
        if not (certain and len(ids) > 1):
            try:
                if self._ask(ids, chunk):
                    return False
            except (CallTooLongError, BadRequestError) as error:
                if len(ids) == 1:
                    chunk.failed[ids[0]] = error.message
                    return False
                return self._halve(ids, chunk)
            if len(ids) == 1:
                self._refuse(ids[0], chunk)
                return True
        middle = len(ids) // 2
        in_left = self._bisect(ids[:middle], chunk, certain=False)
        self._bisect(ids[middle:], chunk, certain=not in_left)
        return True

    def _halve(self, ids: list[int], chunk: _Chunk) -> bool:
        """Ask for the halves of a call that is too long. True if any ID was refused."""
        middle = (len(ids) + 1) // 2
        left = self._bisect(ids[:middle], chunk, certain=False)
        if chunk.malformed is not None:  # a short call is no better: it isn't the length
            chunk.failed.update(dict.fromkeys(ids[middle:], chunk.malformed))
            return left
        if chunk.accepted:
            with self._lock:
                self.chunk_limit = min(self.chunk_limit, middle)
        return self._bisect(ids[middle:], chunk, certain=False) or left

    def _ask(self, ids: list[int], chunk: _Chunk) -> bool:
        """One link call. True: answered, or failed to the end; False: refused with a 403.

        Raises `CallTooLongError`, and `BadRequestError` for a 400 that may mean just that.
        """
        try:
            found, warnings = self._with_renewal(lambda: self._call_links(ids), chunk)
        except ForbiddenError as error:
            if error.status == 401:  # which is no word on the IDs
                raise self._bad_credentials(chunk) from None
            return False
        except ServiceError as error:
            if isinstance(error, CallTooLongError):
                raise
            self._count_unreachable(error)
            if isinstance(error, BadRequestError):
                if self._perhaps_too_long(self._query(ids), len(ids)):
                    raise
                error.hint = self._attribute_hint()
                chunk.malformed, self._malformed = str(error), True
            chunk.failed.update(dict.fromkeys(ids, str(error)))
            return True
        for warning in warnings:
            log.warning("%s", warning)
        self.unreachable_in_a_row, self._good_id = 0, ids[0]
        chunk.accept()
        for id_ in ids:
            entry = found.get(id_)
            if entry is None:
                chunk.unavailable.append(id_)
            elif isinstance(entry, str):
                chunk.failed[id_] = entry
            else:
                chunk.found[id_] = entry
        return True

    def _count_unreachable(self, error: ServiceError) -> None:
        unreachable = isinstance(error, UnreachableError)
        self.unreachable_in_a_row = self.unreachable_in_a_row + 1 if unreachable else 0

    def _bad_credentials(self, chunk: _Chunk) -> ArchiverError:
        """What to raise where they are what is refused; what kept a renewal away comes first."""
        return chunk.renewal_error or (
            expired_credentials_error() if self._credentials_proven else refused_credentials_error()
        )

    def _perhaps_too_long(self, text: str, count: int) -> bool:
        """Whether a 400 may come from a proxy that takes `text`, with `count` IDs, for too long."""
        return count > 1 and len(text) > LONG_QUERY and not self._malformed

    def _attribute_hint(self) -> str:
        new = "recordingIds" if self._attribute == "recordingId" else "recordingId"
        return f"is --id-attribute right? it is {self._attribute!r} now; the next guess is {new!r}"

    def _query(self, ids: Sequence[int]) -> str:
        return urlencode([(self._attribute, id_) for id_ in ids])

    def _call_links(self, ids: Sequence[int]) -> payloads.Parsed:
        def read(payload: object) -> payloads.Parsed:
            return payloads.parse_links(payload, frozenset(ids), time.time(), time.monotonic())

        call = Call("link call", "GET", f"{_PATH}/urls", self._query(ids))
        return self._session.make(call, read)

    def _refuse(self, id_: int, chunk: _Chunk) -> None:
        """Note an ID that was refused alone; find out whether it is the credentials instead."""
        chunk.refused.append(id_)
        chunk.refusals_in_doubt += 1
        if self._good_id is None:
            self._early_refusals += 1
            if self._early_refusals >= chunk.suspicious:
                self._check_credentials(chunk)
        self._doubt(chunk)

    def _check_credentials(self, chunk: _Chunk) -> None:
        """Raise `CredentialsError` where not even what a list call told as ready is accepted."""
        self._early_refusals, listed = 0, self._listed
        try:
            if listed is not None:
                self._call_links([listed])
                self._good_id = listed
                chunk.accept()
        except ForbiddenError:
            raise chunk.renewal_error or refused_credentials_error() from None
        except ServiceError as error:
            log.warning("%s", error)
        if not self._credentials_proven:
            raise self._bad_credentials(chunk)

    def _doubt(self, chunk: _Chunk) -> None:
        """Look at the credentials: a refusal tells of an ID only if a later call is accepted."""
        if self._credentials_proven and not (
            chunk.accepted and chunk.refusals_in_doubt < SUSPICIOUS_REFUSALS
        ):
            self._recheck_credentials(chunk)

    def _recheck_credentials(self, chunk: _Chunk) -> None:
        """Make a call that was accepted before: a token that ran out refuses everything."""
        try:
            if self._good_id is not None:
                self._call_links([self._good_id])
            elif self._good_list is not None:
                self._call_list(self._good_list)
        except ForbiddenError:
            raise self._bad_credentials(chunk) from None
        except ServiceError as error:
            log.warning("%s", error)
        chunk.accept()

    # --- the other three --------------------------------------------------------------------

    def ready(self, query: Iterable[tuple[str, str]]) -> payloads.ListResult:
        """The list call: IDs ready for transcoding and for download, at most 500 of each.

        `query` holds `accountKey`, `userKey`, `companyId` (one at least), `sessionType`,
        `fromTime`, `toTime`, `timePeriod`, `archived`. Raises `ServiceError`,
        `CredentialsError`, `Interrupted`.
        """
        params = urlencode(list(query))
        try:
            found = self._with_renewal(lambda: self._call_list(params))
        except ForbiddenError:
            raise CredentialsError(
                "the service refused the credentials, or one of the keys",
                hint="get a new access token, and check the account, user and company keys",
            ) from None
        except BadRequestError as error:
            error.hint = "check the account, user and company keys"
            raise
        for warning in found.warnings:
            log.warning("%s", warning)
        self._good_list = params
        self._listed = found.download[-1] if found.download else self._listed
        return found

    def _call_list(self, params: str) -> payloads.ListResult:
        return self._session.make(Call("list call", "GET", _PATH, params), payloads.parse_list)

    def probe(self) -> None:
        """Find out whether the credentials are accepted.

        It is the list call without any key, which is malformed: 400 means that the credentials
        were looked at, and found good. Raises as `ready`.
        """
        with suppress(BadRequestError):
            try:
                self._with_renewal(lambda: self._accepted(Call("trial call", "GET", _PATH)))
            except ForbiddenError:
                raise CredentialsError(
                    "the service refuses the credentials",
                    hint="get a new token; check client ID, secret and personal access token",
                ) from None

    def transcode(self, ids: Sequence[int]) -> list[int]:
        """Ask for the transcoding of at most 500 recordings; returns those that are refused.

        A call that is refused is halved until the IDs at fault stand alone. Raises as `ready`.
        """
        call = Call("transcode call", "POST", f"{_PATH}/transcode")
        return self._change(call, list(ids), _Chunk())

    def mark_archived(self, ids: Sequence[int]) -> list[int]:
        """Mark at most 500 recordings as archived on the service; otherwise as `transcode`."""
        call = Call("mark-archived call", "PUT", f"{_PATH}/archived")
        return self._change(call, list(ids), _Chunk())

    def _change(self, call: Call, ids: list[int], chunk: _Chunk) -> list[int]:
        of_ids = self._with_ids(call, ids)
        try:
            self._with_renewal(lambda: self._accepted(of_ids), chunk)
        except ServiceError as error:
            refused = isinstance(error, ForbiddenError)
            too_long = isinstance(error, CallTooLongError) or (
                error.status == 400 and self._perhaps_too_long(of_ids.path + of_ids.query, len(ids))
            )
            if not (refused or too_long) or (too_long and len(ids) == 1):
                if error.status in (400, 404, 405):
                    error.hint = self._place_hint()
                raise
            if len(ids) == 1:
                chunk.refusals_in_doubt += 1
                self._doubt(chunk)
                return ids
        else:
            chunk.accept()
            return []
        middle = (len(ids) + 1) // 2
        left = self._change(call, ids[:middle], chunk)
        return left + self._change(call, ids[middle:], chunk)

    def _accepted(self, call: Call) -> None:
        """Make a call that answers nothing."""
        self._session.make(call, partial(payloads.parse_empty, call.name))

    def _with_ids(self, call: Call, ids: Sequence[int]) -> Call:
        """A call that changes something, with its IDs: the vendor leaves open where."""
        if self._ids_in == "query":
            return call._replace(query=urlencode([("recordingIds", id_) for id_ in ids]))
        if self._ids_in == "body":
            return call._replace(body={"recordingIds": list(ids)})
        return call._replace(path=f"{call.path}/{','.join(map(str, ids))}")

    def _place_hint(self) -> str:
        others = " or ".join(place for place in ID_PLACES if place != self._ids_in)
        return f"is --ids-in right? it is {self._ids_in!r} now; try {others}"

    def _with_renewal(self, call: Callable[[], _T], chunk: _Chunk | None = None) -> _T:
        """Make a call; where it is refused, renew the token and repeat it, once a `chunk`.

        A 403 stays where the token endpoint is what fails: it may be about an ID of the chunk, and
        the token be good.
        """
        try:
            return call()
        except ForbiddenError as error:
            refusal = error
        credentials = self._session.credentials
        if not credentials.renewable or (chunk and chunk.renewed):
            raise refusal
        if chunk:
            chunk.renewed = True
        try:
            renewed = credentials.renew(refusal.header)
        except ServiceError as error:
            if not chunk or refusal.status == 401:  # nothing else can be at fault
                raise
            log.warning("%s", error)
            chunk.renewal_error = error
            raise refusal from None
        if not renewed:
            raise refusal
        return call()
