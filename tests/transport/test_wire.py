"""Connections to a file host, plain and over TLS: the same answers, time-outs and ends."""

from __future__ import annotations

import random
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme

from g2a_archive.archive.partial import NO_VALIDATOR, Partial
from g2a_archive.archive.space import Space
from g2a_archive.download.receive import Floor, Receiver
from g2a_archive.download.results import Transfer
from g2a_archive.download.turns import Turn, Turns
from g2a_archive.models import FileKind, Link
from g2a_archive.transport import connection
from g2a_archive.transport.connection import Connections
from g2a_archive.transport.response import Answer, Counted, NetworkError
from g2a_archive.transport.wire import Wire

BODY = random.Random(4).randbytes(3_000_000)
Script = Callable[[socket.socket], None]


class Host:
    """A server that reads one request after another and acts out a script for each."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._done = threading.Event()
        self._threads: list[threading.Thread] = []
        self.script: Script = whole
        self.accepted = 0
        self._spawn(self._accept)
        scheme = "http" if context is None else "https"
        self.url = urlsplit(f"{scheme}://localhost:{self._listener.getsockname()[1]}/a")

    def _spawn(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self.accepted += 1
                self._spawn(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        with suppress(OSError), sock:
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_side=True)
            with sock:
                while b"\r\n\r\n" in sock.recv(65536):
                    self.script(sock)

    def silence(self) -> None:
        """Wait until the test is over."""
        self._done.wait(30)

    def close(self) -> None:
        self._done.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()


def head(length: int) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode()


def whole(sock: socket.socket) -> None:
    sock.sendall(head(len(BODY)) + BODY)


@pytest.fixture(params=["plain", "tls"])
def host(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Host]:
    context = None
    if request.param == "tls":
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)
        authority.cert_pem.write_to_path(tmp_path / "authority.pem")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "authority.pem"))
        monkeypatch.setattr(connection, "_tls", None)
    server = Host(context)
    yield server
    server.close()


@pytest.fixture
def connections() -> Iterator[Connections]:
    made = Connections(0.5)
    yield made
    made.close()


def rest_of(answer: Answer, step: int = 100_000) -> bytes:
    view = memoryview(bytearray(step))
    body = b""
    while count := answer.read_into(view):
        body += view[:count]
    return body


def test_one_connection_serves_many(host: Host, connections: Connections) -> None:
    for step in (5, 100_000, 10_000_000):
        if step == 5:
            host.script = lambda sock: sock.sendall(head(12) + BODY[:12])
        else:
            host.script = whole
        answer = connections.get(host.url, {})
        body = rest_of(answer, step)
        assert body == (BODY[:12] if step == 5 else BODY)
        connections.release(answer)
    assert host.accepted == 1


def test_nothing_to_be_read_now(host: Host, connections: Connections) -> None:
    more = threading.Event()

    def script(sock: socket.socket) -> None:
        sock.sendall(head(6) + b"abc")
        more.wait(30)
        sock.sendall(b"def")

    host.script = script
    view = memoryview(bytearray(100))
    answer = connections.get(host.url, {})
    assert bytes(view[: answer.read_into(view)]) == b"abc"
    assert answer.read_now(view) is None
    more.set()
    assert bytes(view[: answer.read_into(view)]) == b"def"
    assert answer.exhausted
    connections.release(answer)


def test_a_host_that_falls_silent(host: Host, connections: Connections) -> None:
    def script(sock: socket.socket) -> None:
        sock.sendall(head(10) + b"01234")
        host.silence()

    host.script = script
    answer = connections.get(host.url, {})
    with pytest.raises(NetworkError, match="nothing came within the time-out"):
        rest_of(answer)
    connections.release(answer)


def test_a_host_that_does_not_answer(host: Host, connections: Connections) -> None:
    host.script = lambda _: host.silence()
    with pytest.raises(NetworkError, match="nothing came within the time-out"):
        connections.get(host.url, {})
    assert host.accepted == 1  # a time-out is not tried again on a new connection


def test_an_early_end(host: Host, connections: Connections) -> None:
    def script(sock: socket.socket) -> None:
        sock.sendall(head(10) + b"01234")
        sock.shutdown(socket.SHUT_RDWR)

    host.script = script
    answer = connections.get(host.url, {})
    with pytest.raises(NetworkError, match=r"closed early|reset"):
        rest_of(answer)
    connections.release(answer)


def test_a_kept_connection_that_the_host_closed(host: Host, connections: Connections) -> None:
    def once(sock: socket.socket) -> None:
        sock.sendall(head(2) + b"ok")
        sock.shutdown(socket.SHUT_RDWR)

    host.script = once
    for _ in range(3):
        answer = connections.get(host.url, {})
        assert rest_of(answer) == b"ok"
        connections.release(answer)
    assert host.accepted == 3


@pytest.mark.parametrize("begun", [False, True])
def test_abort_ends_a_wait(host: Host, begun: bool) -> None:
    waiting = Connections(60.0)
    reached = threading.Event()

    def script(sock: socket.socket) -> None:
        if begun:
            sock.sendall(head(10) + b"01234")
        reached.set()
        host.silence()

    host.script = script

    def abort() -> None:
        reached.wait(30)
        waiting.abort()

    aborter = threading.Thread(target=abort)
    aborter.start()
    with pytest.raises(NetworkError):
        rest_of(waiting.get(host.url, {}))
    aborter.join()
    waiting.close()


@pytest.mark.parametrize("host", ["tls"], indirect=True)
def test_a_certificate_that_nobody_trusts(
    host: Host, connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(NetworkError, match="certificate cannot be trusted"):
        connections.get(host.url, {})


@pytest.mark.parametrize("length", [b"", b"Content-Length: 3000000\r\n"])
@pytest.mark.parametrize("garbage", [b"", b"\x17\x03\x03\x00\x20" + b"?" * 32, b"no TLS"])
def test_a_failure_is_no_end(
    host: Host, connections: Connections, length: bytes, garbage: bytes
) -> None:
    def script(sock: socket.socket) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n" + BODY[:200_000])
        if garbage and isinstance(sock, ssl.SSLSocket):
            socket.socket.send(sock, garbage)
            host.silence()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        socket.socket.close(sock)

    host.script = script
    with pytest.raises(NetworkError):
        rest_of(connections.get(host.url, {}))


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("https://[::1%\xe9]/SECRET", "its host name is no host name"),
        ("//[SECRET]/", "it is no address"),
        ("http://example.com/SECRET", "loopback hosts only"),
        ("ftp://localhost/SECRET", "no https"),
    ],
)
def test_a_redirect_that_leads_nowhere(
    host: Host, connections: Connections, location: str, reason: str
) -> None:
    answer = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
    host.script = lambda sock: sock.sendall(answer.encode("latin-1"))
    with pytest.raises(NetworkError, match=reason) as caught:
        connections.get(host.url, {})
    assert "SECRET" not in str(caught.value)


@pytest.fixture
def trickling() -> Iterator[Wire]:
    """A connection on which a TLS record comes byte by byte; its time-out is shorter than that."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    ours, theirs = socket.socketpair()
    came, going = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(came, going, server_side=True)
    done = threading.Event()

    def serve() -> None:
        with suppress(OSError):
            while True:
                try:
                    server.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    theirs.sendall(going.read())
                    came.write(theirs.recv(65536))
            server.write(b"x" * 16000)
            for byte in going.read():
                theirs.sendall(bytes([byte]))
                if done.wait(0.02):
                    return

    thread = threading.Thread(target=serve)
    thread.start()
    wire = Wire(trusting.wrap_socket(ours, server_hostname="localhost"), 0.3)
    yield wire
    done.set()
    thread.join()
    wire.close()
    theirs.close()


def test_a_tls_record_that_trickles_runs_out_of_time(trickling: Wire) -> None:
    with pytest.raises(TimeoutError):
        trickling.read(memoryview(bytearray(1000)))


def test_a_body_that_trickles_so_runs_out_of_time(
    trickling: Wire, connections: Connections, tmp_path: Path
) -> None:
    link = Link(urlsplit("https://localhost/a"), 0.0, 0.0)
    transfer = Transfer(1, FileKind.MP4, "2014/05/06", datetime.now(UTC), link)
    receiver = Receiver(connections, threading.Event(), Space(tmp_path, 0), 0.3, Turn(Turns()))
    part = Partial(tmp_path, "1.mp4")
    answer = Answer(200, {}, Counted(trickling, memoryview(b""), 16000, last=True), trickling)
    with pytest.raises(NetworkError, match="nothing came within the time-out"):
        receiver.receive(transfer, part, answer, Floor(60))


def test_a_host_that_trickles_while_turns_are_rare_is_given_up(
    connections: Connections, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has to wait for a turn finds some bytes each time."""
    monkeypatch.setattr("g2a_archive.download.turns._LONGEST_WAIT", 0.2)
    turns, done = Turns(), threading.Event()
    while turns.free:
        turns.take()
    ours, theirs = socket.socketpair()

    def trickle() -> None:
        while not done.wait(0.05):
            theirs.send(b"x")

    thread = threading.Thread(target=trickle)
    thread.start()
    link = Link(urlsplit("https://localhost/a"), 0.0, 0.0)
    transfer = Transfer(1, FileKind.EVENTS, "2014/05/06", datetime.now(UTC), link)
    receiver = Receiver(connections, threading.Event(), Space(tmp_path, 0), 1.0, Turn(turns))
    part = Partial(tmp_path, "1.events")
    part.begin(1_000_000, NO_VALIDATOR)
    wire = Wire(ours, 1.0)
    answer = Answer(200, {}, Counted(wire, memoryview(b""), 1_000_000, last=True), wire)
    with pytest.raises(NetworkError, match="less than 1 kB/s"):
        receiver.receive(transfer, part, answer, Floor(1.0))
    done.set()
    thread.join()
    part.close()
    wire.close()
    theirs.close()
