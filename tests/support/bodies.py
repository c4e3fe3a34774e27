"""Downloads without a run, and whole bodies, as one GET after another gets them."""

from __future__ import annotations

from functools import partial

from g2a_archive.transport.downloads import Downloads


class _AllUp:
    """Hosts of which none counts as down."""

    def refusal(self, host: str) -> None:
        """None is ever kept from being asked."""

    def answered(self, host: str) -> None:
        """Nobody wants to know."""

    def unanswered(self, host: str, reason: str) -> None:
        """Nor that."""


def downloads_of(timeout: float, *, jobs: int) -> Downloads:
    """What a run's workers have, where each request is to be made."""
    return Downloads(timeout, jobs=jobs, hosts=_AllUp())


def body_of(downloads: Downloads, url: str, step: int = 100_000) -> bytes:
    """The body that a GET of `url` gets, read in pieces of `step` bytes at most."""
    found = downloads.get(url, {})
    try:
        return b"".join(iter(partial(found.read, step), b""))
    finally:
        downloads.release(found)
