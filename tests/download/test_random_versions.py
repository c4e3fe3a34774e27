"""Files that change at the host, once, at any moment, and are cut anywhere: one or the other.

`G2A_LONG_TESTS=1` fetches ten thousand files instead of some. The seed is in each test's name.
"""

from __future__ import annotations

import random
import re
import socket
from collections import Counter
from pathlib import Path

import pytest
from support import LONG, archive_files, relative_path, run_here
from support.host import Host, answer, asked_from, cut_off, part_of
from support.odd import bytes_of
from support.service import Serve

from g2a_archive.demo import Fault, SimulatedService, sample_recordings
from g2a_archive.demo.messages import Response
from g2a_archive.models import FileKind

COUNT = 2_500 if LONG else 25
NIGHTS = 6


class Changing:
    """Answers for the MP4s; each has a second version, which differs at both ends or all over."""

    def __init__(self, service: SimulatedService, seed: int) -> None:
        self._chance = random.Random(seed)
        self.changed: set[int] = set()
        self._cuts: Counter[int] = Counter()
        self.versions: dict[int, list[bytes]] = {}
        for id_ in service.recordings:
            first = bytes_of(service, "mp4", id_)
            second = bytearray(first)
            if self._chance.random() < 0.5:
                for place in (1000, len(second) - 1):  # a mixture of both has one of them
                    second[place] ^= 1
            else:
                second[1000:] = self._chance.randbytes(len(second) - 1000)
            self.versions[id_] = [first, bytes(second)]

    def __call__(self, head: bytes) -> bytes:
        match = re.match(rb"GET /(\d+)\?", head)
        assert match, head
        id_ = int(match[1])
        if self._chance.random() < 0.3:
            self.changed.add(id_)
        version = int(id_ in self.changed)
        tag = f'ETag: "{version}"'
        if id_ % 3 == 0:
            tag = f"Last-Modified: Tue, 0{6 + version} May 2014 07:08:09 GMT"
        elif id_ % 3 == 1:
            tag = f'ETag: W/"{version}"'
        data = self._answer(head, self.versions[id_][version], tag)
        if self._cuts[id_] < 5 and self._chance.random() < 0.6:
            self._cuts[id_] += 1
            return data[: self._chance.randrange(len(data))]
        return data

    def _answer(self, head: bytes, body: bytes, tag: str) -> bytes:
        begin = asked_from(head)
        condition = re.search(rb"(?i)\r\nif-range: ([^\r]*)", head)
        same = condition is None or condition[1].decode() == tag.partition(": ")[2]
        if begin is None or not (same or self._chance.random() < 0.5):  # or it ignores If-Range
            return answer(body, tag)
        if begin >= len(body):
            span = f"Content-Range: bytes */{len(body)}"
            return answer(b"", span, status="416 Range Not Satisfiable")
        return part_of(body, begin, tag)


@pytest.mark.usefixtures("no_backoff")
@pytest.mark.parametrize("seed", range(4))
def test_a_file_that_changes_once_is_one_or_the_other(
    seed: int, serve: Serve, plain_host: Host, root: Path
) -> None:
    service = serve(sample_recordings(COUNT, seed=seed, mp4_size=150_000), rate_limit=None)
    answers = Changing(service, seed)

    def script(sock: socket.socket) -> None:
        data = answers(plain_host.head)
        sock.sendall(data)
        told = re.search(rb"Content-Length: (\d+)\r\n", data[:2000])
        if told is None or int(told[1]) != len(data.partition(b"\r\n\r\n")[2]):
            cut_off(sock)
            raise OSError

    plain_host.script = script
    entries = [
        {
            "recordingId": id_,
            "recordingStartTime": one.start.isoformat(),
            "recordingSize": str(len(answers.versions[id_][0])),
            "recordingUrl": f"{plain_host.url.removesuffix('/a')}/{id_}?secret",
        }
        for id_, one in service.recordings.items()
    ]
    service.fail(Fault(response=Response.json(entries)), call="links")
    for _ in range(NIGHTS):
        report = run_here(service, root, service.recordings, kinds=(FileKind.MP4,), retries=1)
        found = archive_files(root)
        for id_, one in service.recordings.items():
            if (path := found.get(relative_path(one, "mp4"))) is not None:
                assert path.read_bytes() in answers.versions[id_], id_
        if report.exit_code == 0:
            break
    assert report.exit_code == 0, [*report.failed][:5]
    assert answers.changed
