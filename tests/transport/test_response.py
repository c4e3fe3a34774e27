"""Reading the file host's answers: what is read here must be what the standard library reads."""

from __future__ import annotations

import gzip
import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from g2a_archive.transport import response
from g2a_archive.transport.response import HEAD, Answer, NetworkError, receive
from g2a_archive.transport.wire import Wire

BUFFER = memoryview(bytearray(HEAD))


@contextmanager
def wire_with(data: bytes, *, split: int | None = None, end: bool = True) -> Iterator[Wire]:
    """A wire on which `data` comes, in two pieces if `split`; then its end, or nothing more."""
    ours, theirs = socket.socketpair()
    wire = Wire(ours, 0.2)

    def send() -> None:
        with suppress(OSError):
            theirs.sendall(data[:split])
            if split is not None:
                theirs.sendall(data[split:])
            if end:
                theirs.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield wire
    finally:
        wire.close()
        theirs.close()
        sender.join()


def body_of(answer: Answer) -> bytes:
    view = memoryview(bytearray(5000))
    body = b""
    while count := answer.read_into(view):
        body += view[:count]
    return body


def everything(data: bytes, split: int | None = None) -> object:
    """All that can be known of an answer, or how it failed."""
    with wire_with(data, split=split) as wire:
        try:
            answer = receive(wire, wire.first(BUFFER))
        except (OSError, http.client.HTTPException, ValueError) as error:
            return response.explain(error)
        told = (answer.status, dict(answer._headers), answer.length, answer.chunked)
        try:
            body = body_of(answer)
        except NetworkError as error:
            return told, str(error)
        finally:
            answer.close()
        return told, body, answer.drained


def by_the_library(data: bytes) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(response, "_plain", lambda _: None)
        return everything(data)


LINES = [
    b"Content-Length: 10",
    b"Content-Length: 10",
    b"Content-Length: 010",
    b"Content-Length: 3, 3",
    b"Content-Length: -1",
    b"Content-Length: 99999999999999999999",
    b"Content-Length:\t10 \t",
    b"content-length:5",
    b"CONTENT-LENGTH : 5",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: identity",
    b"Connection: close",
    b"Connection: keep-alive",
    b'ETag: "a"',
    b'ETag: "b"',
    b"Etag:",
    b"Content-Type: text/html; charset=\xff\xe4",
    b"X: one",
    b" two: folded",
    b"\tfolded",
    b"no colon here",
    b": no name",
    b"a b: c",
    b"X-Y: \x00\x0b\x1c\x85",
    b"X: bare\nContent-Length: 7",
    b"X: bare\rContent-Length: 7",
    b"",
]
STATUS = [
    b"HTTP/1.1 200 OK",
    b"HTTP/1.1 200 OK",
    b"HTTP/1.1 206 Partial Content",
    b"HTTP/1.1 404",
    b"HTTP/1.1 503 ",
    b"HTTP/1.1 204 No Content",
    b"HTTP/1.1 304 Not Modified",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK",
    b"HTTP/1.0 200 OK",
    b"HTTP/1.1 99 Low",
    b"HTTP/1.1 2000 High",
    b"HTTP/2 200 OK",
    b"ICY 200 OK",
]
BODIES = [b"0123456789", b"0123456789 and more", b"01234", b"", b"5\r\n01234\r\n0\r\n\r\n"]


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(STATUS),
    st.lists(st.sampled_from(LINES), max_size=5),
    st.sampled_from(BODIES),
)
def test_as_the_library_reads_it(status: bytes, lines: list[bytes], body: bytes) -> None:
    data = b"\r\n".join([status, *lines, b"", body])
    assert everything(data) == by_the_library(data)


def test_a_plain_answer_does_not_need_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(response, "_from_library")
    data = b'HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 3\r\nETag: "e"\r\n\r\nabc'
    with wire_with(data, end=False) as wire:
        answer = receive(wire, wire.first(BUFFER))
        assert (answer.status, answer.header("etag"), answer.length) == (200, '"e"', 3)
        assert (body_of(answer), answer.drained, answer.last) == (b"abc", True, False)


@pytest.mark.parametrize("split", [1, 20, 37, 38, 39, 40, 41, 45])
def test_headers_in_two_pieces(split: int) -> None:
    data = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789"
    assert everything(data, split) == everything(data)


def test_more_than_was_announced_ends_the_connection() -> None:
    data = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabHTTP/1.1 200 OK\r\n\r\n"
    with wire_with(data, end=False) as wire:
        answer = receive(wire, wire.first(BUFFER))
        assert body_of(answer) == b"ab"
        assert answer.last


def test_what_came_before_a_stall_is_not_lost() -> None:
    with wire_with(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", end=False) as wire:
        answer = receive(wire, wire.first(BUFFER))
        view = memoryview(bytearray(100))
        assert bytes(view[: answer.read_into(view)]) == b"abc"
        assert answer.read_now(view) is None
        with pytest.raises(NetworkError, match="time-out"):
            answer.read_into(view)


def test_headers_without_an_end() -> None:
    endless = b"HTTP/1.1 200 OK\r\n" + b"X: " + b"a" * (2 << 20)
    with wire_with(endless, end=False) as wire, pytest.raises(http.client.HTTPException):
        receive(wire, wire.first(BUFFER))


def test_a_header_of_spaces() -> None:
    spaces = b"HTTP/1.1 200 OK\r\nX:" + b" " * 100_000 + b"\r\nContent-Length: 1\r\n\r\nx"
    assert everything(spaces) == ((200, {"x": "", "content-length": "1"}, 1, False), b"x", True)


def test_what_came_before_a_stall_is_not_lost_by_the_library_either() -> None:
    with wire_with(b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\nabc", end=False) as wire:
        answer = receive(wire, wire.first(BUFFER))
        view = memoryview(bytearray(100_000))
        assert bytes(view[: answer.read_into(view)]) == b"abc"
        with pytest.raises(NetworkError, match="time-out"):
            answer.read_into(view)
        answer.close()


def test_headers_that_trickle_run_out_of_time() -> None:
    done = threading.Event()
    ours, theirs = socket.socketpair()

    def trickle() -> None:
        with suppress(OSError):
            theirs.sendall(b"HTTP/1.1 200 OK\r\n")
            while not done.wait(0.02):
                theirs.sendall(b"X: y\r\n")

    sender = threading.Thread(target=trickle)
    sender.start()
    wire = Wire(ours, 0.2)
    with pytest.raises((TimeoutError, http.client.HTTPException)) as caught:
        receive(wire, wire.first(BUFFER))
    done.set()
    sender.join()
    wire.close()
    theirs.close()
    assert isinstance(caught.value, TimeoutError)


def test_hints_are_not_taken_for_the_answer() -> None:
    data = b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"
    assert everything(data) == "the host's answer is not HTTP"


@pytest.mark.parametrize(
    "header",
    [
        b"Content-Type: multipart/x; boundary*=a; boundary*0=b",
        b"Content-Type: multipart/x; boundary*x=a; boundary*y*=b",
        b"Content-Type: multipart/\xff; boundary*0*=\xff''%ff",
    ],
)
def test_headers_over_which_the_library_stumbles(header: bytes) -> None:
    data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + header + b"\r\n\r\n0\r\n\r\n"
    assert everything(data)  # one way or the other, and no other exception


def test_what_follows_a_compressed_body_is_left_out() -> None:
    junk = gzip.compress(b"content") + b"junk" * 100_000
    lengths = b"Content-Length: %d\r\n" % (len(junk) + 1)  # there is no end to it
    data = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n" + lengths + b"\r\n" + junk
    with wire_with(data, end=False) as wire:
        assert body_of(receive(wire, wire.first(BUFFER))) == b"content"
