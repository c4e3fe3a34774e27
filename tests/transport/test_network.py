"""What is known of hosts and of the requests to them."""

from __future__ import annotations

import socket
from types import SimpleNamespace

from support.bodies import downloads_of
from support.host import Host, answer

from g2a_archive.transport.connections import Network
from g2a_archive.transport.downloads import Downloads


def test_a_host_that_hangs_up_at_once_leaves_no_socket_open() -> None:
    """Its address cannot be asked for any more; whoever connected has the socket to close."""
    hung_up = socket.socket()  # as unconnected as one that was reset
    place = SimpleNamespace(host="localhost", port=9)
    assert Network(5.0).connect(place, lambda: hung_up) is hung_up
    hung_up.close()


def test_of_many_hosts_the_connections_to_a_few_are_kept(downloads: Downloads) -> None:
    """Else a run with links to many of them would be out of open files."""
    hosts = [Host() for _ in range(12)]
    for host in hosts:
        found = downloads.get(host.url, {})
        assert found.read(1) == b""
        found.close()
    left = hosts[0].left()
    for host in hosts:
        host.close()
    assert left


def test_kept_connections_are_closed_while_an_answer_is_still_known(host: Host) -> None:
    host.script = lambda sock: sock.sendall(answer(b"body"))
    downloads = downloads_of(20.0, jobs=2)
    found = downloads.get(host.url, {})
    assert (found.read(10), found.read(10)) == (b"body", b"")
    found.close()
    downloads.close()
    assert host.left()
