"""The search index: small scripts of data, since a page from a file may fetch nothing else.

IDs are kept by their leading digits. A file that would hold too many is split by the next digit,
so that a new recording changes one small file, and a search loads one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial

from g2a_archive.browse.database import SiteDatabase
from g2a_archive.browse.pages import CalendarIndex

IDS_PER_FILE = 2000


def script(key: str, value: object) -> str:
    """A script that hands over data under a key; nothing in it can end or become code."""
    data = json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
    return f"(self.g2a=self.g2a||{{}})[{json.dumps(key)}]={data};\n"


def lookup_files(
    database: SiteDatabase, index: CalendarIndex, limit: int = IDS_PER_FILE
) -> Iterator[tuple[str, bool, Callable[[], str]]]:
    """Every file of the index: its name, whether it has changed, and what makes its content.

    `ids-12.js` has the IDs that begin with 12; `ids-12e.js` has 12 itself, where 12 was split.
    """
    counts = {}
    for name, prefix, count in _shards(database, limit):
        exact = name != prefix
        counts[name] = count
        changed = database.is_touched(prefix, exact=exact)
        yield f"search/ids-{name}.js", changed, partial(_ids, database, name, prefix, exact)
    days = {day.day: day.count for day in index.days.values()}
    split = sorted(index.split)
    yield "search/days.js", True, lambda: script("days", {"days": days, "split": split})
    yield "search/shards.js", True, lambda: script("shards", counts)


def _ids(database: SiteDatabase, name: str, prefix: str, exact: bool) -> str:
    return script(f"ids-{name}", database.find_ids(prefix, exact=exact))


def _shards(database: SiteDatabase, limit: int) -> Iterator[tuple[str, str, int]]:
    """Name, digits and number of IDs of each file."""
    pending = [str(digit) for digit in range(9, -1, -1)]
    while pending:
        prefix = pending.pop()
        count = database.count_ids(prefix, limit + 1)
        if not count:
            continue
        if count <= limit:
            yield prefix, prefix, count
            continue
        if exact := database.count_ids(prefix, limit + 1, exact=True):
            yield f"{prefix}e", prefix, exact
        pending += [f"{prefix}{digit}" for digit in range(9, -1, -1)]
