"""The benchmark's own server: link calls, and files at the pace of a distant host.

nginx serves what only a fast server can; it has no delay before the first byte, and its
`limit_rate` lets the whole first second of every answer through at once. This server keeps each
connection to a rate from its first byte on, with `sendfile`, so that it costs little CPU itself.
It runs as a process of its own and ends with its standard input.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import html
import json
import os
import random
import re
import socket
import sys
import time
from dataclasses import asdict, dataclass, field
from email.utils import formatdate
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

_TICK = 0.01
"""Seconds of a connection's rate that are sent at once."""

_BURST = 0.25
"""Seconds of its rate that a connection may catch up after its reader has been slow."""

_KINDS = {"recordingUrl": "mp4", "eventsUrl": "events", "thumbnailUrl": "jpg"}


@dataclass
class Stats:
    """What has been asked of the server since the last reset."""

    link_calls: int = 0
    file_requests: int = 0
    parallel: int = 0
    """The most answers with a file that were under way at the same time."""
    cpu: float = 0.0


@dataclass
class Options:
    """What the server serves, and how slowly."""

    files: Path
    catalogue: Path
    base: str
    link_latency: float
    latency: float
    rate: float


@dataclass
class Request:
    """The head of one request."""

    method: str
    target: str
    headers: dict[str, str] = field(default_factory=dict)


class Front:
    """Answers the requests of any number of connections in one thread."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.entries = json.loads(options.catalogue.read_text())
        self.stats = Stats()
        self.active = 0
        self.cpu_before = time.process_time()

    async def connection(self, sock: socket.socket) -> None:
        """Answer one connection's requests until it ends."""
        loop = asyncio.get_running_loop()
        pending = b""
        with sock, contextlib.suppress(ConnectionError, TimeoutError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while True:
                while b"\r\n\r\n" not in pending:
                    data = await loop.sock_recv(sock, 1 << 16)
                    if not data:
                        return
                    pending += data
                head, _, pending = pending.partition(b"\r\n\r\n")
                request = _parse(head.decode("latin-1"))
                await self.answer(sock, request, loop.time())
                if request.headers.get("connection", "").lower() == "close":
                    return

    async def answer(self, sock: socket.socket, request: Request, arrival: float) -> None:
        """Answer one request that came at `arrival`."""
        path = urlsplit(request.target).path
        if path == "/stats":
            await _send(sock, request, 200, self.report().encode(), "application/json")
        elif path.endswith("/archive/recordings/urls"):
            self.stats.link_calls += 1
            await _until(arrival + self.options.link_latency)
            await _send(sock, request, 200, self.links(request.target), "application/json")
        elif path == "/":
            await _until(arrival + self.options.link_latency)
            await _send(sock, request, 200, self.listing(), "text/html")
        else:
            self.stats.file_requests += 1
            self.active += 1
            self.stats.parallel = max(self.stats.parallel, self.active)
            try:
                await self.file(sock, request, arrival + self.options.latency)
            finally:
                self.active -= 1

    def report(self) -> str:
        """The statistics as JSON; they begin anew."""
        now = time.process_time()
        self.stats.cpu = now - self.cpu_before
        text = json.dumps(asdict(self.stats))
        self.stats, self.cpu_before = Stats(), now
        return text

    def links(self, target: str) -> bytes:
        """The service's answer to a link call, whatever the attribute is called."""
        answer = []
        for _, recording in parse_qsl(urlsplit(target).query):
            entry = self.entries.get(recording)
            if entry is None:
                continue
            item = {
                "recordingId": int(recording),
                "recordingStartTime": entry["start"],
                "recordingSize": str(entry["mp4"]),
            }
            for name, extension in _KINDS.items():
                if extension in entry:
                    secret = random.getrandbits(128)
                    item[name] = f"{self.options.base}/{recording}.{extension}?{secret}"
            answer.append(item)
        return json.dumps(answer).encode()

    def listing(self) -> bytes:
        """The files as an HTML page, for downloaders that begin with one."""
        names = sorted(entry.name for entry in os.scandir(self.options.files))
        rows = "".join(f'<a href="{html.escape(n)}">{html.escape(n)}</a>\n' for n in names)
        return f"<html><body><pre>{rows}</pre></body></html>".encode()

    async def file(self, sock: socket.socket, request: Request, start: float) -> None:
        """Send a file, or the part that was asked for, from the time `start` on."""
        name = os.path.basename(unquote(urlsplit(request.target).path))
        try:
            fd = os.open(self.options.files / name, os.O_RDONLY)
        except OSError:
            await _until(start)
            await _send(sock, request, 404, b"not found\n", "text/plain")
            return
        try:
            head, first, length = _file_head(fd, request)
            await _until(start)
            await asyncio.get_running_loop().sock_sendall(sock, head)
            if request.method != "HEAD":
                await self.paced(sock, fd, first, length, start)
        finally:
            os.close(fd)

    async def paced(
        self, sock: socket.socket, fd: int, first: int, length: int, start: float
    ) -> None:
        """Send `length` bytes of `fd` from `first` on, at the rate of a connection."""
        loop = asyncio.get_running_loop()
        rate, sent = self.options.rate, 0
        while sent < length:
            count = length - sent
            if rate:
                count = min(count, max(1, int(rate * _TICK)))
                await _until(start + (sent + count) / rate)
                behind = loop.time() - (start + sent / rate)
                start += max(0.0, behind - _BURST)
            await _sendfile(sock, fd, first + sent, count)
            sent += count


def _parse(head: str) -> Request:
    first, *lines = head.split("\r\n")
    method, target, _ = first.split(" ", 2)
    pairs = (line.partition(":") for line in lines)
    return Request(method, target, {name.lower(): value.strip() for name, _, value in pairs})


async def _until(when: float) -> None:
    """Wait until the loop's time `when`, give or take the half millisecond that timers allow."""
    delay = when - asyncio.get_running_loop().time() - 0.0005
    if delay > 0:
        await asyncio.sleep(delay)


async def _send(sock: socket.socket, request: Request, status: int, body: bytes, kind: str) -> None:
    head = (
        f"HTTP/1.1 {status} {'OK' if status == 200 else 'Not Found'}\r\n"
        f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    payload = head if request.method == "HEAD" else head + body
    await asyncio.get_running_loop().sock_sendall(sock, payload)


def _file_head(fd: int, request: Request) -> tuple[bytes, int, int]:
    """The head of the answer, and the part of the file that its body holds: first, length."""
    status = os.fstat(fd)
    size = status.st_size
    etag = f'"{int(status.st_mtime):x}-{size:x}"'
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    first, last, line = 0, size - 1, "200 OK"
    if asked and any(asked.groups()) and request.headers.get("if-range", etag) == etag:
        if asked[1]:
            first, last = int(asked[1]), min(size - 1, int(asked[2] or size - 1))
        else:
            first = max(0, size - int(asked[2]))
        line = "206 Partial Content"
        if first > last:
            head = f"HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */{size}\r\n"
            return f"{head}Content-Length: 0\r\n\r\n".encode(), 0, 0
    head = (
        f"HTTP/1.1 {line}\r\nContent-Type: application/octet-stream\r\n"
        f"Content-Length: {last - first + 1}\r\nAccept-Ranges: bytes\r\nETag: {etag}\r\n"
        f"Last-Modified: {formatdate(status.st_mtime, usegmt=True)}\r\n"
    )
    if line.startswith("206"):
        head += f"Content-Range: bytes {first}-{last}/{size}\r\n"
    return f"{head}\r\n".encode(), first, last - first + 1


async def _sendfile(sock: socket.socket, fd: int, offset: int, count: int) -> None:
    end = offset + count
    while offset < end:
        try:
            sent = os.sendfile(sock.fileno(), fd, offset, end - offset)
        except BlockingIOError:
            await _writable(sock)
            continue
        if not sent:
            raise ConnectionError("the file has become shorter")
        offset += sent


async def _writable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_writer(sock, wake)
    try:
        await ready
    finally:
        loop.remove_writer(sock)


async def _serve(listener: socket.socket, options: Options) -> None:
    loop = asyncio.get_running_loop()
    front = Front(options)
    tasks: set[asyncio.Task[None]] = set()
    stop = asyncio.Event()
    loop.add_reader(sys.stdin, stop.set)

    async def accept() -> None:
        while True:
            sock, _ = await loop.sock_accept(listener)
            sock.setblocking(False)
            task = loop.create_task(front.connection(sock))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    accepting = loop.create_task(accept())
    await stop.wait()
    for task in (accepting, *tasks):
        task.cancel()


def main() -> None:
    """Serve on a free port of loopback, which is printed, until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=Path, required=True)
    parser.add_argument("--catalogue", type=Path, required=True)
    parser.add_argument("--base", default="", help="where the links point; default: here")
    parser.add_argument("--link-latency", type=float, default=0.0)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--rate", type=float, default=0.0)
    options = Options(**vars(parser.parse_args()))
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        listener.setblocking(False)
        port = listener.getsockname()[1]
        options.base = options.base or f"http://127.0.0.1:{port}"
        print(port, flush=True)
        asyncio.run(_serve(listener, options))


if __name__ == "__main__":
    main()
