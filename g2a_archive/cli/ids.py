"""Reading recording IDs: arguments, files, standard input; before the network is touched."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator
from typing import BinaryIO, cast

from g2a_archive.errors import InputError, storage_error
from g2a_archive.models import MAX_ID

_SHOWN = 10
_LONGEST = 40


def read_ids(arguments: Iterable[str], files: Iterable[str]) -> list[int]:
    """The IDs of the arguments, then of the files (`-` is standard input), without doubles.

    One ID a line; blank lines, `#` comments, CRLF and a byte-order mark are passed over. Raises
    `InputError` naming every bad one, and `StorageError` for a file that fails while read.
    """
    ids: dict[int, None] = {}
    bad: list[str] = []
    for text in arguments:
        _take(text.strip(), f"argument {_shown(text)}", ids, bad)
    for name in files:
        where = "standard input" if name == "-" else name
        for number, line in enumerate(_lines(name), 1):
            text = line.partition("#")[0].strip()
            if text:
                _take(text, f"{where}, line {number}: {_shown(text)}", ids, bad)
    if bad:
        more = f"; and {len(bad) - _SHOWN:,} more" if len(bad) > _SHOWN else ""
        what = "not a recording ID" if len(bad) == 1 else f"{len(bad):,} are not recording IDs"
        raise InputError(
            f"{what}: {'; '.join(bad[:_SHOWN])}{more}",
            hint="an ID is a positive whole number, one a line; a spreadsheet must show it as text",
        )
    return list(ids)


def _take(text: str, where: str, ids: dict[int, None], bad: list[str]) -> None:
    # isdecimal() alone would take the digits of other scripts.
    if text.isdecimal() and text.isascii() and len(text) <= 30 and 0 < (id_ := int(text)) <= MAX_ID:
        ids[id_] = None
    else:
        bad.append(where)


def _shown(text: str) -> str:
    cut = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    return repr(cut)


def _lines(name: str) -> Iterator[str]:
    what = "standard input" if name == "-" else name
    try:
        file = _standard_input() if name == "-" else open(name, "rb")  # noqa: SIM115
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        hint = "name a file, or `-` once" if name == "-" else "check its name"
        raise InputError(f"cannot read the IDs from {what}: {reason}", hint=hint) from error
    try:
        yield from _text(file)
    except OSError as error:
        raise storage_error(error, "read the IDs from", what) from error
    finally:
        file.close()


def _text(file: BinaryIO) -> Iterator[str]:
    """The lines of a file, one by one: a million of them need not all be in memory."""
    buffered = cast(io.BufferedReader, file)
    mark = buffered.peek(3)[:2]
    # What a spreadsheet calls Unicode text is UTF-16.
    encoding = "utf-16" if mark in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    # Universal newlines: CR, LF and CRLF end a line, form feeds and the like don't.
    with io.TextIOWrapper(buffered, encoding, "replace", newline=None) as lines:
        yield from lines


def _standard_input() -> BinaryIO:
    if sys.stdin is None:  # closed, as `<&-` does
        raise ValueError("it is closed")
    if sys.stdin.closed:  # by us: `-f -` and `--except -`, say, would have to share its lines
        raise ValueError("it was read already")
    return sys.stdin.buffer
