"""A host that answers in any legal style, and cuts anywhere, never makes a wrong byte.

`G2A_LONG_TESTS=1` fetches ten thousand files instead of some. The seed is in each test's name.
"""

from __future__ import annotations

import gzip
import hashlib
import random
import re
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from support import LONG, assert_nothing_false, run_here
from support.host import Authority, Host, answer, chunks, cut_off, reset
from support.odd import answer_for
from support.service import Serve

from g2a_archive.demo import SimulatedService, sample_recordings
from g2a_archive.demo.recordings import expected_bytes

COUNT = 1700 if LONG else 15


class Styles:
    """Says how each request is answered; a file is cut three times at most."""

    def __init__(self, service: SimulatedService, seed: int) -> None:
        self._service = service
        self._chance = random.Random(seed)
        self._cuts: Counter[str] = Counter()

    def __call__(self, head: bytes) -> tuple[bytes, bool]:
        """What to send to this request, and whether the connection ends afterwards."""
        match = re.match(rb"GET /(\d+)/(\w+)\?", head)
        assert match, head
        id_, kind = int(match[1]), match[2].decode()
        recording = self._service.recordings[id_]
        body = b"".join(expected_bytes(recording, kind))  # type: ignore[arg-type]
        data, ends = self._whole(head, body, f"{id_}-{kind}")
        name = f"{id_}/{kind}"
        if self._cuts[name] < 3 and self._chance.random() < 0.3:
            self._cuts[name] += 1
            return data[: self._chance.randrange(len(data))], True
        return data, ends

    def _whole(self, head: bytes, body: bytes, name: str) -> tuple[bytes, bool]:
        digest = hashlib.sha256(name.encode()).hexdigest()[:12]
        extra = [f'ETag: "{digest}"'] if self._chance.random() < 0.7 else []
        asked = re.search(rb"(?i)\r\nrange: bytes=(\d+)-(\d*)", head)
        if asked and self._chance.random() < 0.8:
            begin = int(asked[1])
            if begin >= len(body):
                span = f"Content-Range: bytes */{len(body)}"
                return answer(b"", span, status="416 Range Not Satisfiable"), False
            last = int(asked[2]) if asked[2] else len(body) - 1
            if not asked[2] and self._chance.random() < 0.3:
                last = self._chance.randrange(begin, len(body))
            span = f"Content-Range: bytes {begin}-{last}/{len(body)}"
            return answer(body[begin : last + 1], span, *extra, status="206 Partial Content"), False
        styles: list[Callable[[], tuple[bytes, bool]]] = [
            lambda: (answer(body, *extra), False),
            lambda: (answer(body, "Connection: close", *extra), True),
            lambda: (answer(body, f"content-length:  {len(body)} ", *extra), False),
            lambda: (
                answer(
                    chunks(body, self._chance.randint(1, 9000)),
                    "Transfer-Encoding: chunked",
                    *extra,
                    length=False,
                ),
                False,
            ),
            lambda: (answer(gzip.compress(body, 1), "Content-Encoding: gzip"), False),
            lambda: (
                answer(
                    gzip.compress(body[:50], 1) + gzip.compress(body[50:], 1),
                    "Content-Encoding: x-gzip",
                ),
                False,
            ),
            lambda: (answer(body, "Content-Encoding: binary", *extra), False),
            lambda: (answer(body) + b"HTTP/1.1 200 OK\r\n\r\nunasked", True),
            lambda: (answer(body) + answer(b"unasked"), False),
            lambda: (answer(b"busy", status="503 Service Unavailable"), False),
        ]
        return self._chance.choice(styles)()


@pytest.mark.usefixtures("no_backoff")
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_any_legal_style(
    secure: bool, seed: int, serve: Serve, root: Path, authority: Authority
) -> None:
    service = serve(sample_recordings(COUNT, seed=seed), rate_limit=None)
    styles = Styles(service, seed)
    host = Host(authority.context() if secure else None)

    def script(sock: socket.socket) -> None:
        data, ends = styles(host.head)
        sock.sendall(data)
        if ends:
            end = random.Random(len(data)).choice([cut_off, reset])
            if not isinstance(sock, ssl.SSLSocket) or end is reset:
                end(sock)
            raise OSError

    host.script = script
    answer_for(service, host)
    try:
        for _ in range(8):
            report = run_here(service, root, service.recordings, retries=8, timeout=20.0)
            assert_nothing_false(service, root)
            if report.exit_code == 0:
                break
        assert report.exit_code == 0, [*report.failed][:5]
    finally:
        host.close()
