"""The search index: small scripts of data, since a page from a file may fetch nothing else.

IDs are kept by their leading digits. A file that would hold too many is split by the next digit,
so that a new recording changes one small file, and a search loads one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from g2a_archive.browse.pages import Book
from g2a_archive.browse.shelf import Shelf

IDS_PER_FILE = 2000


def script(key: str, value: object) -> str:
    """A script that hands over data under a key; nothing in it can end or become code."""
    data = json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
    return f"(self.g2a=self.g2a||{{}})[{json.dumps(key)}]={data};\n"


def lookup_files(shelf: Shelf, book: Book, limit: int = IDS_PER_FILE) -> Iterator[tuple[str, str]]:
    """Name and content of every file of the index.

    `ids-12.js` has the IDs that begin with 12; `ids-12e.js` has 12 itself, where 12 was split.
    """
    shards = {}
    for name, rows in _shards(shelf, limit):
        shards[name] = len(rows)
        yield f"search/ids-{name}.js", script(f"ids-{name}", rows)
    days = {day.day: day.count for day in book.days.values()}
    yield "search/days.js", script("days", {"days": days, "split": sorted(book.split)})
    yield "search/shards.js", script("shards", shards)


def _shards(shelf: Shelf, limit: int) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    pending = [str(digit) for digit in range(9, -1, -1)]
    while pending:
        prefix = pending.pop()
        count = shelf.found(prefix)
        if not count:
            continue
        if count <= limit:
            yield prefix, shelf.find(prefix)
            continue
        exact = shelf.find(prefix, exact=True)
        if exact:
            yield f"{prefix}e", exact
        pending += [f"{prefix}{digit}" for digit in range(9, -1, -1)]
