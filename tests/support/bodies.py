"""Downloads without a run, and whole bodies, as one GET after another gets them."""

from __future__ import annotations

from functools import partial

from g2a_archive.transport.downloads import Downloads
from g2a_archive.transport.hosts import CircuitBreaker


def downloads_of(timeout: float, *, jobs: int) -> Downloads:
    """What a run's workers have, where each request is to be made."""
    hosts = CircuitBreaker(timeout=0.0, retries=1_000_000, pause=lambda *_: 0.0)
    return Downloads(timeout, jobs=jobs, hosts=hosts)


def body_of(downloads: Downloads, url: str, step: int = 100_000) -> bytes:
    """The body that a GET of `url` gets, read in pieces of `step` bytes at most."""
    found = downloads.get(url, {})
    try:
        return b"".join(iter(partial(found.read, step), b""))
    finally:
        found.close()
