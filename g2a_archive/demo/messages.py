"""What goes over the wire of the simulated service: requests, responses, and their bodies."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from g2a_archive.demo.media import Content
from g2a_archive.demo.recordings import Kind

Call = Literal["links", "list", "transcode", "archived", "token", "authorize", "file", "other"]
"""What a request is for: the four calls of the API, the two of OAuth, a file, anything else."""


@dataclass(slots=True, eq=False)
class Request:
    """A request as it came, what it is for, and what became of it so far.

    The names of `headers` are in lower case. `recording_id` and `kind` are set where it is for a
    file.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    keep_alive: bool
    path: str = field(init=False)
    query: tuple[tuple[str, str], ...] = field(init=False)
    call: Call = "other"
    recording_id: int | None = None
    kind: Kind | None = None
    started: float = 0.0
    status: int | None = None
    """None until the answer begins, and for ever where there was none."""
    sent: int = 0
    """Bytes of the body sent."""
    stalled: bool = False
    finished: bool = False

    def __post_init__(self) -> None:
        """Take the target apart."""
        parts = urlsplit(self.target)
        self.path = unquote(parts.path)
        self.query = tuple(parse_qsl(parts.query, keep_blank_values=True))

    def parameter(self, name: str) -> str | None:
        """Return the first value that the query has under a name."""
        return next((value for key, value in self.query if key == name), None)

    def form(self) -> dict[str, str]:
        """Return the fields of a form-encoded body."""
        return dict(parse_qsl(self.body.decode("utf-8", "replace"), keep_blank_values=True))


@dataclass(frozen=True)
class FileRange:
    """The bytes of a file from `start` up to `stop`, as the body of a response."""

    content: Content
    start: int
    stop: int

    def __len__(self) -> int:
        """Return how many bytes these are."""
        return self.stop - self.start

    def chunks(self) -> Iterator[bytes]:
        """Yield them."""
        return self.content.chunks(self.start, self.stop)


@dataclass(frozen=True)
class Response:
    """An answer; the length and the connection's fate are added when it is sent."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | FileRange = b""

    @classmethod
    def json(cls, value: object, status: int = 200) -> Response:
        """Return an answer that holds a value as JSON."""
        headers = {"Content-Type": "application/json"}
        return cls(status, headers, json.dumps(value).encode())

    @classmethod
    def error(cls, status: int, code: str, message: str) -> Response:
        """Return an error the way the API words them."""
        return cls.json({"int_err_code": code, "msg": message}, status)

    def chunks(self) -> Iterator[bytes]:
        """Yield the body."""
        return iter((self.body,)) if isinstance(self.body, bytes) else self.body.chunks()
