"""Writes the whole site: sort, then each page that has changed, the first one last."""

from __future__ import annotations

import os
import webbrowser
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import tzinfo
from functools import partial
from importlib.resources import files
from itertools import islice
from pathlib import Path
from urllib.parse import quote

from g2a_archive import __version__
from g2a_archive.browse import pages
from g2a_archive.browse.database import Limits, SiteDatabase, part_name
from g2a_archive.browse.entries import (
    CalendarEntry,
    Entry,
    Listed,
    OwedEntry,
    PageSource,
    calendar_entry,
)
from g2a_archive.browse.markup import Site
from g2a_archive.browse.search_index import lookup_files
from g2a_archive.browse.write import Writer

ASSETS = ("style.css", "recordings.js", "search.js", "icon.svg")
DATABASE_NAME = ".shelf.sqlite3"
"""What a run keeps in `browse/` for the next one; without it, all pages are made again."""

PER_PAGE = 250
"""Recordings on a page at most. A month with more has a page for each day, a day with more several.

No page is larger than 500 kB: where directories have long names, it is fewer.
"""

OWED_PER_PAGE = 500
LATEST = 6
_LARGEST, _EACH, _TIMES = 400_000, 1100, 8
"""Bytes of a page's recordings, of each without its directory's name, and how often it has that."""

_TOGETHER = 250

Page = tuple[str, bool, Callable[[], str]]
"""A page's name, whether it has changed, and what makes its content."""


@dataclass(frozen=True, slots=True)
class SiteResult:
    """What `write_site` did; `index` is the page to open, the others are counts of files."""

    index: Path
    recordings: int
    owed: int
    written: int
    unchanged: int
    removed: int


def write_site(
    root: Path,
    entries: Iterable[Entry],
    owed: Iterable[OwedEntry],
    *,
    zone: tzinfo | None,
    title: str,
    zone_name: str = "",
) -> SiteResult:
    """Write pages of a few recordings below `root`, with nothing kept for another time.

    `entries` may come in any order; see `update_site`.
    """
    with closing(Listed(entries, owed)) as source:
        return update_site(root, source, zone=zone, title=title, zone_name=zone_name, keep=False)


def update_site(
    root: Path,
    source: PageSource,
    *,
    zone: tzinfo | None,
    title: str,
    zone_name: str = "",
    keep: bool = True,
    on_progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> SiteResult:
    """Write the pages of the archive at `root` that have changed.

    With a `zone`, every time is shown in it, and `zone_name` is its name; without one, as the
    recording's start gives it. With `keep`, the next run can tell what has changed since.
    `on_progress` hears what is being done ("directory", "page"), how many are done,
    and how many there are. Raises `StorageError`, and `LockedError` where another run is at it.
    """
    writer = Writer(root)
    site = Site(title, zone_name)
    tokens = dict(source.change_tokens())
    limits = Limits(_per_page(tokens), OWED_PER_PAGE)
    about = {"version": __version__, "title": title, "zone": f"{zone} {site.zone_name}"}
    with SiteDatabase(writer.folder / DATABASE_NAME if keep else None, about, limits) as database:
        before = pages.CalendarIndex(database.days(), limits.recordings)
        for done, total in database.load(source, tokens, zone):
            on_progress("directory", done, total)
        for name in ASSETS:
            writer.write_bytes(name, files(__package__).joinpath("assets", name).read_bytes())
        index = pages.CalendarIndex(database.days(), limits.recordings)
        plan = _Plan(site, source, database, zone, before, index, limits)
        names = {*ASSETS}
        todo = []
        for name, changed, content in plan.pages():
            names.add(name)
            if changed or database.fresh or not writer.has(name):
                todo.append((name, content))
        for done, (name, content) in enumerate(todo, 1):
            writer.write_text(name, content())
            on_progress("page", done, len(todo))
        writer.finish(names)
        return SiteResult(
            root / "index.html",
            sum(day.count for day in plan.index.days.values()) + database.undated(),
            sum(plan.states.values()),
            writer.written,
            len(names) - writer.written,
            writer.removed,
        )


def _per_page(directories: Iterable[str]) -> int:
    """How many recordings a page can hold: each names its directory several times."""
    longest = max((len(quote(os.fsencode(name))) for name in directories), default=0)
    return min(PER_PAGE, _LARGEST // (_EACH + _TIMES * longest))


def open_site(index: Path) -> bool:
    """Open the first page in the user's browser; False where there is none to be found."""
    return webbrowser.open(index.resolve().as_uri())


class _Plan:
    """All pages there are to be, in an order in which no moment has a dead link."""

    def __init__(
        self,
        site: Site,
        source: PageSource,
        database: SiteDatabase,
        zone: tzinfo | None,
        before: pages.CalendarIndex,
        index: pages.CalendarIndex,
        limits: Limits,
    ) -> None:
        self.site, self.source, self.database, self.zone = site, source, database, zone
        self.before, self.index, self.limits = before, index, limits
        self.states = database.owed_states()

    def pages(self) -> Iterator[Page]:
        """Each page; what is linked to comes before what links."""
        yield from self._day_pages()
        yield from self._month_pages()
        yield from self._year_pages()
        yield from self._undated_pages()
        yield from self._owed_pages()
        yield from lookup_files(self.database, self.index)
        yield "index.html", True, self._index

    def _calendar_entries(self, ids: Iterator[int]) -> Iterator[CalendarEntry]:
        """The recordings themselves, from the catalogue, some at a time."""
        while some := [*islice(ids, _TOGETHER)]:
            found = self.source.details(some)
            yield from (calendar_entry(found[id_], self.zone) for id_ in some if id_ in found)

    def _day_pages(self) -> Iterator[Page]:
        touched = {day[:7] for day in self.database.touched}
        for month in sorted(self.index.split):
            for day in self.index.months[month]:
                for part, name in enumerate(self.index.parts(day.day)):
                    # The month's calendar is on each of them.
                    yield name, month in touched, partial(self._day, day.day, part, name)

    def _day(self, day: str, part: int, name: str) -> str:
        recordings = self._calendar_entries(self.database.recordings(day, part))
        return pages.day_page(self.site, self.index, day, recordings, name)

    def _month_pages(self) -> Iterator[Page]:
        changed = {day[:7] for day in self.database.touched}
        changed |= _moved(list(self.before.months), list(self.index.months))
        for month in self.index.months:
            yield f"{month}.html", month in changed, partial(self._month, month)

    def _month(self, month: str) -> str:
        def recordings(day: str) -> Iterator[CalendarEntry]:
            return self._calendar_entries(self.database.recordings(day))

        return pages.month_page(self.site, self.index, month, recordings)

    def _year_pages(self) -> Iterator[Page]:
        changed = {day[:4] for day in self.database.touched}
        changed |= _moved(list(self.before.years), list(self.index.years))
        for year in self.index.years:
            make = partial(pages.year_page, self.site, self.index, year)
            yield f"{year}.html", year in changed, make

    def _undated_pages(self) -> Iterator[Page]:
        names = _part_names("undated", self.database.undated(), self.limits.recordings)
        for part, name in enumerate(names):
            make = partial(self._undated, part, names, name)
            yield name, "" in self.database.touched, make

    def _undated(self, part: int, names: Sequence[str], name: str) -> str:
        some = self._calendar_entries(self.database.recordings("", part))
        return pages.undated_page(self.site, some, names, name)

    def _owed_pages(self) -> Iterator[Page]:
        names = _part_names("owed", sum(self.states.values()), self.limits.owed)
        # There is always one, since every page links to it.
        for part, name in enumerate(names or ["owed.html"]):
            yield name, self.database.owed_changed, partial(self._owed, part, names, name)

    def _owed(self, part: int, names: Sequence[str], name: str) -> str:
        some = self.database.owed(part)
        return pages.owed_page(self.site, some, self.states, self.zone, names, name)

    def _index(self) -> str:
        latest = dict(self.database.latest(LATEST))
        shown = []
        for one in self._calendar_entries(iter(latest)):
            part = latest[one.id]
            shown.append((one, part_name(one.day, part) if part else self.index.page(one.day)))
        return pages.index_page(self.site, self.index, shown, self.database.undated(), self.states)


def _moved(before: Sequence[str], after: Sequence[str]) -> set[str]:
    """Those that have another neighbour than before."""

    def neighbours(keys: Sequence[str]) -> Mapping[str, tuple[str, str]]:
        return {k: (a, b) for a, k, b in zip(["", *keys], keys, [*keys[1:], ""], strict=False)}

    old = neighbours(before)
    return {key for key, its in neighbours(after).items() if old.get(key) != its}


def _part_names(stem: str, count: int, per_page: int) -> list[str]:
    return [part_name(stem, part) for part in range(-(-count // per_page))]
