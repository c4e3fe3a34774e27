"""A host's answer to one request: status, headers, and a body that is read piece by piece.

The library reads; what is added are checks. Two lengths that differ, or a transfer coding that is
not plainly `chunked`, are no answer; a compressed body is whole only where its own end says so;
what the host tells of a digest must be true.
"""

from __future__ import annotations

import hashlib
import re
import ssl
import time
from contextlib import suppress
from typing import Any

from urllib3.response import BaseHTTPResponse
from urllib3.util.ssltransport import SSLTransport

from g2a_archive.transport.connections import HostPort, Network
from g2a_archive.transport.digests import parse_digests
from g2a_archive.transport.errors import NetworkError, translate_error
from g2a_archive.transport.inflate import WINDOWS, Inflate
from g2a_archive.transport.retry_after import retry_after

_COMPRESSED = frozenset(
    {
        *("gzip", "deflate", "br", "zstd", "compress", "dcb", "dcz"),
        *("exi", "pack200-gzip", "aes128gcm", "bzip2", "xz", "lzma", "lz4", "snappy", "sdch"),
    }
)
"""Content codings that change the bytes (IANA's list, and what else is in use), be it with `x-`
before them. Others, such as `utf-8`, `binary` or `aws-chunked`, are no codings of a body that a
client gets."""

_LENGTH = re.compile(r"0*[0-9]{1,18}")
"""More digits than that, zeros before them aside, are a length that no disk has."""

_CONTENT_RANGE = re.compile(r"bytes\s+(?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18}|\*)$", re.IGNORECASE)
_LITTLE = 65536
"""Bytes up to which a body is read that nobody wants, so that its connection can be used again."""

_PATIENCE = 1.0
"""Seconds for that."""

_MOST_BEFORE = 1 << 20
"""Bytes up to which a body is read that makes no sense, to see what follows it."""

_GRACE = 1.0
"""Seconds more for a read than for a byte of it: where nothing comes, the library says so first."""

SLOWEST = 1024
"""Bytes a second: a transfer slower than this for the whole time-out counts as stalled."""

_WINDOW_BYTES = 1 << 20
_QUICK = 0.25
"""Seconds for so many bytes: from a quicker host, as much is waited for over TLS as was asked for.
TLS comes in pieces of 16 kB, and for each of them the threads would take the interpreter from each
other: 16 files of 128 MiB came in 38 s, and come in 9."""


def is_host_failure(status: int) -> bool:
    """Whether an answer tells of its host rather than of a file: a server error, or too many."""
    return status >= 500 or status == 429


class Answer:
    """An answer whose body is unread. `length`: bytes of the body as it is sent, or None.

    `reused_hosts`: the hosts that it came from, be it by redirects, on connections in use before;
    `host` is the last of them.
    """

    host = ""

    def __init__(self, raw: BaseHTTPResponse) -> None:
        """Raises `NetworkError` where the headers contradict each other; `raw` is closed then."""
        self._raw = raw
        # Else the library lets others have the connection as soon as the body is read.
        loan: Any = raw
        self._pool, loan._pool = loan._pool, None
        self.status = raw.status
        try:
            self.chunked = _chunked(raw)
            self.length = None if self.chunked else _length(raw)
            self._part_left = self._part_length()
        except NetworkError:
            raw.close()
            raise
        if self.status in (204, 304):
            self.length = 0  # whatever is said of one
        if not self.chunked and self._part_left is not None:
            self.length = self._part_left
        self._left = self.length
        self.coding = _coding(raw.headers.get("Content-Encoding", ""))
        self.named_coding = bool(raw.headers.get("Content-Encoding", "").strip())
        self._inflate = Inflate(WINDOWS[self.coding]) if self.coding in WINDOWS else None
        self.digests = parse_digests(raw.headers, partial=self.status == 206)
        self._encoded_digests = {
            name: hashlib.new(name, usedforsecurity=False)
            for name in (self.digests if self.encoded else ())
        }
        self.ended = self.chunked and self.length == 0
        if self.ended:
            raw.close()  # what follows, if anything, is nobody's
        self._begun = False
        self._ahead = b""
        connection: Any = raw.connection
        self._network: Network = connection.network
        self._sock = connection.answering
        self._kept = connection if connection.answers > 1 else None
        self.reused_hosts: set[HostPort] = {connection.place} if self._kept is not None else set()
        self._asked_at = connection.asked_at
        self._tls = isinstance(self._sock, ssl.SSLSocket | SSLTransport)
        self._quick = False
        self._window = (0, 0.0)
        self._longest = self._network.timeout + _GRACE
        self._late = False
        self.low_speed = LowSpeedLimit(self._network.timeout)

    @property
    def encoded(self) -> bool:
        """Whether the body is compressed, although it was asked for as it is."""
        return self.coding is not None

    @property
    def decodable(self) -> bool:
        """Whether `read` can undo the body's encoding."""
        return self.coding is None or self._inflate is not None

    @property
    def is_delimited(self) -> bool:
        """Whether the body's end is marked, so that a cut shows."""
        return self.chunked or self.length is not None

    @property
    def is_complete(self) -> bool:
        """Whether a body, read to its end, is all of it: its length or its coding says so."""
        return self.is_delimited or (self._inflate is not None and self._inflate.ended)

    @property
    def trailing_digests(self) -> dict[str, bytes]:
        """What the host tells of the digests of a plain body behind it, once it was read."""
        raw: Any = self._raw
        trailers = {} if self.encoded else raw._original_response.trailers
        return parse_digests(trailers, partial=self.status == 206)

    @property
    def is_suspect(self) -> bool:
        """Whether the host sent more than it was asked for, and this on a connection that was kept:
        it may be another file's. For any thread, once the body was read; then more may come."""
        return self._kept is not None and self._kept.is_suspect(self._asked_at)

    def has_unsolicited(self) -> bool:
        """Whether another answer comes behind this one, which makes no sense: that would be the
        right one. Waits for it, where the connection was in use before, and ends that."""
        if self._kept is None or self._raw.connection is None:  # which others may have by now
            return False
        until, left = time.monotonic() + _PATIENCE, _MOST_BEFORE
        with suppress(NetworkError):
            while left > 0 and time.monotonic() < until and (data := self._read(_LITTLE)):
                left -= len(data)
        return self.ended and self._kept.has_unsolicited()

    @property
    def whole_length(self) -> int | None:
        """The file's length as an answer with a plain body tells it, where it is all of it."""
        if self.encoded:
            return None
        return self.length if self.status == 200 else self.content_range()[2]

    def header(self, name: str) -> str | None:
        """A header's value, or None; doubled ones are joined by commas."""
        value = self._raw.headers.get(name)
        return None if value is None else str(value)

    @property
    def wait(self) -> float | None:
        """Seconds that the host asks to be left alone, if it does."""
        return retry_after(self._raw.headers)

    def content_range(self) -> tuple[int | None, int | None, int | None]:
        """`Content-Range` as (first, last, total), each None where it is not told."""
        match = _CONTENT_RANGE.match((self.header("Content-Range") or "").strip())
        if not match:
            return None, None, None
        first, last, total = match.groups()
        return (
            int(first) if first else None,
            int(last) if last else None,
            int(total) if total != "*" else None,
        )

    def _part_length(self) -> int | None:
        """Bytes of the part that a 206 says it is; None where it says none that can be."""
        first, last, _ = self.content_range() if self.status == 206 else (None, None, None)
        if first is None or last is None or first > last:
            return None
        if self.length not in (None, last - first + 1):
            raise NetworkError("the host announces two lengths that differ", bad_range=True)
        return last - first + 1

    def peek(self, count: int) -> bytes:
        """Up to `count` bytes of a body that nobody began to read; `read` gives them once more.

        Raises `NetworkError`, as `read` does.
        """
        data = b""
        while len(data) < count and (more := self.read(count - len(data))):
            data += more
        self._ahead = data
        return data

    def error_head(self, most: int) -> bytes:
        """Up to `most` bytes of what an error says, as far as they come; its connection is kept as
        that of a body which nobody began to read.

        The words of a server error are waited for no longer than such a body: it is tried again.
        """
        seconds = _PATIENCE if self.status >= 500 else self._network.timeout
        until, data = time.monotonic() + seconds, b""
        with suppress(NetworkError):
            # A piece of them, be it a chunk, may be no more than the XML declaration.
            while len(data) < most and (left := until - time.monotonic()) > 0:
                self._longest = min(self._longest, left)
                if not (more := self.read(most - len(data))):
                    break
                data += more
        self._begun = False
        return data

    def read(self, most: int) -> bytes:
        """Wait for bytes and return up to `most` of them, decoded; b"" at the body's end.

        Raises `NetworkError` where it ends before its length, its coding or a digest says so, and
        where it trickles.
        """
        if self._ahead:
            data, self._ahead = self._ahead[:most], self._ahead[most:]
            return data
        self._begun = True
        if self._inflate is None:
            return self._read(most)
        while not (data := self._inflate.more(most)):
            piece = self._read(_LITTLE)
            if not piece:
                self._check_encoded()
                return b""
            for digest in self._encoded_digests.values():
                digest.update(piece)
            self._inflate.feed(piece)
        self.low_speed.add(len(data))  # not before: what comes may be nothing, without end
        return data

    def _read(self, most: int) -> bytes:
        if self.ended:
            return b""
        self.low_speed.check()
        if self._left is not None:
            # Of an empty body, too: the library is done with an answer only once it says its end.
            most = min(most, self._left) or 1
        # Else one read of the socket's bytes at most: what came before a stall is not lost.
        read = self._raw.read if self._quick else self._raw.read1
        failure: NetworkError | None = None
        self._network.begin(self._sock, self._longest)
        try:
            data = read(most, decode_content=False)
        except Exception as error:  # hostile chunks and headers raise all sorts
            data, failure = b"", translate_error(error)
        in_time = self._network.end(self._sock) or self._network.aborted
        self._late = self._late or not in_time
        if not data and self._late:  # which is no end of the body, whatever it looks like
            raise NetworkError("the answer came too slowly", timed_out=True)
        if failure is not None:
            raise failure
        if self._inflate is None:
            self.low_speed.add(len(data))
        if self.chunked and self._part_left is not None:
            self._part_left -= len(data)
            if self._part_left < 0 or (self._part_left and not data):
                raise NetworkError("more or less came than the host announces", bad_range=True)
        if not data:
            if self._left:
                raise NetworkError("the connection was closed early")
            self.ended = True
        elif self._left is not None:
            if len(data) > self._left:
                raise NetworkError("more came than the host announces")
            self._left -= len(data)
            self.ended = not self._left
            if self._tls:
                self._measure(len(data))
        return data

    def _measure(self, count: int) -> None:
        """See now and then whether the host is a quick one, as far as one can."""
        came, since = self._window
        if (came := came + count) < _WINDOW_BYTES:
            self._window = came, since
            return
        now = time.monotonic()
        self._quick = now - since < _QUICK
        self._window = 0, now

    def _check_encoded(self) -> None:
        assert self._inflate is not None
        if not self._inflate.whole:
            raise NetworkError("the compressed body ended early")
        for name, digest in self._encoded_digests.items():
            if digest.digest() != self.digests[name]:
                raise NetworkError("what came does not match the digest that the host tells")

    def close(self) -> None:
        """Be done with the answer; its connection is kept where its body ended, or is a little one
        that nobody began to read: who gave up in the middle may have done so as nothing came."""
        self._longest = min(self._longest, _PATIENCE)
        with suppress(Exception):
            left = self._left if self._left is not None else _LITTLE
            if self.is_delimited and not self._begun and left <= _LITTLE:
                until = time.monotonic() + _PATIENCE
                while left >= 0 and time.monotonic() < until:
                    left -= len(self._read(_LITTLE)) or left + 1
        with suppress(Exception):
            if not self.ended:
                self._raw.close()
            loan: Any = self._raw
            loan._pool = self._pool
            loan.release_conn()


class LowSpeedLimit:
    """Fails a transfer below the low speed limit: too few bytes in a whole time-out."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._began = self._since = time.monotonic()
        self._bytes = self._all = 0

    def excuse(self, seconds: float) -> None:
        """Time that `--limit-rate` took is not the host's fault."""
        self._since += seconds
        self._began += seconds

    @property
    def slow(self) -> bool:
        """Whether the transfer as a whole, a stall at its end included, was below the limit."""
        return self._all < SLOWEST * (time.monotonic() - self._began)

    def add(self, count: int) -> None:
        """Count bytes that came."""
        self._bytes += count
        self._all += count

    def check(self) -> None:
        """Raises `NetworkError` at the end of a time-out in which too few bytes came."""
        now = time.monotonic()
        if now - self._since < self._timeout:
            return
        if self._bytes < SLOWEST * self._timeout:
            raise NetworkError(f"less than 1 kB/s for {self._timeout:g} s", timed_out=True)
        self._since, self._bytes = now, 0


def _chunked(raw: BaseHTTPResponse) -> bool:
    values = raw.headers.getlist("Transfer-Encoding")
    if not values:
        return False
    if len(values) > 1 or values[0].lower() != "chunked":
        raise NetworkError("the host's answer has a transfer coding that is not plainly chunked")
    return True


def _length(raw: BaseHTTPResponse) -> int | None:
    """The announced length (RFC 9110, 8.6): equal doubles are one, others are no length."""
    values = {
        one.strip() for line in raw.headers.getlist("Content-Length") for one in line.split(",")
    }
    if not values:
        return None
    value, *others = values
    if others or not _LENGTH.fullmatch(value):
        raise NetworkError("the host announces a length that cannot be")
    return int(value)


def _coding(header: str) -> str | None:
    """The content coding that changes the bytes; several are one that nobody can undo."""
    names = (
        one.partition(";")[0].strip(' \t"').removeprefix("x-") for one in header.lower().split(",")
    )
    return ",".join(name for name in names if name in _COMPRESSED) or None
