"""File hosts that cannot be reached: asked now and then, not for each file as often as it takes."""

from __future__ import annotations

from dataclasses import dataclass

_DOWN = 3
"""Attempts in a row, of any files, that did not reach a host, after which it counts as down."""

_STILL_DOWN = 60.0
"""Seconds between two attempts at a host that was given up."""


_LOOK_AGAIN = 1.0
"""Seconds after which a file looks what came of another's attempt at a host that is down."""


@dataclass(slots=True)
class _Host:
    failures: int = 0
    reason: str = ""
    given_up: bool = False
    next_at: float = 0.0


class Hosts:
    """What the run's attempts found out about the file hosts. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._hosts: dict[str, _Host] = {}

    def answered(self, url: str) -> None:
        """The host of this link answered, whatever it said."""
        if self._hosts:
            self._hosts.pop(_name(url), None)

    def unreachable(self, url: str, reason: str, until: float, *, last: bool) -> None:
        """An attempt did not reach the host; nobody asks it before `until`.

        `last`: it was the last attempt at a file, so that the host is given up.
        """
        host = self._hosts.setdefault(_name(url), _Host())
        host.failures += 1
        host.reason = reason
        host.given_up = host.given_up or (last and host.failures >= _DOWN)
        host.next_at = until

    def wait_until(self, url: str, now: float) -> float | None:
        """When the host may be asked, or is to be looked at; None where it is given up, and not
        due yet.

        Whoever asks a host that is down does so for all: others wait for what comes of it.
        """
        host = self._hosts.get(_name(url)) if self._hosts else None
        if host is None or host.failures < _DOWN:
            return now
        if now < host.next_at:
            return None if host.given_up else min(host.next_at, now + _LOOK_AGAIN)
        host.next_at = now + _STILL_DOWN
        return now

    def reason(self, url: str) -> str:
        """Why the host could not be reached."""
        host = self._hosts.get(_name(url))
        return host.reason if host is not None else ""


def _name(url: str) -> str:
    return url.split("/", 3)[2]
