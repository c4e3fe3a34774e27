"""The four calls of the API: links, list, transcode, mark archived.

What they take and answer is the vendor's public reference of the GoToAssist Remote Support API;
the link call is also in the vendor's swagger description. Where both are silent, a comment says
what was chosen.
"""

from __future__ import annotations

import json
import re
import threading
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta

from g2a_archive.demo.behaviour import Behaviour
from g2a_archive.demo.files import FileHost
from g2a_archive.demo.messages import Request, Response
from g2a_archive.demo.recordings import KINDS, LINK_FIELDS, SimulatedRecording, State
from g2a_archive.demo.tokens import AuthorizationServer

API_PATH = "/G2A/rest/v1"
LINKS_PATH = f"{API_PATH}/archive/recordings/urls"
LIST_PATH = f"{API_PATH}/archive/recordings"
TRANSCODE_PATH = f"{API_PATH}/archive/recordings/transcode"
ARCHIVED_PATH = f"{API_PATH}/archive/recordings/archived"

LinkEntry = dict[str, object]


class _RefusedError(Exception):
    """A call that ends in an error answer."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.response = Response.error(status, code, message)


def _bad_request(message: str) -> _RefusedError:
    return _RefusedError(400, "InvalidRequest", message)


def _forbidden(status: int = 403) -> _RefusedError:
    # The reference gives one answer for both reasons, so nothing in it tells them apart.
    return _RefusedError(status, "Forbidden", "Invalid authorization header or recording IDs")


class ArchiveApi:
    """The recordings, what is known of them, and the calls that tell or change it."""

    def __init__(
        self,
        recordings: Iterable[SimulatedRecording],
        behaviour: Behaviour,
        authority: AuthorizationServer,
        files: FileHost,
    ) -> None:
        """Take the recordings; their order does not matter."""
        self._behaviour = behaviour
        self._authority = authority
        self._files = files
        self._lock = threading.Lock()
        self._accepted: deque[float] = deque()
        self._asked: dict[int, tuple[float, int]] = {}
        self._states: dict[int, State] = {}
        self._polls = 0
        self.on_links: list[Callable[[list[LinkEntry]], object]] = []
        self.archived: set[int] = set()
        self.set_recordings(recordings)

    def set_recordings(self, recordings: Iterable[SimulatedRecording]) -> None:
        """Replace the population."""
        ordered = sorted(recordings, key=lambda recording: (recording.start, recording.id))
        self._ordered: Sequence[SimulatedRecording] = ordered
        self._starts = [recording.start for recording in ordered]
        self.by_id = {recording.id: recording for recording in ordered}

    def answer(self, request: Request) -> Response:
        """Answer one of the four calls."""
        try:
            self._check_rate()
            if not self._authority.accepts(request.headers.get("authorization", "")):
                raise _forbidden(self._behaviour.refused_token_status)
            if request.call == "links":
                return self._links(request)
            if request.call == "list":
                return self._list(request)
            return self._change(request)
        except _RefusedError as refusal:
            return refusal.response

    def state(self, recording_id: int) -> State:
        """Return the state that a recording is in now."""
        with self._lock:
            return self._state(self.by_id[recording_id])

    def set_state(self, recording_id: int, state: State) -> None:
        """Put a recording into a state."""
        with self._lock:
            self._asked.pop(recording_id, None)
            self._states[recording_id] = state

    def _state(self, recording: SimulatedRecording) -> State:
        """Return the state now; a transcoding that is under way is in neither list."""
        state = self._states.get(recording.id, recording.state)
        asked = self._asked.get(recording.id)
        if asked is None or state != "transcode":
            return state
        at, polls = asked
        done = (
            self._behaviour.clock() >= at + self._behaviour.transcode_seconds
            and self._polls >= polls + self._behaviour.transcode_polls
        )
        return "ready" if done else "unavailable"

    def _check_rate(self) -> None:
        limit = self._behaviour.rate_limit
        if limit is None:
            return
        now = self._behaviour.clock()
        with self._lock:
            while self._accepted and self._accepted[0] <= now - 1.0:
                self._accepted.popleft()
            if len(self._accepted) >= limit:
                raise _RefusedError(429, "TooManyRequests", "Too many requests")
            self._accepted.append(now)

    def _known(self, texts: Sequence[str]) -> list[int]:
        """Return the IDs of a call, each once; one that is unknown refuses the whole call."""
        if not texts:
            raise _bad_request("No recording ID")
        if len(texts) > self._behaviour.most_ids:
            raise _bad_request(f"More than {self._behaviour.most_ids} recordings")
        if not all(re.fullmatch("[0-9]{1,20}", text) for text in texts):
            raise _bad_request("Not a recording ID")
        ids = list(dict.fromkeys(int(text) for text in texts))
        if not all(number in self.by_id for number in ids):
            raise _forbidden()
        return ids

    def _links(self, request: Request) -> Response:
        names = {name for name, _ in request.query}
        if names - {self._behaviour.id_attribute}:
            raise _bad_request("Unknown attribute")
        ids = self._known([value for _, value in request.query])
        with self._lock:
            ready = [n for n in ids if self._state(self.by_id[n]) == "ready"]
        serial = self._files.next_serial()
        answer: object = [self._entry(self.by_id[number], serial) for number in ready]
        for edit in tuple(self.on_links):
            edited = edit(answer)  # type: ignore[arg-type]
            answer = answer if edited is None else edited
        return Response.json(answer)

    def _entry(self, recording: SimulatedRecording, serial: int) -> LinkEntry:
        entry: LinkEntry = {
            "recordingId": recording.id,
            "recordingStartTime": recording.start_text,
        }
        for kind in KINDS:
            size = recording.size(kind)
            if size is not None:
                entry[LINK_FIELDS[kind]] = self._files.link(recording.id, kind, serial)
                if kind == "mp4":
                    entry["recordingSize"] = str(size)
        entry.update(recording.fields)
        return {name: value for name, value in entry.items() if value is not None}

    def _list(self, request: Request) -> Response:
        chosen = self._chosen(request)
        most = self._behaviour.most_ids
        with self._lock:
            self._polls += 1
            states = [(recording.id, self._state(recording)) for recording in chosen]
        return Response.json(
            {
                "readyForTranscode": [n for n, state in states if state == "transcode"][:most],
                "readyForDownload": [n for n, state in states if state == "ready"][:most],
            }
        )

    def _chosen(self, request: Request) -> list[SimulatedRecording]:
        """Return the recordings that a list call is about, in start order.

        Repeated values of a parameter are alternatives, different parameters narrow each other:
        our choice, the reference does not say.
        """
        given: dict[str, set[str]] = {}
        for name, value in request.query:
            given.setdefault(name, set()).add(value)
        accounts, users = given.get("accountKey"), given.get("userKey")
        companies, types = given.get("companyId"), given.get("sessionType", {"0", "1"})
        if not (accounts or users or companies):
            raise _bad_request("One of accountKey, userKey, companyId is needed")
        if not types <= {"0", "1"}:
            raise _bad_request("sessionType is 0 or 1")
        archived = request.parameter("archived") or "0"
        if archived not in ("0", "1"):
            raise _bad_request("archived is 0 or 1")
        with self._lock:
            marked = set(self.archived)
        first, last = self._window(request)
        return [
            recording
            for recording in self._ordered[first:last]
            if (not accounts or recording.account_key in accounts)
            and (not users or recording.user_key in users)
            and (not companies or recording.company_id in companies)
            and str(recording.session_type) in types
            and (recording.id in marked) == (archived == "1")
        ]

    def _window(self, request: Request) -> tuple[int, int]:
        """Return which part of the recordings, which are in start order, a list call is about."""
        first, last = 0, len(self._ordered)
        begin, end = request.parameter("fromTime"), request.parameter("toTime")
        days = request.parameter("timePeriod")
        if begin is not None:
            find = bisect_left if self._behaviour.from_time_inclusive else bisect_right
            first = find(self._starts, _time(begin))
        if end is not None:
            find = bisect_right if self._behaviour.to_time_inclusive else bisect_left
            last = find(self._starts, _time(end))
        if days is not None:
            if not re.fullmatch("[0-9]{1,5}", days):
                raise _bad_request("timePeriod is a number of days")
            since = self._behaviour.now() - timedelta(days=int(days))
            first = max(first, bisect_left(self._starts, since))
        return first, last

    def _change(self, request: Request) -> Response:
        prefix = TRANSCODE_PATH if request.call == "transcode" else ARCHIVED_PATH
        method = "POST" if request.call == "transcode" else "PUT"
        if request.method != method:
            raise _RefusedError(405, "MethodNotAllowed", f"This call is a {method}")
        ids = self._known(self._ids_of(request, prefix))
        with self._lock:
            if request.call == "archived":
                self.archived.update(ids)
            else:
                asked = self._behaviour.clock(), self._polls
                for number in ids:
                    self._asked.setdefault(number, asked)
        return Response(204)

    def _ids_of(self, request: Request, prefix: str) -> list[str]:
        """Return the IDs of a call that changes something, from the place that is looked at."""
        rest, place = request.path.removeprefix(prefix), self._behaviour.ids_in
        if bool(rest) != (place == "path"):
            raise _RefusedError(404, "NotFound", "Nothing here")
        if place == "path":
            return rest.removeprefix("/").split(",")
        if place == "query":
            return [value for name, value in request.query if name == "recordingIds"]
        try:
            return [str(number) for number in json.loads(request.body)["recordingIds"]]
        except (ValueError, TypeError, KeyError):
            raise _bad_request("No recordingIds in the body") from None


def _time(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise _bad_request("Not an ISO 8601 time") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)
