"""A vocabulary of things that go wrong between a client and the simulated service.

A `Fault` says how one answer departs from the right one. The functions below make the usual ones;
`|` combines two: `ignored_range() | reset(after=1000)`. A `Rule` decides which requests get it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from g2a_archive.demo.messages import Call, Request, Response
from g2a_archive.demo.recordings import Kind

Ending = Literal["whole", "close", "reset", "stall"]
Framing = Literal["length", "close", "chunked"]


@dataclass(frozen=True)
class Fault:
    """How an answer departs from the right one; the defaults are no departure at all."""

    response: Response | None = None
    """This answer instead of the right one."""
    headers: Mapping[str, str | None] = field(default_factory=dict)
    """Headers to set, or, where None, to leave out."""
    drop: bool = False
    """No answer: the connection is closed (`ending="reset"`: reset) when the request is read."""
    ending: Ending = "whole"
    """What happens when `after` bytes of the body are sent."""
    after: int = 0
    hang_up: bool = False
    """The answer is right, but then the connection is closed, which nothing announced."""
    rate: float | None = None
    """Bytes a second of the body, at most."""
    extra_length: int = 0
    """By how much the announced Content-Length is wrong."""
    framing: Framing = "length"
    """How the end of the body is told: by a length, by closing, or in chunks."""
    gzip: bool = False
    """The body compressed, whether or not the client accepts that."""
    ignore_range: bool = False
    """Files: the whole file with 200, whatever range was asked for."""
    always_416: bool = False
    """Files: 416 to any range."""
    version: int = 0
    """Files: another version, with other bytes and validators."""
    size: int | None = None
    """Files: another size."""
    range_start_shift: int = 0
    """Files: how far Content-Range, and what is sent, begin beside the start asked for."""
    range_total_shift: int = 0
    """Files: by how much Content-Range is wrong about the size."""

    def __or__(self, other: Fault) -> Fault:
        """Return both faults at once; where they disagree, the second one's word counts."""
        said = {item.name: getattr(other, item.name) for item in fields(Fault)}
        usual = {item.name: getattr(NO_FAULT, item.name) for item in fields(Fault)}
        return replace(self, **{name: said[name] for name in said if said[name] != usual[name]})


NO_FAULT = Fault()


def drop() -> Fault:
    """Close the connection without an answer."""
    return Fault(drop=True)


def refuse() -> Fault:
    """Reset the connection without an answer."""
    return Fault(drop=True, ending="reset")


def reset(after: int) -> Fault:
    """Reset the connection (RST) when `after` bytes of the body are sent."""
    return Fault(ending="reset", after=after)


def close(after: int) -> Fault:
    """Close the connection (FIN) when `after` bytes of the body are sent."""
    return Fault(ending="close", after=after)


def stall(after: int) -> Fault:
    """Send `after` bytes of the body, then nothing until the client goes or the service stops."""
    return Fault(ending="stall", after=after)


def hang_up() -> Fault:
    """Answer rightly, then close the connection that the client believes is kept alive."""
    return Fault(hang_up=True)


def trickle(rate: float) -> Fault:
    """Send at most `rate` bytes a second."""
    return Fault(rate=rate)


def wrong_length(extra: int) -> Fault:
    """Announce a length that is wrong by `extra` bytes, send the true body, close."""
    return Fault(extra_length=extra)


def no_length() -> Fault:
    """Announce no length; the end of the connection is the end of the body."""
    return Fault(framing="close")


def chunked() -> Fault:
    """Send the body with `Transfer-Encoding: chunked`."""
    return Fault(framing="chunked")


def gzipped() -> Fault:
    """Send the body with `Content-Encoding: gzip`."""
    return Fault(gzip=True)


def ignored_range() -> Fault:
    """Answer a range with the whole file, status 200."""
    return Fault(ignore_range=True)


def changed(version: int = 1, size: int | None = None) -> Fault:
    """Serve another file under the same link: other bytes, another ETag, perhaps another size."""
    return Fault(version=version, size=size)


def wrong_range(start: int = 0, total: int = 0) -> Fault:
    """Answer a range with one that begins `start` bytes off, or that names a total so far off."""
    return Fault(range_start_shift=start, range_total_shift=total)


def always_416() -> Fault:
    """Answer any range with 416."""
    return Fault(always_416=True)


def status(code: int, body: bytes = b"", **headers: str) -> Fault:
    """Answer with a status; `retry_after="3"` becomes the header `Retry-After: 3`."""
    named = {name.replace("_", "-").title(): value for name, value in headers.items()}
    return Fault(response=Response(code, named, body))


def undated() -> Fault:
    """Answer rightly, but do not tell the time."""
    return Fault(headers={"Date": None})


def says(value: object, code: int = 200) -> Fault:
    """Answer with a value as JSON: an error that comes with 200, say."""
    return Fault(response=Response.json(value, code))


def html(code: int = 200) -> Fault:
    """Answer with a web page, as a portal, a proxy or an expired link may do."""
    page = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Sorry</body></html>\n"
    return Fault(response=Response(code, {"Content-Type": "text/html; charset=utf-8"}, page))


def empty() -> Fault:
    """Answer 200 with no bytes at all."""
    return Fault(response=Response(200))


def redirect(url: str, code: int = 302) -> Fault:
    """Send the client elsewhere."""
    return Fault(response=Response(code, {"Location": url}))


class Rule:
    """A fault, the requests that it is for, and how often; `applied` counts.

    `skip` lets that many matching requests through first; `times` is how many then meet the fault
    (None: all of them).
    """

    def __init__(
        self,
        fault: Fault | Response,
        *,
        call: Call | None = None,
        kind: Kind | None = None,
        recording_id: int | None = None,
        times: int | None = None,
        skip: int = 0,
    ) -> None:
        """Say what goes wrong, and for which requests; None is any."""
        self.fault = fault
        self.call = call
        self.kind = kind
        self.recording_id = recording_id
        self.times = times
        self.skip = skip
        self.applied = 0
        self._lock = threading.Lock()

    def matches(self, request: Request) -> bool:
        """Return whether a request is one that this rule is for."""
        return (
            self.call in (None, request.call)
            and self.kind in (None, request.kind)
            and self.recording_id in (None, request.recording_id)
        )

    def __call__(self, request: Request) -> Fault | Response | None:
        """Return what a request meets."""
        if not self.matches(request):
            return None
        with self._lock:
            if self.skip:
                self.skip -= 1
                return None
            if self.times is not None and self.applied >= self.times:
                return None
            self.applied += 1
            return self.fault
