"""What trickles, byte by byte, and is never all: the library's time-out counts anew with each."""

from __future__ import annotations

import gzip
import random
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.bodies import downloads_of
from support.host import Authority, Host, answer, chunks
from support.proxy import Proxy

from g2a_archive.transport import answer as answers
from g2a_archive.transport.downloads import Downloads
from g2a_archive.transport.errors import NetworkError

BODY = random.Random(6).randbytes(5_000)
CHUNKED = "Transfer-Encoding: chunked"
WHOLE = chunks(BODY).removesuffix(b"0\r\n\r\n")
"""All chunks but the last, empty one."""


class Trickle:
    """Sends `piece` again and again, to whoever takes it; `ran_out` once nobody stopped it."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.ran_out = False

    def __call__(self, sock: socket.socket, piece: bytes) -> None:
        for _ in range(50):
            if self.stop.wait(0.1):
                return
            sock.sendall(piece)
        self.ran_out = True
        raise OSError  # which ends the connection


@pytest.fixture(autouse=True)
def _no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "_GRACE", 0.0)


@pytest.fixture
def trickle() -> Iterator[Trickle]:
    made = Trickle()
    yield made
    made.stop.set()


def look_until_over(downloads: Downloads, act: Callable[[], Any]) -> BaseException | None:
    """What `act` raised, while what is late is looked after as a run does."""
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(act)
        while not ended.done():
            downloads.network.end_overdue()
        return ended.exception()


FRAMING = {
    "a chunk's size": (WHOLE, b"0"),
    "a chunk's extension": (WHOLE + b"1;", b"x"),
    "trailers": (WHOLE + b"0\r\n", b"X: y\r\n"),
}


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "closes"])
@pytest.mark.parametrize(("begun", "piece"), FRAMING.values(), ids=FRAMING)
def test_what_frames_a_body(
    begun: bytes, piece: bytes, kept: bool, host: Host, trickle: Trickle
) -> None:
    """It holds no worker, and ends no body: bytes may have been still to come."""
    downloads = downloads_of(0.5, jobs=1)
    lines = [CHUNKED] if kept else [CHUNKED, "Connection: close"]

    def script(sock: socket.socket) -> None:
        sock.sendall(answer(begun, *lines, length=False))
        trickle(sock, piece)

    host.script = script
    found = downloads.get(host.url, {})
    came = bytearray()

    def read() -> None:
        while data := found.read(100_000):
            came.extend(data)

    error = look_until_over(downloads, read)
    assert isinstance(error, NetworkError)
    assert error.timed_out
    assert came == BODY
    assert not trickle.ran_out
    found.close()


NOTHING = {
    "empty members": (b"", gzip.compress(b"") * 100),
    "zeros behind the last member": (gzip.compress(BODY), b"\0" * 2000),
    "a name in a member's head": (b"\x1f\x8b\x08\x08" + b"\0" * 6, b"a" * 2000),
    "empty blocks": (gzip.compress(BODY)[:10], b"\0\0\0\xff\xff" * 400),
}


@pytest.mark.parametrize(("begun", "piece"), NOTHING.values(), ids=NOTHING)
def test_a_compressed_body_that_comes_to_nothing(
    begun: bytes, piece: bytes, plain_host: Host, trickle: Trickle
) -> None:
    """However quickly it comes, it has no end."""
    downloads = downloads_of(0.5, jobs=1)

    def script(sock: socket.socket) -> None:
        sock.sendall(answer(begun, "Content-Encoding: gzip", length=False))
        trickle(sock, piece)

    plain_host.script = script
    found = downloads.get(plain_host.url, {})

    def read() -> None:
        while found.read(100_000):
            pass

    error = look_until_over(downloads, read)
    assert isinstance(error, NetworkError)
    assert error.timed_out
    assert not trickle.ran_out
    found.close()


@pytest.mark.parametrize("what", ["redirect", "refusal"])
def test_a_little_body_that_nobody_wants(
    what: str, host: Host, trickle: Trickle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read for its connection's sake, for a second; the time-out is longer than that."""
    monkeypatch.setattr(answers, "_PATIENCE", 0.3)
    downloads = downloads_of(3600.0, jobs=1)
    status = "302 Found" if what == "redirect" else "403 Forbidden"

    def script(sock: socket.socket) -> None:
        if b" /b " in host.head:
            sock.sendall(answer(BODY))
            return
        sock.sendall(answer(WHOLE, CHUNKED, "Location: /b", status=status, length=False))
        trickle(sock, b"0")

    host.script = script
    came: list[int] = []

    def get() -> None:
        found = downloads.get(host.url, {})
        came.append(found.status)
        found.close()

    assert look_until_over(downloads, get) is None
    assert came == [200 if what == "redirect" else 403]
    assert not trickle.ran_out


def test_a_little_body_of_which_nothing_comes(
    plain_host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not worth a time-out, either."""
    monkeypatch.setattr(answers, "_PATIENCE", 0.3)
    downloads = downloads_of(3600.0, jobs=1)
    given_up: list[bool] = []
    over = threading.Event()

    def script(sock: socket.socket) -> None:
        sock.settimeout(5.0)
        sock.sendall(answer(BODY, status="403 Forbidden")[: -len(BODY)])
        try:
            given_up.append(sock.recv(1) == b"")
        except TimeoutError:
            given_up.append(False)
        over.set()

    plain_host.script = script
    found = downloads.get(plain_host.url, {})
    assert look_until_over(downloads, lambda: found.close()) is None
    assert over.wait(30)
    assert given_up == [True]


def test_a_proxy_s_answer(
    plain_host: Host, trickle: Trickle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything can be asked of the host."""
    downloads = downloads_of(0.5, jobs=1)

    def script(sock: socket.socket) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\n")
        trickle(sock, b"X: y\r\n")

    plain_host.script = script
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{plain_host.port}")
    error = look_until_over(downloads, lambda: downloads.get("https://files.example/a", {}))
    assert isinstance(error, NetworkError)
    assert error.timed_out
    assert not trickle.ran_out


@pytest.mark.parametrize("how", ["plain", "tls", "tls in tls"])
def test_abort_ends_a_wait_on_a_connection_that_is_not_kept(
    how: str, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(None if how == "plain" else authority.context())
    proxy = Proxy(host, context=authority.context())
    if how == "tls in tls":
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)

    def script(sock: socket.socket) -> None:
        sock.sendall(answer(BODY, "Connection: close")[:-1])
        host.silence()

    host.script = script
    downloads = downloads_of(8.0, jobs=1)
    found = downloads.get(host.url, {})
    came = bytearray()
    all_here = threading.Event()

    def read() -> None:
        while data := found.read(100_000):
            came.extend(data)
            if len(came) == len(BODY) - 1:
                all_here.set()

    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(read)
        assert all_here.wait(30)
        while not ended.done():
            downloads.network.abort()
        error = ended.exception()
    assert not isinstance(error, NetworkError) or not error.timed_out
    found.close()
    host.close()
    proxy.close()


def test_what_a_server_error_says_is_soon_given_up(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again anyway: a worker need not wait the whole time-out for its words."""
    monkeypatch.setattr(answers, "_PATIENCE", 0.2)
    downloads, said, heard = downloads_of(60.0, jobs=1), list[bytes](), threading.Event()

    def script(sock: socket.socket) -> None:
        words = answer(BODY, status="503 Slow Down")
        sock.sendall(words.removesuffix(BODY))
        heard.wait(20)
        sock.sendall(BODY)

    host.script = script
    found = downloads.get(host.url, {})
    assert look_until_over(downloads, lambda: said.append(found.error_head(100))) is None
    heard.set()
    assert said == [b""]
    found.close()
    downloads.close()
