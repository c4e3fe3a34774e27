"""Hosts of several addresses, of which one is of no use."""

from __future__ import annotations

import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.bodies import body_of, downloads_of
from support.host import Authority, Host, answer, cut_off, reset

from g2a_archive.transport.downloads import Downloads
from g2a_archive.transport.errors import NetworkError
from g2a_archive.transport.sessions import Caller

BODY = b"a file"
ILL = "127.0.0.3"


def give(found: tuple[str, ...], port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the name localhost stand for these addresses."""

    def look_up(name: str, *_: object) -> list[tuple[Any, ...]]:
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, (one, port)) for one in (found if name == "localhost" else (name,))]

    monkeypatch.setattr("socket.getaddrinfo", look_up)


def test_the_address_that_answered_is_tried_first(
    plain_host: Host, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host of which one address is dead costs its time-out once, not for each connection."""
    tried: list[str] = []
    dead = {ILL}
    connect = socket.socket.connect

    def note(self: socket.socket, place: Any) -> None:
        tried.append(place[0])
        if place[0] in dead:
            raise ConnectionRefusedError
        connect(self, ("127.0.0.1", place[1]))

    give((ILL, "127.0.0.1"), plain_host.port, monkeypatch)
    monkeypatch.setattr(socket.socket, "connect", note)
    plain_host.script = lambda sock: sock.sendall(answer(BODY, "Connection: close"))
    for _ in range(2):
        assert body_of(downloads, plain_host.url) == BODY
    assert tried == [ILL, "127.0.0.1", "127.0.0.1"]
    dead, tried[:] = {"127.0.0.1"}, ()
    assert body_of(downloads, plain_host.url) == BODY  # that one went, and the other came back
    assert tried == ["127.0.0.1", ILL]


def by_download(timeout: float) -> Callable[[str], bytes]:
    downloads = downloads_of(timeout, jobs=1)
    return lambda url: body_of(downloads, url)


def by_call(timeout: float) -> Callable[[str], bytes]:
    caller = Caller(timeout)
    return lambda url: caller.call("GET", url, most=100).body or b""


@pytest.fixture
def two(host: Host, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """Another host at the same port of the address that the name's look-up tells first."""
    if sys.platform != "linux":
        pytest.skip("this machine has one loopback address")
    secure = host.url.startswith("https")
    ill = Host(authority.context() if secure else None, (ILL, host.port))
    give((ILL, "127.0.0.1"), host.port, monkeypatch)
    host.script = lambda sock: sock.sendall(answer(BODY, "Connection: close"))
    yield ill
    ill.close()


@pytest.mark.parametrize("asks", [by_download, by_call])
@pytest.mark.parametrize("how", ["silent", "closes", "resets"])
def test_an_address_that_has_no_answer_comes_last(
    asks: Callable[[float], Callable[[str], bytes]], how: str, host: Host, two: Host
) -> None:
    """It takes connections, as a line does that loses large packets, or one back end of many."""
    acts = {"silent": lambda _: two.silence(), "closes": cut_off, "resets": reset}
    two.script = acts[how]
    ask = asks(0.5 if how == "silent" else 30.0)
    with pytest.raises(NetworkError):
        ask(host.url)
    assert [ask(host.url) for _ in range(3)] == [BODY] * 3
    assert (two.accepted, host.accepted) == (1, 3)
    # Where the other one fails, too, they take turns.
    host.script = acts["closes"]
    two.script = lambda sock: sock.sendall(answer(BODY, "Connection: close"))
    with pytest.raises(NetworkError):
        ask(host.url)
    assert ask(host.url) == BODY
    assert (two.accepted, host.accepted) == (2, 4)


@pytest.mark.parametrize("asks", [by_download, by_call])
def test_an_address_where_another_host_is_by_now_comes_last(
    asks: Callable[[float], Callable[[str], bytes]],
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where a load balancer gave one back."""
    if sys.platform != "linux":
        pytest.skip("this machine has one loopback address")
    context = authority.context()
    host = Host(context)
    host.script = lambda sock: sock.sendall(answer(BODY, "Connection: close"))
    ask = asks(30.0)
    give(("127.0.0.1",), host.port, monkeypatch)
    assert ask(host.url) == BODY
    context.sni_callback = lambda *_: ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
    moved = Host(authority.context(), (ILL, host.port))
    moved.script = host.script
    give((ILL,), host.port, monkeypatch)
    with pytest.raises(NetworkError):
        ask(host.url)
    assert ask(host.url) == BODY
    host.close()
    moved.close()
