"""Files of a simulated service that a host of their own answers for, as oddly as wanted."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from g2a_archive.demo import Fault, SimulatedService, expected_bytes
from g2a_archive.demo.messages import Response
from g2a_archive.demo.recordings import Kind

from . import relative_path
from .host import Host, Script

ID = 1_400_000_001
START = datetime(2014, 5, 6, 7, 8, 9, tzinfo=UTC)

Answers = Callable[[bytes, bytes], bytes]
"""From a request's head, and the file's bytes, to what the host sends."""

Odd = Callable[[Kind, Answers], None]
"""Has a file of the recording answered so."""


def bytes_of(service: SimulatedService, kind: Kind, id_: int = ID) -> bytes:
    return b"".join(expected_bytes(service.recordings[id_], kind) or ())


def act(service: SimulatedService, host: Host, odd: dict[int, tuple[Kind, Answers]]) -> None:
    """Have one file of each of these recordings answered by a host that acts oddly."""

    def script(sock: socket.socket) -> None:
        asked = re.match(rb"GET /a/(\d+)", host.head)
        assert asked
        kind, answers = odd[int(asked[1])]
        data = answers(host.head, bytes_of(service, kind, int(asked[1])))
        sock.sendall(data)
        told = re.search(rb"Content-Length: (\d+)\r\n", data[:2000])
        if told is None or int(told[1]) != len(data.partition(b"\r\n\r\n")[2]):
            raise OSError  # the end of the connection is the end of the body

    host.script = script
    base = host.url.replace("https", "http")
    entries = [
        {
            "recordingId": id_,
            "recordingStartTime": START.isoformat(),
            "recordingSize": str(service.recordings[id_].mp4_size),
            **{field: service.link(id_, one) for one, field in FIELDS.items()},
            FIELDS[kind]: f"{base}/{id_}?secret",
        }
        for id_, (kind, _) in odd.items()
    ]
    service.fail(Fault(response=Response.json(entries)), call="links")


class _Sent:
    """Keeps what is sent to it."""

    def __init__(self) -> None:
        self.data = b""

    def sendall(self, data: bytes) -> None:
        self.data += data


def sent_by(script: Script) -> bytes:
    """What a host's script sends to the request that it is to answer."""
    sent = _Sent()
    script(cast(socket.socket, sent))
    return sent.data


def answer_for(service: SimulatedService, host: Host) -> None:
    """Have all files answered by a host, at `/ID/KIND`."""
    base = host.url.removesuffix("/a")
    entries = [
        {
            "recordingId": id_,
            "recordingStartTime": one.start.isoformat(),
            "recordingSize": str(one.mp4_size),
            **{field: f"{base}/{id_}/{kind}?secret" for kind, field in FIELDS.items()},
        }
        for id_, one in service.recordings.items()
    ]
    # All of them each time: what was not asked for is passed over.
    service.fail(Fault(response=Response.json(entries)), call="links")


FIELDS: dict[Kind, str] = {
    "mp4": "recordingUrl",
    "events": "eventsUrl",
    "thumbnail": "thumbnailUrl",
}


def whole(root: Path, service: SimulatedService, kind: Kind, id_: int = ID) -> bool:
    found = root / name_of(service, kind, id_)
    return found.is_file() and found.read_bytes() == bytes_of(service, kind, id_)


def name_of(service: SimulatedService, kind: Kind, id_: int = ID) -> str:
    return relative_path(service.recordings[id_], kind)
