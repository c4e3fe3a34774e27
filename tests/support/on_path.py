"""A `g2a-archive` for the PATH of scripts, without the half second that each real start takes."""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from support import forked
from support.fork_server import LONGEST

_SCRIPT = """\
#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as its:
    its.connect({address!r})
    asked = {{"args": sys.argv[1:], "env": dict(os.environ), "cwd": os.getcwd()}}
    socket.send_fds(its, [json.dumps(asked).encode()], [0, 1, 2])
    code = int(its.recv(20) or 1)
if code < 0:
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


@contextmanager
def program(directory: Path) -> Iterator[Path]:
    """A new `directory` with a `g2a-archive` in it, which is what `forked` starts.

    What it starts has a PID of its own; the script ends as that ends, by a signal too.
    """
    directory.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="g2a-") as short:  # as the names of sockets must be
        address = f"{short}/socket"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(address)
        listener.listen(64)
        script = directory / "g2a-archive"
        script.write_text(_SCRIPT.format(python=sys.executable, address=address))
        script.chmod(0o755)
        threads: list[threading.Thread] = []
        accepting = threading.Thread(target=_accept, args=(listener, threads))
        accepting.start()
        try:
            yield directory
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()
            listener.close()
            for thread in threads:
                thread.join()


def _accept(listener: socket.socket, threads: list[threading.Thread]) -> None:
    lock = threading.Lock()
    with suppress(OSError):
        while True:
            its, _ = listener.accept()
            threads.append(threading.Thread(target=_serve, args=(its, lock)))
            threads[-1].start()


def _serve(its: socket.socket, lock: threading.Lock) -> None:
    with its:
        data, fds, _, _ = socket.recv_fds(its, LONGEST, 3)
        asked = json.loads(data)
        into, out, err = fds
        with lock:  # the first to come starts the server that forks
            streams: dict[str, Any] = {"stdin": into, "stdout": out, "stderr": err}
            env = asked["env"]
            process = forked.start(asked["args"], env, env, cwd=asked["cwd"], **streams)
        for fd in fds:
            os.close(fd)
        with process:
            its.sendall(b"%d" % process.wait())
