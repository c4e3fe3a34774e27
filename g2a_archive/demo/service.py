"""The simulated service: the whole API, the token endpoint and the file host, on loopback.

    with SimulatedService(sample_recordings(40)) as service:
        run_with(service.environment())
        assert service.requests.leaks == []

It is real HTTP/1.1 with keep-alive, a thread for each connection. What goes wrong is added by
rules (see `faults`); everything else is as in the vendor's public reference.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType

from g2a_archive.demo.api import (
    API_PATH,
    ARCHIVED_PATH,
    LINKS_PATH,
    LIST_PATH,
    TRANSCODE_PATH,
    ArchiveApi,
    LinkEntry,
)
from g2a_archive.demo.behaviour import Behaviour
from g2a_archive.demo.faults import NO_FAULT, Fault, Rule
from g2a_archive.demo.files import FILES_PATH, FileHost
from g2a_archive.demo.messages import Call, Request, Response
from g2a_archive.demo.recordings import Kind, SimulatedRecording, State
from g2a_archive.demo.requestlog import API_CALLS, RequestLog
from g2a_archive.demo.tokens import AUTHORIZE_PATH, TOKEN_PATH, AuthorizationServer
from g2a_archive.demo.wire import Connection, MalformedError, StoppedError, Stopper

HOST = "127.0.0.1"
BACKLOG = 256

Hook = Callable[[Request], Response | Fault | None]


class SimulatedService:
    """The service, from `start` (or `with`) to `stop`."""

    def __init__(
        self, recordings: Iterable[SimulatedRecording] = (), behaviour: Behaviour | None = None
    ) -> None:
        """Prepare a service with these recordings; it does not listen yet."""
        self.behaviour = behaviour or Behaviour()
        self.requests = RequestLog(self.behaviour.log)
        self.on_request: list[Hook] = []
        """Asked in order before each answer; the first that returns something has its way."""
        self._authority = AuthorizationServer(self.behaviour)
        self._files = FileHost(self.behaviour, lambda: self.base_url)
        self._api = ArchiveApi(recordings, self.behaviour, self._authority, self._files)
        self.token = self._authority.issue()
        """An access token, good for `token_lifetime`."""
        self._lock = threading.Lock()
        self._connections: dict[Connection, threading.Thread] = {}
        self._listener: socket.socket | None = None
        self._port = self.behaviour.port

    # Its life.

    def start(self) -> SimulatedService:
        """Listen, and answer in the background."""
        self._stopper = Stopper()
        self._listener = socket.create_server((HOST, self._port), backlog=BACKLOG)
        self._port = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, name="simulated", daemon=True)
        self._acceptor.start()
        return self

    def stop(self) -> None:
        """End all connections, stalled ones too, and stop listening. Done twice, it does no harm.

        A service that is started again has the same port.
        """
        if self._listener is None:
            return
        self._stopper.stop()
        self._acceptor.join()
        self._listener.close()
        self._listener = None
        with self._lock:
            open_now = dict(self._connections)
        for connection in open_now:
            connection.shut()
        for thread in open_now.values():
            thread.join(timeout=10)
        self._stopper.close()

    def __enter__(self) -> SimulatedService:
        """Start."""
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()

    # Where it is.

    @property
    def base_url(self) -> str:
        """The address without any path."""
        return f"http://{HOST}:{self._port}"

    @property
    def other_host_url(self) -> str:
        """The same service under another host name, for redirects to a stranger."""
        return f"http://localhost:{self._port}"

    @property
    def api_url(self) -> str:
        """The base address of the API."""
        return f"{self.base_url}{API_PATH}"

    @property
    def token_url(self) -> str:
        """The address of the token endpoint."""
        return f"{self.base_url}{TOKEN_PATH}"

    @property
    def authorize_url(self) -> str:
        """The address of the authorization page."""
        return f"{self.base_url}{AUTHORIZE_PATH}"

    def environment(self, *, renewable: bool = False) -> dict[str, str]:
        """Return the environment variables that point g2a-archive here.

        With `renewable`, a client and a personal access token instead of an access token.
        """
        environment = {
            "G2A_ARCHIVE_API_URL": self.api_url,
            "G2A_ARCHIVE_TOKEN_URL": self.token_url,
        }
        if not renewable:
            return {**environment, "G2A_ARCHIVE_TOKEN": self.token}
        return {
            **environment,
            "G2A_ARCHIVE_CLIENT_ID": self.behaviour.client_id,
            "G2A_ARCHIVE_CLIENT_SECRET": self.behaviour.client_secret,
            "G2A_ARCHIVE_PAT": self.behaviour.pat,
        }

    # What it has, and how a test changes that.

    @property
    def recordings(self) -> Mapping[int, SimulatedRecording]:
        """The recordings by ID."""
        return self._api.by_id

    def set_recordings(self, recordings: Iterable[SimulatedRecording]) -> None:
        """Replace the recordings, as new ones come in over time."""
        self._api.set_recordings(recordings)

    @property
    def archived(self) -> frozenset[int]:
        """The recordings that were marked as archived."""
        return frozenset(self._api.archived)

    @property
    def on_links(self) -> list[Callable[[list[LinkEntry]], object]]:
        """Functions that get the entries of each link answer and return what to send (or None)."""
        return self._api.on_links

    def state(self, recording_id: int) -> State:
        """Return the state that a recording is in now."""
        return self._api.state(recording_id)

    def set_state(self, recording_id: int, state: State) -> None:
        """Put a recording into a state."""
        self._api.set_state(recording_id, state)

    @property
    def authorization(self) -> str:
        """The Authorization header of a client with `token`."""
        return self._authority.header(self.token)

    def link(self, recording_id: int, kind: Kind = "mp4") -> str:
        """Return a fresh link to a file, as the link call would, without that call."""
        return self._files.link(recording_id, kind, self._files.next_serial())

    def issue_token(self, lifetime: float | None = None) -> str:
        """Return another access token."""
        return self._authority.issue(lifetime)

    def issue_refresh_token(self) -> str:
        """Return a refresh token, as a login would have brought."""
        return self._authority.issue_refresh()

    def revoke(self, token: str | None = None) -> None:
        """End a token of either sort, or all access tokens."""
        self._authority.revoke(token)

    def expire_links(self, recording_ids: Iterable[int] | None = None) -> None:
        """End all links handed out so far, or those of some recordings; new ones are good."""
        self._files.expire(recording_ids)

    def fail(
        self,
        fault: Fault | Response,
        *,
        call: Call | None = None,
        kind: Kind | None = None,
        recording_id: int | None = None,
        times: int | None = None,
        skip: int = 0,
    ) -> Rule:
        """Let requests meet a fault; return the rule, whose `applied` counts (see `Rule`)."""
        rule = Rule(fault, call=call, kind=kind, recording_id=recording_id, times=times, skip=skip)
        self.on_request.append(rule)
        return rule

    def fail_files(
        self,
        fault: Fault | Response,
        kind: Kind | None = None,
        recording_id: int | None = None,
        times: int | None = None,
        skip: int = 0,
    ) -> Rule:
        """Let requests for files meet a fault: some of a kind, a recording, a number of times."""
        return self.fail(
            fault, call="file", kind=kind, recording_id=recording_id, times=times, skip=skip
        )

    # How it works.

    def _accept(self) -> None:
        assert self._listener is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._stopper.receiver, selectors.EVENT_READ)
            while True:
                selector.select()
                if self._stopper.stopped:
                    return
                with contextlib.suppress(OSError):  # the client may be gone already
                    self._welcome(self._listener.accept()[0])

    def _welcome(self, sock: socket.socket) -> None:
        connection = Connection(sock, self._stopper, self.requests)
        thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
        with self._lock:
            self._connections[connection] = thread
        self.requests.connected()
        thread.start()

    def _serve(self, connection: Connection) -> None:
        try:
            # A client may leave at any point; that ends its connection and nothing else.
            with contextlib.suppress(OSError, ValueError, StoppedError, MalformedError):
                while not self._stopper.stopped:
                    request = connection.read_request()
                    if request is None or not self._exchange(connection, request):
                        break
        finally:  # also where a hook raises, so that its test fails at once, not by a time-out
            connection.close()
            with self._lock:
                self._connections.pop(connection, None)

    def _exchange(self, connection: Connection, request: Request) -> bool:
        request.call = _call(request.method, request.path)
        is_file = request.call == "file"
        if is_file:
            request.recording_id, request.kind = FileHost.identify(request.path)
        self.requests.begin(request, self.behaviour.clock())
        try:
            fault = self._fault(request)
            response = fault.response or self._answer(request, fault)
            behaviour = self.behaviour
            return connection.send(
                response,
                fault,
                request,
                latency=behaviour.latency if is_file else behaviour.link_latency,
                rate=behaviour.rate if is_file else None,
            )
        finally:
            self.requests.end(request)

    def _fault(self, request: Request) -> Fault:
        for hook in tuple(self.on_request):
            found = hook(request)
            if isinstance(found, Response):
                return Fault(response=found)
            if found is not None:
                return found
        return NO_FAULT

    def _answer(self, request: Request, fault: Fault) -> Response:
        longest = self.behaviour.most_target_bytes
        if longest is not None and len(request.target) > longest:
            return Response(414)
        if request.call == "file":
            return self._files.answer(request, self.recordings, fault)
        if request.call == "token":
            return self._authority.token_answer(request)
        if request.call == "authorize":
            return self._authority.authorize_answer(request)
        if request.call in API_CALLS:
            return self._api.answer(request)
        return Response.error(404, "NotFound", "Nothing here")


def _call(method: str, path: str) -> Call:
    """What a request is for."""
    if path.startswith(FILES_PATH):
        return "file"
    if path == TRANSCODE_PATH or path.startswith(f"{TRANSCODE_PATH}/"):
        return "transcode"
    if path == ARCHIVED_PATH or path.startswith(f"{ARCHIVED_PATH}/"):
        return "archived"
    if method == "GET" and path == LINKS_PATH:
        return "links"
    if method == "GET" and path == LIST_PATH:
        return "list"
    if path == TOKEN_PATH:
        return "token"
    return "authorize" if path == AUTHORIZE_PATH else "other"
