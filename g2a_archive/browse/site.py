"""Writes the whole site: sort, then each page, the first one last."""

from __future__ import annotations

import webbrowser
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import tzinfo
from importlib.resources import files
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

from g2a_archive.browse import pages
from g2a_archive.browse.entries import Entry, Owed
from g2a_archive.browse.lookup import lookup_files
from g2a_archive.browse.markup import Site
from g2a_archive.browse.shelf import Shelf, part_name
from g2a_archive.browse.write import Writer

_T = TypeVar("_T")
ASSETS = ("style.css", "recordings.js", "search.js", "icon.svg")
MONTH_LIMIT = 1000
"""Recordings on a month's page; a month with more has a page for each day."""
UNDATED_PER_PAGE = 1000
OWED_PER_PAGE = 2000
LATEST = 6


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
    owed: Iterable[Owed],
    *,
    zone: tzinfo | None,
    title: str,
    zone_name: str = "",
) -> SiteResult:
    """Write the pages of the archive at `root`; raises `StorageError`.

    `entries` may come in any order, `owed` is shown as it comes. With a `zone`, every time is
    shown in it, and `zone_name` says its name; without one, as the recording's start gives it.
    """
    writer = Writer(root)
    site = Site(title, zone_name or _name(zone))
    with Shelf() as shelf:
        shelf.load(entries, owed, zone)
        shelf.index(UNDATED_PER_PAGE, OWED_PER_PAGE)
        book = pages.Book(shelf.days(), MONTH_LIMIT)
        for name in ASSETS:
            writer.data(name, files(__package__).joinpath("assets", name).read_bytes())
        for name, content in chain(
            # What is linked to comes before what links, so that no moment has a dead link.
            _day_pages(site, book, shelf),
            _month_pages(site, book, shelf),
            ((f"{year}.html", pages.year_page(site, book, year)) for year in book.years),
            _undated_pages(site, shelf),
            _owed_pages(site, shelf, zone),
            lookup_files(shelf, book),
        ):
            writer.page(name, content)
        states = shelf.owed_states()
        latest = shelf.latest(LATEST)
        undated = shelf.count(undated=True)
        writer.page("index.html", pages.index_page(site, book, latest, undated, states))
        writer.finish()
        return SiteResult(
            root / "index.html",
            shelf.count(),
            sum(states.values()),
            writer.written,
            writer.unchanged,
            writer.removed,
        )


def _name(zone: tzinfo | None) -> str:
    if zone is None:
        return ""
    return getattr(zone, "key", None) or zone.tzname(None) or "the archive's time zone"


def open_site(index: Path) -> bool:
    """Open the first page in the user's browser; False where there is none to be found."""
    return webbrowser.open(index.resolve().as_uri())


def _day_pages(site: Site, book: pages.Book, shelf: Shelf) -> Iterator[tuple[str, str]]:
    for month in sorted(book.split):
        for day in book.months[month]:
            page = pages.day_page(site, book, day.day, shelf.recordings(day.day))
            yield f"{day.day}.html", page


def _month_pages(site: Site, book: pages.Book, shelf: Shelf) -> Iterator[tuple[str, str]]:
    for month in book.months:
        yield f"{month}.html", pages.month_page(site, book, month, shelf.recordings)


def _undated_pages(site: Site, shelf: Shelf) -> Iterator[tuple[str, str]]:
    names = _part_names("undated", shelf.count(undated=True), UNDATED_PER_PAGE)
    for name, some in zip(names, _parts(shelf.undated(), UNDATED_PER_PAGE), strict=True):
        yield name, pages.undated_page(site, some, names, name)


def _owed_pages(site: Site, shelf: Shelf, zone: tzinfo | None) -> Iterator[tuple[str, str]]:
    states = shelf.owed_states()
    names = _part_names("owed", sum(states.values()), OWED_PER_PAGE)
    if not names:
        # There is always one, since every page links to it.
        yield "owed.html", pages.owed_page(site, [], states, zone, [], "owed.html")
    for name, some in zip(names, _parts(shelf.owed(), OWED_PER_PAGE), strict=True):
        yield name, pages.owed_page(site, some, states, zone, names, name)


def _part_names(stem: str, count: int, per_page: int) -> list[str]:
    return [part_name(stem, part) for part in range(-(-count // per_page))]


def _parts(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    iterator = iter(items)
    while part := list(islice(iterator, size)):
        yield part
