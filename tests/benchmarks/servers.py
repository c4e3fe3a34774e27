"""Starts and stops the servers that the benchmark downloads from."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .corpus import Corpus

_PATIENCE = 10.0

_NGINX_CONF = """
{user}
daemon off;
worker_processes 1;
pid {prefix}/nginx.pid;
error_log {prefix}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    etag on;
    sendfile on;
    tcp_nopush on;
    tcp_nodelay on;
    keepalive_requests 1000000;
    keepalive_timeout 600s;
    default_type application/octet-stream;
    types {{ video/mp4 mp4; image/jpeg jpg; }}
    client_body_temp_path {prefix}/body;
    proxy_temp_path {prefix}/proxy;
    fastcgi_temp_path {prefix}/fastcgi;
    uwsgi_temp_path {prefix}/uwsgi;
    scgi_temp_path {prefix}/scgi;
    server {{
        listen 127.0.0.1:{port} {listen};
        {tls}
        location / {{ root {files}; autoindex on; }}
    }}
}}
"""


class ServerError(Exception):
    """A server is missing, or did not start."""


@dataclass(frozen=True)
class Site:
    """Running servers: where the links point, where link calls go, whom to trust."""

    files_url: str
    links_url: str
    certificate: Path | None = None
    link_latency: float = 0.0
    paced: bool = False

    def stats(self) -> dict[str, Any]:
        """What the link calls' server has seen since it was last asked."""
        with _opener().open(f"{self.links_url}/stats", timeout=_PATIENCE) as answer:
            return dict(json.load(answer))


@dataclass(frozen=True)
class Pace:
    """How far away the service is: seconds a link call, to the first byte, bytes per second."""

    link_latency: float = 0.0
    latency: float = 0.0
    rate: float = 0.0


@contextmanager
def site(work: Path, corpus: Corpus, *, pace: Pace, tls: bool = False) -> Iterator[Site]:
    """The servers for a corpus: nginx, or the paced server where there is a pace to keep."""
    with ExitStack() as stack:
        certificate = None
        base = ""
        paced = bool(pace.latency or pace.rate)
        if not paced:
            certificate = _certificate(work) if tls else None
            base = stack.enter_context(_nginx(work, corpus.files, certificate))
        links = stack.enter_context(_front(corpus, base, pace))
        yield Site(base or links, links, certificate, pace.link_latency, paced)


@contextmanager
def _front(corpus: Corpus, base: str, pace: Pace) -> Iterator[str]:
    command = [sys.executable, str(Path(__file__).with_name("front.py"))]
    command += ["--files", str(corpus.files), "--catalogue", str(corpus.catalogue)]
    command += ["--base", base, "--link-latency", str(pace.link_latency)]
    command += ["--latency", str(pace.latency), "--rate", str(pace.rate)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdin
    assert process.stdout
    try:
        line = process.stdout.readline().strip()
        if not line:
            raise ServerError("the benchmark's own server did not start")
        yield f"http://127.0.0.1:{int(line)}"
    finally:
        process.stdin.close()
        process.stdout.close()
        _stop(process)


@contextmanager
def _nginx(work: Path, files: Path, certificate: Path | None) -> Iterator[str]:
    program = find("nginx")
    if program is None:
        raise ServerError("nginx is missing (on Debian: apt install nginx-light)")
    prefix = work / "nginx"
    prefix.mkdir(exist_ok=True)
    (port,) = free_ports(1)
    config = prefix / "nginx.conf"
    config.write_text(_nginx_conf(prefix, files, port, certificate))
    log = prefix / "error.log"
    with running([program, "-e", str(log), "-p", str(prefix), "-c", str(config)], port, log):
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{port}"


def _nginx_conf(prefix: Path, files: Path, port: int, certificate: Path | None) -> str:
    user = ""
    if os.geteuid() == 0:  # else the worker would be a user who can't read the corpus
        user = f"user {pwd.getpwuid(0).pw_name};"
    tls = ""
    if certificate:
        key = certificate.with_suffix(".key")
        tls = f"ssl_certificate {certificate}; ssl_certificate_key {key};"
    return _NGINX_CONF.format(
        user=user,
        prefix=prefix,
        files=files,
        port=port,
        tls=tls,
        listen="ssl" if certificate else "",
    )


def _certificate(work: Path) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key beside it."""
    program = find("openssl")
    if program is None:
        raise ServerError("openssl is missing")
    certificate = work / "certificate.pem"
    if not certificate.exists():
        command = [program, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        command += ["-subj", "/CN=localhost", "-out", str(certificate)]
        command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        command += ["-keyout", str(certificate.with_suffix(".key"))]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        ssl.create_default_context(cafile=str(certificate))
    return certificate


def find(program: str) -> str | None:
    """Where a program is; servers are often beyond an ordinary user's search path."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
    return shutil.which(program, path=path)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on just now, no two of them alike."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(probe.getsockname()[1]) for probe in probes]


@contextmanager
def running(command: Sequence[str], port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server, from when it listens on `port`; what it prints is added to `log`.

    Raises `ServerError` where it does not start.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        if not _listens(process, port):
            said = log.read_text(errors="replace")[-500:].strip()
            raise ServerError(f"{Path(command[0]).name} did not start: {said}")
        yield process
    finally:
        _stop(process)


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until it does; False where it ended, or took too long."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True
        except OSError:
            time.sleep(0.02)
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))
