"""Some recordings' lines put into a large `SHA256SUMS`, whose other lines nobody looks at.

That is right where the file is byte for byte what this program wrote last, all of it from the
catalogue: then its lines are in the order of their names, and known to be what they should be.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

_BLOCK = 1 << 20
_NAME = 66
"""Where the name begins in a line: after a SHA-256 and two spaces."""


@dataclass(frozen=True, slots=True)
class Changes:
    """The file as it was written last, and what is new: each recording's ID, and its lines now.

    `sha256` is the digest of the file, `files` the number of its lines. `lines` are in order.
    """

    sha256: str
    files: int
    recordings: Sequence[tuple[int, Sequence[bytes]]]


def splice(old: BinaryIO, changes: Changes, write: Callable[[bytes], object]) -> int | None:
    """Hand `old`, with the changes in it, to `write` in pieces; returns the number of its lines.

    None where that cannot be done: `old` is not what was written last, or has a line of one of
    these recordings under a name that it no longer has. What was written is then worth nothing.
    """
    todo = deque(sorted((f"{id_}.".encode(), lines) for id_, lines in changes.recordings))
    digest = hashlib.sha256()
    count = changes.files
    rest = b""
    ended = False
    while not ended:
        block = old.read(_BLOCK)
        ended = not block
        digest.update(block)
        rest += block
        cut = len(rest) if ended else rest.rfind(b"\n") + 1
        if not (cut or ended):
            return None  # no line is so long
        last = rest[rest.rfind(b"\n", 0, max(0, cut - 1)) + 1 : cut]
        if not todo or (todo[0][0] > _name(last) and not ended):
            write(rest[:cut])
            rest = rest[cut:]
            continue
        lines = rest[:cut].splitlines(keepends=True)
        begin, keep = 0, len(lines)
        while todo:
            first, new = todo[0]
            start = bisect_left(lines, first, begin, key=_name)
            stop = bisect_left(lines, first[:-1] + b"/", start, key=_name)  # what follows the dot
            if stop == len(lines) and not ended:  # more of it may come
                keep = start
                break
            if not {*map(_name, lines[start:stop])} <= {*map(_name, new)}:
                return None
            write(b"".join([*lines[begin:start], *new]))
            count += len(new) - (stop - start)
            begin = stop
            todo.popleft()
        write(b"".join(lines[begin:keep]))
        rest = b"".join(lines[keep:]) + rest[cut:]
    return count if digest.hexdigest() == changes.sha256 else None


def _name(line: bytes) -> bytes:
    return line[_NAME:]
