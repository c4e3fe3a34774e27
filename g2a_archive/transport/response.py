"""The file host's answer to one request: status, headers, and a body read into the caller's buffer.

An answer as nearly all are (a status line, plain headers, a `Content-Length`) is read here, since
the standard library takes longer for its headers than all else takes that is done for a small
file. Whatever is not as plain as that is left to the library, from its first byte.
"""

from __future__ import annotations

import http.client
import io
import os
import re
import socket
import ssl
import time
import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Protocol, cast

from g2a_archive.transport.wire import Wire

HEAD = 128 * 1024
"""Bytes of the first read: all of a small file comes with it."""

_MOSTLY = 4096
"""Bytes in which the headers end, if they are not very long."""

_CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18}|\*)$")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_STATUS = re.compile(r"HTTP/1\.1 ([2-5][0-9][0-9])(?: .*)?")
_LENGTH = re.compile(r"[0-9]{1,18}")


class NetworkError(Exception):
    """The connection failed, stalled or ended early; the text says how, and holds no address."""


class Body(Protocol):
    """A body that is being read; reads raise `OSError`, `http.client.HTTPException`."""

    length: int | None
    """Bytes that were announced, None where they weren't."""
    left: int | None
    """Of those, the bytes that are still to come."""
    last: bool
    """Whether the host closes the connection afterwards."""

    @property
    def ended(self) -> bool: ...

    def read(self, view: memoryview, *, wait: bool) -> int | None: ...

    def close(self) -> None: ...


class Counted:
    """A body of a known length: what came with the headers, then the socket."""

    def __init__(self, wire: Wire, came: memoryview, length: int, *, last: bool) -> None:
        self._wire = wire
        self._came = came[:length]
        self.length: int | None = length
        self.left: int | None = length
        # More than was announced is nothing that another answer could begin with.
        self.last = last or len(came) > length

    @property
    def here(self) -> int:
        """Bytes that came with the headers, and are still to be read."""
        return len(self._came)

    @property
    def ended(self) -> bool:
        """Whether all bytes were read."""
        return self.left == 0

    def read(self, view: memoryview, *, wait: bool) -> int | None:
        """Read into `view`; 0 where the stream ended too early, None where nothing is there."""
        assert self.left is not None
        if self._came:
            count: int | None = min(len(view), len(self._came))
            view[:count], self._came = self._came[:count], self._came[count:]
        else:
            count = self._wire.read(view[: self.left], wait=wait)
        self.left -= count or 0
        return count

    def take(self) -> memoryview | None:
        """The whole body, which is read then, if all of it came with the headers."""
        if self.left != len(self._came):
            return None
        body, self._came, self.left = self._came, self._came[:0], 0
        return body

    def close(self) -> None:
        """Nothing to let go of: the connection is not the body's."""


class Parsed:
    """A body as the standard library reads it: chunked, of no known length, or odd."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self._response = response
        self.length = None if response.chunked else response.length
        self.left = self.length
        self.last = bool(response.will_close)

    @property
    def ended(self) -> bool:
        """Whether all bytes were read."""
        return self._response.isclosed() if self.left is None else self.left == 0

    def read(self, view: memoryview, *, wait: bool) -> int | None:
        """Read into `view`; 0 at the end, None where that might have to wait and must not."""
        if not wait:
            return None
        if self.left is None:
            data = self._response.read1(len(view))
            view[: len(data)] = data
            return len(data)
        # `read1` gives what is there before it asks the socket; `readinto1` would do both, and
        # lose the first where the second fails.
        data = self._response.fp.read1(min(len(view), self.left))
        view[: len(data)] = data
        self.left -= len(data)
        return len(data)

    def close(self) -> None:
        """Let go of the response."""
        self._response.close()


class _Rest(io.RawIOBase):
    """What was read already, then the wire: a stream as the library wants it."""

    def __init__(self, wire: Wire, came: bytes) -> None:
        self._wire = wire
        self._came = memoryview(came)
        # Headers that trickle must not take for ever; of bodies the receiver takes care.
        self.deadline: float | None = time.monotonic() + wire.timeout

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        view = memoryview(buffer)
        if not self._came:
            if self.deadline is not None and time.monotonic() > self.deadline:
                raise TimeoutError
            return self._wire.read(view)
        count = min(len(view), len(self._came))
        view[:count], self._came = self._came[:count], self._came[count:]
        return count

    def makefile(self, _mode: str) -> io.BufferedReader:
        """What `HTTPResponse` asks a socket for."""
        return io.BufferedReader(self)


class Answer:
    """A status, headers, and a body that is read into a buffer of the caller's.

    `length` is the number of body bytes that the response announced, None where it didn't.
    """

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        body: Body,
        wire: Wire,
        *,
        chunked: bool = False,
    ) -> None:
        """`headers` by their lower-case names."""
        self.wire: Wire | None = wire  # until the answer is let go of
        self.status = status
        self._headers = headers
        self._body = body
        self.chunked = chunked
        self.length = body.length
        encoding = headers.get("content-encoding", "identity").strip().lower()
        self.encoded = encoding not in ("identity", "")
        """Whether the body is compressed, although we asked for it as it is."""
        self._inflate = None
        if encoding in ("gzip", "x-gzip", "deflate"):
            self._inflate = zlib.decompressobj(47 if encoding != "deflate" else 15)

    def header(self, name: str) -> str | None:
        """A header's value, or None; of doubled ones the first."""
        return self._headers.get(name.lower())

    @property
    def decodable(self) -> bool:
        """Whether `read_into` can undo the body's encoding."""
        return not self.encoded or self._inflate is not None

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

    def read_into(self, view: memoryview) -> int:
        """Read at least one byte into `view` and return how many; 0 at the body's end.

        Raises `NetworkError` where the body ends before the length that was announced.
        """
        count = self._translated(view, wait=True)
        assert count is not None
        return count

    def read_now(self, view: memoryview) -> int | None:
        """As `read_into`, but None where nothing is there to be read without waiting."""
        return self._translated(view, wait=False)

    @property
    def waits(self) -> bool:
        """Whether `wait` can tell that something is there, before `read_now` takes it."""
        return isinstance(self._body, Counted) and self._inflate is None

    def wait(self, seconds: float) -> bool:
        """Wait for something to read, after `read_now` found nothing; False if nothing came."""
        return self.wire is not None and self.wire.wait(seconds)

    def _translated(self, view: memoryview, *, wait: bool) -> int | None:
        try:
            if self._inflate is not None:
                return self._read_inflated(view, self._inflate) if wait else None
            return self._read(view, wait=wait)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise NetworkError(explain(error)) from None
        except zlib.error:
            raise NetworkError("the compressed body is damaged") from None

    def _read(self, view: memoryview, *, wait: bool) -> int | None:
        if self._body.left == 0:
            return 0
        count = self._body.read(view, wait=wait)
        if count == 0 and self._body.left is not None:
            raise NetworkError("the connection was closed early")
        return count

    def _read_inflated(self, view: memoryview, inflate: zlib._Decompress) -> int:
        while not inflate.eof:
            pending = inflate.unconsumed_tail
            if not pending:
                raw = memoryview(bytearray(16384))
                pending = bytes(raw[: self._read(raw, wait=True)])
                if not pending:
                    data = inflate.flush(len(view))
                    if not inflate.eof and not data:
                        raise NetworkError("the compressed body ended early")
                    view[: len(data)] = data
                    return len(data)
            data = inflate.decompress(pending, len(view))
            if data:
                view[: len(data)] = data
                return len(data)
        return 0  # whatever comes after the end of the compressed data is no part of it

    def take(self) -> memoryview | None:
        """The whole body, if it is here as it is, without a copy; then it is read."""
        return self._body.take() if self.waits else None  # type: ignore[attr-defined]

    @property
    def missing(self) -> int | None:
        """Bytes of a plain body that did not come with its headers; None where it is none."""
        body = self._body
        return (body.left or 0) - body.here if isinstance(body, Counted) else None

    @property
    def exhausted(self) -> bool:
        """Whether the next read is known to bring nothing."""
        return self._body.left == 0 and self._inflate is None

    @property
    def drained(self) -> bool:
        """Whether the whole body was read, so that the connection can serve another request."""
        return self._body.ended

    @property
    def last(self) -> bool:
        """Whether the host closes the connection after this answer."""
        return self._body.last

    def close(self) -> None:
        """Let go of the response."""
        self._body.close()


def receive(wire: Wire, came: bytes) -> Answer:
    """Read an answer up to its headers' end; `came` are its first bytes, which were read already.

    Raises `OSError` or `http.client.HTTPException` where none came.
    """
    answer = plain_answer(wire, came)
    return answer if answer is not None else _from_library(wire, came)


def plain_answer(wire: Wire, came: bytes | memoryview) -> Answer | None:
    """An answer whose headers have come, and have nothing unusual about them; else None.

    What `came` of the body is not copied: the memory must stay as it is until it is read.
    """
    text = bytes(came[:_MOSTLY])
    if b"\r\n\r\n" not in text:
        text = bytes(came)
    head, found, _ = text.partition(b"\r\n\r\n")
    plain = _plain(head) if found else None
    if plain is None:
        return None
    status, headers, length = plain
    last = "close" in headers.get("connection", "").lower()
    body = Counted(wire, memoryview(came)[len(head) + 4 :], length, last=last)
    return Answer(status, headers, body, wire)


def _plain(head: bytes) -> tuple[int, dict[str, str], int] | None:
    """Status, headers and length of an answer that has nothing unusual about it; else None."""
    first, *lines = head.decode("iso-8859-1").split("\r\n")
    status = _STATUS.fullmatch(first)
    if status is None or not head.count(b"\n") == head.count(b"\r") == len(lines):
        return None
    headers: dict[str, str] = {}
    for line in lines:
        field = _field(line)
        if field is None or (field[0] == "content-length" and "content-length" in headers):
            return None
        headers.setdefault(*field)
    length = headers.get("content-length", "")
    if "transfer-encoding" in headers or not _LENGTH.fullmatch(length):
        return None
    code = int(status[1])
    return None if code in (204, 304) else (code, headers, int(length))


@lru_cache(maxsize=128)
def _field(line: str) -> tuple[str, str] | None:
    """A header's name in lower case and its value; None where it is no header.

    Most lines are the same in each of a host's answers.
    """
    name, colon, value = line.partition(":")
    return (name.lower(), value.strip(" \t")) if colon and _NAME.fullmatch(name) else None


def _from_library(wire: Wire, came: bytes) -> Answer:
    stream = _Rest(wire, came)
    response = http.client.HTTPResponse(cast(socket.socket, stream), method="GET")
    try:
        response.begin()
        if response.status < 200:  # another answer would follow: not to the next request, please
            raise http.client.BadStatusLine("")
    except (OSError, http.client.HTTPException):
        response.close()
        raise
    except Exception:  # the library's header parser stumbles over some hostile headers
        response.close()
        raise http.client.HTTPException from None
    stream.deadline = None
    headers: dict[str, str] = {}
    for name, value in response.headers.items():
        headers.setdefault(name.lower(), value.strip(" \t"))
    chunked = bool(response.chunked)
    return Answer(response.status, headers, Parsed(response), wire, chunked=chunked)


def explain(error: Exception) -> str:
    """Say what went wrong on a connection, without an address or anything else the host sent."""
    if isinstance(error, NetworkError):
        return str(error)
    if isinstance(error, TimeoutError):
        return "nothing came within the time-out"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    early = http.client.RemoteDisconnected | http.client.IncompleteRead | ssl.SSLEOFError
    if isinstance(error, early):
        return "the connection was closed early"
    if isinstance(error, ConnectionResetError | BrokenPipeError | ConnectionAbortedError):
        return "connection reset"
    if isinstance(error, ssl.SSLCertVerificationError):
        return "the host's TLS certificate cannot be trusted"
    if isinstance(error, ssl.SSLError):
        return "the TLS connection failed"
    if isinstance(error, socket.gaierror):
        return "the host name cannot be resolved"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return "the host's answer is not HTTP"
