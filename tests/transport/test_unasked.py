"""Kept connections on which something comes that nobody asked for."""

from __future__ import annotations

import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from http.client import HTTPResponse

import pytest
from support.bodies import body_of, downloads_of
from support.host import Authority, Host, answer, has_arrived

from g2a_archive.transport import connections
from g2a_archive.transport.downloads import Downloads
from g2a_archive.transport.errors import NetworkError

UNASKED = {
    "an answer": answer(b"WRONG FILE"),
    "408": b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    "400": b"HTTP/1.0 400 Bad request\r\n\r\n<html>",
    "a byte": b"\n",
}


@pytest.mark.parametrize("unasked", UNASKED.values(), ids=UNASKED)
@pytest.mark.parametrize("ends", [False, True], ids=["stays", "closes"])
def test_what_nobody_asked_for_ends_a_kept_connection(
    unasked: bytes, ends: bool, host: Host, downloads: Downloads
) -> None:
    """Or it would be the next file, and each later one that of the one before."""
    sent = threading.Event()

    def script(sock: socket.socket) -> None:
        number = len(host.requests)
        sock.sendall(answer(b"file %d" % number))
        if number == 1:
            release.wait(30)
            sock.sendall(unasked)
            has_arrived(sock)
            if ends:
                sock.shutdown(socket.SHUT_RDWR)
            sent.set()

    release = threading.Event()
    host.script = script
    assert body_of(downloads, host.url) == b"file 1"
    release.set()
    assert sent.wait(30)
    assert [body_of(downloads, host.url) for _ in range(2)] == [b"file 2", b"file 3"]
    # A host that does so is not to be trusted with a second one; but some say so that it is late.
    assert host.accepted == (2 if unasked is UNASKED["408"] else 3)


@pytest.mark.parametrize("status", ["400 Bad Request", "404 Not Found", "408 Request Timeout"])
def test_what_ends_an_idle_connection_is_no_answer_to_what_is_just_asked(
    status: str, host: Host, downloads: Downloads
) -> None:
    """Only a new connection tells whether it was one."""
    good = [b"file 1", b"file 2"]

    def script(sock: socket.socket) -> None:
        if host.accepted == 1 and len(host.requests) == 2:
            sock.sendall(answer(b"", "Connection: close", status=status))
            sock.shutdown(socket.SHUT_RDWR)
        else:
            sock.sendall(answer(good[host.accepted - 1]))

    host.script = script
    assert [body_of(downloads, host.url) for _ in good] == good
    assert (host.accepted, len(host.requests)) == (2, 3)
    host.script = lambda sock: sock.sendall(answer(b"", "Connection: close", status=status))
    found = downloads.get(host.url, {})
    assert f"{found.status}" == status[:3]
    found.close()


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "later"])
def test_an_answer_that_another_one_follows_is_doubtful(
    at_once: bool, host: Host, downloads: Downloads
) -> None:
    """On a connection that was kept: one that nobody asked for cannot be told from the first."""
    release, sent = threading.Event(), threading.Event()

    def script(sock: socket.socket) -> None:
        number = len(host.requests)
        if number != 2:
            sock.sendall(answer(b"file %d" % number))
            return
        if at_once:
            sock.sendall(answer(b"WRONG FILE") + answer(b"file 2"))
        else:
            sock.sendall(answer(b"WRONG FILE"))
            release.wait(30)
            sock.sendall(answer(b"file 2"))
            has_arrived(sock)
        sent.set()

    host.script = script
    bodies, answers = [], []
    for number in (1, 2, 3):
        found = downloads.get(host.url, {})
        bodies.append(b"".join(iter(partial(found.read, 1000), b"")))
        found.close()
        answers.append(found)
        if number == 2:
            assert found.is_suspect is at_once
            release.set()
            assert sent.wait(30)
    assert bodies == [b"file 1", b"WRONG FILE", b"file 3"]
    assert [found.is_suspect for found in answers] == [False, True, False]
    assert host.accepted == 2


@pytest.mark.parametrize("size", [10, 9_000, 15_000])
def test_what_came_in_the_same_breath_is_not_the_next_file(
    size: int, host: Host, downloads: Downloads
) -> None:
    """TLS decrypts it with the file's end: then nothing is left to be read on the socket."""
    bodies = [b"%d" % number * size for number in range(3)]

    def script(sock: socket.socket) -> None:
        number = len(host.requests) - 1
        sock.sendall(answer(bodies[number]) + (answer(b"WRONG FILE") if number == 0 else b""))

    host.script = script
    assert [body_of(downloads, host.url) for _ in bodies] == bodies


def test_what_comes_behind_the_last_answer_casts_doubt_on_its_host(
    host: Host, downloads: Downloads
) -> None:
    """Each answer before may have been another's, since one came that nobody had asked for."""
    release, sent = threading.Event(), threading.Event()

    def script(sock: socket.socket) -> None:
        number = len(host.requests)
        sock.sendall(answer(b"WRONG FILE" if number == 2 else b"file %d" % number))
        if number == 2:
            release.wait(30)
            sock.sendall(answer(b"file 2"))
            has_arrived(sock)
            sent.set()

    host.script = script
    assert [body_of(downloads, host.url) for _ in range(2)] == [b"file 1", b"WRONG FILE"]
    assert downloads.network.pop_suspects() == set()
    release.set()
    assert sent.wait(30)
    assert downloads.network.pop_suspects() == {("localhost", host.port)}
    assert downloads.network.pop_suspects() == set()
    assert body_of(downloads, host.url) == b"file 3"


BEGINNINGS = {
    b"HTTP/1.1 206 Part": True,
    b"HTTP/1.1 2": True,
    b"H": True,
    b"HTTP/1.0 500": True,
    b"HTTP/1.1 400": False,
    b"HTTP/1.1 408": False,
    b"\r\n": False,
}


@pytest.mark.parametrize(("begins", "doubted"), BEGINNINGS.items(), ids=repr)
def test_an_answer_too_many_of_which_only_a_beginning_came(
    begins: bytes, doubted: bool, host: Host, downloads: Downloads
) -> None:
    """Be it what was read ahead together with the answer before."""

    def script(sock: socket.socket) -> None:
        sock.sendall(answer(b"file") + (begins if len(host.requests) == 2 else b""))

    host.script = script
    assert [body_of(downloads, host.url) for _ in range(2)] == [b"file", b"file"]
    assert downloads.network.pop_suspects() == ({("localhost", host.port)} if doubted else set())


def test_what_waits_is_seen_where_connections_are_closed_to_make_room(host: Host) -> None:
    """For those to other hosts, of which only some are kept."""
    others = [Host() for _ in range(5)]
    downloads = downloads_of(2.0, jobs=64)
    sent = threading.Event()

    def script(sock: socket.socket) -> None:
        sock.sendall(answer(b"file"))
        if len(host.requests) == 2:
            release.wait(30)
            sock.sendall(answer(b"another file"))
            has_arrived(sock)
            sent.set()

    release = threading.Event()
    host.script = script
    try:
        assert [body_of(downloads, host.url) for _ in range(2)] == [b"file", b"file"]
        release.set()
        assert sent.wait(30)
        assert [body_of(downloads, other.url) for other in others] == [b""] * 5
        assert downloads.network.pop_suspects() == {("localhost", host.port)}
    finally:
        downloads.close()
        for other in others:
            other.close()


def test_an_old_connection_that_is_made_again_in_vain_casts_none(
    authority: Authority, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where TLS fails there is a socket that nobody can ask: a run in which all had come ended by
    an unexpected error."""
    context = authority.context()
    host = Host(context)
    host.script = lambda sock: sock.sendall(answer(b"file"))
    monkeypatch.setattr(connections, "_LONGEST_IDLE", 0.0)
    try:
        assert body_of(downloads, host.url) == b"file"
        context.sni_callback = lambda *_: ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        with pytest.raises(NetworkError, match="the TLS connection failed"):
            downloads.get(host.url, {})
        assert downloads.network.pop_suspects() == set()
    finally:
        downloads.close()
        host.close()


def test_an_answer_that_was_waited_for_as_the_run_was_stopped_casts_none(
    host: Host, downloads: Downloads
) -> None:
    """What came before was right: a night that ends by --max-duration owed all of it again."""
    came, looked = threading.Event(), threading.Event()

    def script(sock: socket.socket) -> None:
        sock.sendall(answer(b"file"))
        if len(host.requests) == 2:
            has_arrived(sock)
            came.set()

    def begin(self: HTTPResponse) -> None:
        if len(host.requests) == 2:
            assert came.wait(30)
            looked.wait(30)
        real(self)

    host.script = script
    real = HTTPResponse.begin
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HTTPResponse, "begin", begin)
        assert body_of(downloads, host.url) == b"file"
        with ThreadPoolExecutor(1) as pool:
            second = pool.submit(body_of, downloads, host.url)
            assert came.wait(30)
            downloads.network.abort()
            try:
                assert downloads.network.pop_suspects() == set()
            finally:
                looked.set()
            with suppress(NetworkError):
                second.result()
