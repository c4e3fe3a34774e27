"""The library alone: as many threads as downloads, urllib3's pool, SHA-256, a file each.

What it leaves out: asking for links, resuming, checking, flushing, recording, a report. It shows
what this HTTP takes in the plain way; ours reads into one buffer and has one core for small files.

    python -m tests.benchmarks.bare LIST DIRECTORY THREADS   LIST: a link and a name a line
"""

from __future__ import annotations

import hashlib
import os
import queue
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import urllib3

_BUFFER = 256 * 1024


def _work(
    pool: urllib3.PoolManager, files: queue.SimpleQueue[tuple[str, str]], out: Path, done: list[str]
) -> None:
    while True:
        try:
            link, name = files.get_nowait()
        except queue.Empty:
            return
        digest = hashlib.sha256()
        answer = pool.request("GET", link, preload_content=False, redirect=False, retries=False)
        with open(out / f"{name}.part", "wb", buffering=0) as file:
            while data := answer.read(_BUFFER):
                digest.update(data)
                file.write(data)
        answer.release_conn()
        os.rename(out / f"{name}.part", out / name)
        done.append(name)


def main(listed: str, directory: str, threads: str) -> int:
    """Fetch what is listed; 1 where any of it did not come."""
    lines = [line.split() for line in Path(listed).read_text().splitlines()]
    files: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
    for link, name in lines:
        files.put((link, name))
    hosts = {urlsplit(link).netloc for link, _ in lines}
    pool = urllib3.PoolManager(
        num_pools=len(hosts), maxsize=int(threads), ca_certs=os.environ.get("SSL_CERT_FILE")
    )
    done: list[str] = []
    workers = [
        threading.Thread(target=_work, args=(pool, files, Path(directory), done))
        for _ in range(int(threads))
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return int(len(done) < len(lines))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
