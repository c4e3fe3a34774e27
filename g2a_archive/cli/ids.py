"""Reading recording IDs: arguments, files, standard input; before the network is touched."""

from __future__ import annotations

import io
import re
import sys
from array import array
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import BinaryIO, cast

from g2a_archive.errors import InputError, redacted_repr, storage_error
from g2a_archive.models import distinct, parse_id

_SHOWN = 10
_NAMED = 200
"""Stretches of bad lines that are named, beyond the first lines, which are shown."""

_MOST = 100_000
"""Bad lines after which no more are read: what has so many need not have an end."""

_BLOCK = 1 << 18
"""Characters that are read together; a line is no longer."""

# IDs below 10^18 and nothing else, as in most files: read in a third of the time that line after
# line takes, which was a quarter of a run that finds a million archived.
_PLAIN = re.compile(r"[1-9][0-9]{0,17}(\n[1-9][0-9]{0,17})*")


def read_ids(arguments: Iterable[str], files: Iterable[str]) -> array[int]:
    """The IDs of the arguments, then of the files (`-` is standard input), without doubles.

    One ID a line; blank lines, `#` comments, CRLF and a byte-order mark are passed over. Raises
    `InputError` naming the first bad ones, and `StorageError` for a file that fails while read.
    """
    ids = array("q")
    bad = _Bad()
    for argument in arguments:
        if id_ := parse_id(argument.strip()):
            ids.append(id_)
        else:
            bad.add("argument", argument)
    for name in files:
        read = 0
        for block in _blocks(name):
            lines = block.split("\n")
            first, read = read + 1, read + len(lines)
            if _PLAIN.fullmatch(block):
                ids.extend(map(int, lines))
                continue
            for number, line in enumerate(lines, first):
                text = line.partition("#")[0].strip()
                if id_ := parse_id(text):
                    ids.append(id_)
                elif text:
                    bad.add("standard input" if name == "-" else name, text, number)
            if bad.count >= _MOST:
                raise bad.error()
    if bad.count:
        raise bad.error()
    return distinct(ids)


class _Bad:
    """What is no ID: the first ones, the lines of the others, and how many there are."""

    def __init__(self) -> None:
        self.count = 0
        self._first: list[str] = []
        self._hidden = False
        self._lines: list[tuple[str, int, int]] = []  # of the others: where, from, to

    def add(self, where: str, text: str, line: int | None = None) -> None:
        """One more."""
        self.count += 1
        if self.count <= _SHOWN:
            place = where if line is None else f"{where}, line {line}:"
            said = redacted_repr(text)
            self._first.append(f"{place} {said}")
            self._hidden = self._hidden or said != repr(text)
        elif line is not None:
            known = self._lines[-1] if self._lines else ("", 0, 0)
            if (where, line - 1) == (known[0], known[2]):
                self._lines[-1] = where, known[1], line
            elif len(self._lines) < _NAMED:
                self._lines.append((where, line, line))

    def error(self) -> InputError:
        """All of them, in a sentence."""
        more = f"; and {self.count - _SHOWN:,} more" if self.count > _SHOWN else ""
        for where, spans in groupby(self._lines, lambda one: one[0]):
            lines = (str(at) if at == to else f"{at} to {to}" for _, at, to in spans)
            more += f"; {where}, lines {', '.join(lines)}"
        more += ", …" if len(self._lines) == _NAMED else ""
        one = self.count == 1
        what = "not a recording ID" if one else f"{self.count:,} are not recording IDs"
        hint = "an ID is a positive whole number, one a line; a spreadsheet must show it as text"
        if self._hidden:
            hint += "; what may be a secret is not shown"
        return InputError(f"{what}: {'; '.join(self._first)}{more}", hint=hint)


def _blocks(name: str) -> Iterator[str]:
    what = "standard input" if name == "-" else name
    try:
        file = _standard_input() if name == "-" else open(name, "rb")  # noqa: SIM115
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        hint = "name a file, or `-` once" if name == "-" else "check its name"
        raise InputError(f"cannot read the IDs from {what}: {reason}", hint=hint) from error
    try:
        yield from _text(file, what)
    except OSError as error:
        raise storage_error(error, "read the IDs from", what) from error
    finally:
        file.close()


def _text(file: BinaryIO, what: str) -> Iterator[str]:
    """Some lines of a file after another: a million of them need not all be in memory."""
    buffered = cast(io.BufferedReader, file)
    mark = buffered.peek(3)[:2]
    if not mark:
        return
    # What a spreadsheet calls Unicode text is UTF-16.
    encoding = "utf-16" if mark in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    # Universal newlines: CR, LF and CRLF end a line, form feeds and the like don't.
    with io.TextIOWrapper(buffered, encoding, "replace", newline=None) as lines:
        more = True  # else the end was read, and a terminal, asked again, waits for another one
        while more and (block := lines.read(_BLOCK)):
            more = len(block) == _BLOCK
            rest = lines.readline(_BLOCK) if more else ""
            if len(rest) == _BLOCK:
                raise InputError(f"{what} has a line that does not end", hint="is it a text file?")
            yield (block + rest).removesuffix("\n")


def _standard_input() -> BinaryIO:
    if sys.stdin is None:  # closed, as `<&-` does
        raise ValueError("it is closed")
    if sys.stdin.closed:  # by us: `-f -` and `--except -`, say, would have to share its lines
        raise ValueError("it was read already")
    return sys.stdin.buffer
