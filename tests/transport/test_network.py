"""What is known of hosts and of the requests to them."""

from __future__ import annotations

import socket
from types import SimpleNamespace

from g2a_archive.transport.adapter import Network


def test_a_host_that_hangs_up_at_once_leaves_no_socket_open() -> None:
    """Its address cannot be asked for any more; whoever connected has the socket to close."""
    hung_up = socket.socket()  # as unconnected as one that was reset
    place = SimpleNamespace(host="localhost", port=9)
    assert Network().connect(place, lambda: hung_up) is hung_up
    hung_up.close()
