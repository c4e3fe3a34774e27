"""The file host: links that cannot be guessed and do not last, files by range.

That a link holds a large random number and is valid for a time is the vendor's; ranges and
validators are RFC 9110. A link is signed, not stored, so that a hundred thousand cost nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping

from g2a_archive.demo.behaviour import Behaviour
from g2a_archive.demo.faults import Fault
from g2a_archive.demo.messages import FileRange, Request, Response
from g2a_archive.demo.recordings import KINDS, MEDIA_TYPES, SUFFIXES, Kind, SimulatedRecording

FILES_PATH = "/files/"
_PATH = re.compile(r"/files/(?:(?P<key>[0-9a-f]+)/)?(?P<id>[0-9]{1,20})(?P<suffix>\.[a-z0-9]+)")
_KINDS: Mapping[str, Kind] = {SUFFIXES[kind]: kind for kind in KINDS}
LIFETIME = 48 * 3600.0
"""Seconds for which a link is good (vendor's reference)."""

KEY_DIGITS = 40
"""Of the random number: 160 bits in hexadecimal; the link call's serial number follows."""

GONE_PAGE = b"<!DOCTYPE html>\n<html><body><h1>This link is no longer valid</h1></body></html>\n"


class FileHost:
    """Hands out links, and the files behind them."""

    def __init__(self, behaviour: Behaviour, base_url: Callable[[], str]) -> None:
        """Take the address to make links for; it is known only when the service listens."""
        self._behaviour = behaviour
        self._base_url = base_url
        self._secret = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._issued: list[float] = []
        self._expired_before = 0
        self._expired: dict[int, int] = {}

    def next_serial(self) -> int:
        """Return a number for the links that are made now."""
        with self._lock:
            self._issued.append(self._behaviour.clock())
            return len(self._issued) - 1

    def link(self, recording_id: int, kind: Kind, serial: int) -> str:
        """Return the link to a file: it differs with each serial number."""
        key = f"{self._signature(recording_id, kind, serial)}{serial:08x}"
        name = f"{recording_id}{SUFFIXES[kind]}"
        if self._behaviour.link_key_in == "path":
            return f"{self._base_url()}{FILES_PATH}{key}/{name}"
        return f"{self._base_url()}{FILES_PATH}{name}?key={key}"

    def expire(self, recording_ids: Iterable[int] | None = None) -> None:
        """End all links handed out so far, or those of some recordings."""
        with self._lock:
            if recording_ids is None:
                self._expired_before = len(self._issued)
            else:
                self._expired.update(dict.fromkeys(recording_ids, len(self._issued)))

    def _signature(self, recording_id: int, kind: Kind, serial: int) -> str:
        text = f"{recording_id}/{kind}/{serial}".encode()
        return hashlib.blake2b(text, key=self._secret, digest_size=KEY_DIGITS // 2).hexdigest()

    @staticmethod
    def identify(path: str) -> tuple[int | None, Kind | None]:
        """Return which file of which recording a path is for."""
        match = _PATH.fullmatch(path)
        if match is None:
            return None, None
        return int(match["id"]), _KINDS.get(match["suffix"])

    def _is_valid(self, request: Request, recording_id: int, kind: Kind) -> bool:
        match = _PATH.fullmatch(request.path)
        key = (match and match["key"]) or request.parameter("key") or ""
        if not re.fullmatch(f"[0-9a-f]{{{KEY_DIGITS + 8}}}", key):
            return False
        serial = int(key[KEY_DIGITS:], 16)
        if not hmac.compare_digest(key[:KEY_DIGITS], self._signature(recording_id, kind, serial)):
            return False
        with self._lock:
            if serial < max(self._expired_before, self._expired.get(recording_id, 0)):
                return False
            age = self._behaviour.clock() - self._issued[serial]
        return age < LIFETIME

    def answer(
        self, request: Request, recordings: Mapping[int, SimulatedRecording], fault: Fault
    ) -> Response:
        """Answer a request for a file."""
        if request.method not in ("GET", "HEAD"):
            return Response(405, {"Allow": "GET, HEAD"})
        recording = recordings.get(request.recording_id or 0)
        kind = request.kind
        if recording is None or kind is None or not self._is_valid(request, recording.id, kind):
            headers = {"Content-Type": "text/html; charset=utf-8"}
            return Response(self._behaviour.gone_status, headers, GONE_PAGE)
        content = recording.content(kind, fault.version, fault.size)
        headers = {
            "Content-Type": MEDIA_TYPES[kind],
            "ETag": recording.etag(kind, fault.version, fault.size),
            "Last-Modified": recording.last_modified(fault.version),
            "Accept-Ranges": "bytes",
        }
        whole = Response(200, headers, FileRange(content, 0, content.size))
        wanted = request.headers.get("range")
        if wanted is None or request.method == "HEAD" or fault.ignore_range:
            return whole
        if request.headers.get("if-range") not in (None, headers["ETag"], headers["Last-Modified"]):
            return whole
        return _part(whole, content.size, wanted, fault)


def _part(whole: Response, size: int, wanted: str, fault: Fault) -> Response:
    """Return the part of a file that a Range header asks for, or the whole where it is no range."""
    assert isinstance(whole.body, FileRange)
    match = re.fullmatch(r"bytes=\s*(\d*)-(\d*)", wanted.strip())
    if match is None or not (match[1] or match[2]):
        return whole
    if match[1]:
        start = int(match[1])
        stop = min(size, int(match[2]) + 1) if match[2] else size
        if match[2] and int(match[2]) < start:
            return whole
    else:
        start, stop = max(0, size - int(match[2])), size
    if start >= size or fault.always_416:
        return Response(416, {"Content-Range": f"bytes */{size}"})
    start = min(max(0, start + fault.range_start_shift), stop)
    shown = f"bytes {start}-{stop - 1}/{size + fault.range_total_shift}"
    headers = {**whole.headers, "Content-Range": shown}
    return Response(206, headers, FileRange(whole.body.content, start, stop))
