"""The settings of the simulated service, and a clock that tests can move."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal


class ManualClock:
    """A clock that stands still until it is told to advance; call it for the time in seconds."""

    def __init__(self, at: float = 1000.0) -> None:
        """Start at a time."""
        self._at = at
        self._lock = threading.Lock()

    def __call__(self) -> float:
        """Return the time."""
        with self._lock:
            return self._at

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        with self._lock:
            self._at += seconds


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Behaviour:
    """How the service behaves where nothing goes wrong. May be changed while it runs.

    The defaults are those of the vendor's public reference of the API: 500 recordings a call, ten
    calls a second, access tokens for an hour, links for 48.
    """

    port: int = 0
    """The port to listen on; 0 is any free one."""
    log: bool = True
    """Keep every request; counters are kept always."""

    id_attribute: str = "recordingIds"
    """The query attribute that names a recording in the link call; the vendor leaves it open."""
    ids_in: Literal["path", "query", "body"] = "path"
    """Where the calls that change something take their IDs; the vendor leaves that open, too."""
    most_ids: int = 500
    most_target_bytes: int | None = 16_384
    """A longer request target gets 414."""
    rate_limit: int | None = 10
    """Calls of the API in any one second; what is over gets 429."""
    from_time_inclusive: bool = True
    """Whether a recording that starts at `fromTime` itself is listed; the vendor does not say."""
    to_time_inclusive: bool = True
    """Whether a recording that starts at `toTime` itself is listed."""
    transcode_seconds: float = 1.0
    """How long a transcoding takes after it was asked for."""
    transcode_polls: int = 0
    """How many list calls have to come before a transcoding is done."""

    auth_scheme: Literal["bearer", "oauth"] = "bearer"
    """`Bearer TOKEN`, or `OAuth oauth_token=TOKEN` as older accounts use it."""
    refused_token_status: int = 403
    token_lifetime: float = 3600.0
    client_id: str = "simulated-client"
    client_secret: str = "simulated-client-secret"
    pat: str = "simulated-personal-access-token"
    rotate_refresh_tokens: bool = False
    """Hand out a new refresh token with each renewal."""
    deny_authorization: bool = False
    """The user at the authorization page says no."""

    gone_status: int = 410
    """The answer to a link that is unknown or past its time; with 200 it is a web page only."""
    link_key_in: Literal["query", "path"] = "query"
    """Where a link holds its large random number."""

    latency: float = 0.0
    """Seconds before the first byte of a file."""
    link_latency: float = 0.0
    """Seconds before the answer to a call of the API."""
    rate: float | None = None
    """Bytes a second of a file, for each connection."""

    clock: Callable[[], float] = time.monotonic
    """Seconds, for lifetimes and the rate limit."""
    now: Callable[[], datetime] = _utc_now
    """The date, from which `timePeriod` counts back."""
