"""Whole bodies, as one GET after another gets them."""

from __future__ import annotations

from functools import partial

from g2a_archive.transport.downloads import Downloads


def body_of(downloads: Downloads, url: str, step: int = 100_000) -> bytes:
    """The body that a GET of `url` gets, read in pieces of `step` bytes at most."""
    found = downloads.get(url, {})
    try:
        return b"".join(iter(partial(found.read, step), b""))
    finally:
        downloads.release(found)
