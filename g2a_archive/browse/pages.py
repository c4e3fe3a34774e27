"""The pages themselves: the calendar, a year, a month, a day, those without a date, the owed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import tzinfo
from functools import partial
from itertools import groupby

from g2a_archive.browse.calendars import month_table, year_strip
from g2a_archive.browse.database import Day, part_name
from g2a_archive.browse.entries import CalendarEntry, OwedEntry
from g2a_archive.browse.markup import (
    Site,
    crumbs,
    day_text,
    frame,
    month_text,
    neighbours,
    part_links,
    text,
)
from g2a_archive.browse.recordings import STATE_TEXT, card, owed_table, recording
from g2a_archive.browse.write import FOLDER
from g2a_archive.models import State, pluralize, size_text

HOME = ("../index.html", "All years")


class CalendarIndex:
    """All days that have recordings, and on which page each is found."""

    def __init__(self, days: Sequence[Day], limit: int) -> None:
        self.days = {day.day: day for day in days}
        self.years = _grouped(days, 4)
        self.months = _grouped(days, 7)
        self.split = {m for m, known in self.months.items() if _count(known) > limit}
        self._limit = limit
        self.month_list = list(self.months)
        self.most = {year: max(day.count for day in known) for year, known in self.years.items()}

    def page(self, day: str) -> str:
        """The page, in `browse/`, that shows a day: its month's, or its own in a big month."""
        return f"{day}.html" if day[:7] in self.split else f"{day[:7]}.html"

    def parts(self, day: str) -> list[str]:
        """All pages that show a day of a big month: one, but for very busy days."""
        return [part_name(day, n) for n in range(-(-self.days[day].count // self._limit))]

    def link(self, day: str) -> str:
        """The address of a day from another page in `browse/`."""
        return f"{self.page(day)}#d{day}"


def _grouped(days: Iterable[Day], length: int) -> dict[str, list[Day]]:
    return {key: list(group) for key, group in groupby(days, lambda day: day.day[:length])}


def _count(days: Iterable[Day]) -> int:
    return sum(day.count for day in days)


def summary(days: Sequence[Day]) -> str:
    """How much there is on some days, in words."""
    size = sum(day.size for day in days)
    return f"{pluralize(_count(days), 'recording')}, {size_text(size)}"


def index_page(
    site: Site,
    index: CalendarIndex,
    latest: Sequence[tuple[CalendarEntry, str]],
    undated: int,
    owed: Mapping[State, int],
) -> str:
    """The first page: totals, what is owed, the newest recordings, a strip for each year.

    `latest` are recordings, each with the name of the page in `browse/` that shows it.
    """
    days = list(index.days.values())
    parts = [
        f'<h1 class="quiet">{text(site.title)}</h1>\n',
        _totals(site, days, undated),
        owed_notice(owed),
    ]
    if latest:
        cards = "".join(card(one, "", f"{FOLDER}/{name}") for one, name in latest)
        parts.append(f'<section><h2>Newest</h2>\n<ul class="cards">{cards}</ul></section>\n')
    rows = []
    for year in reversed(index.years):
        known = {day.day: day for day in index.years[year]}
        strip = year_strip(year, known, index.most[year])
        rows.append(
            f'<li><a class="year" href="{FOLDER}/{year}.html"><b>{year}</b>'
            f"<span>{summary(index.years[year])}</span>{strip}</a></li>\n"
        )
    if rows:
        parts.append(f'<section><h2>Years</h2>\n<ul class="years">{"".join(rows)}</ul></section>\n')
    return frame(site, site.title, "".join(parts), at="index")


def _totals(site: Site, days: Sequence[Day], undated: int) -> str:
    if not days and not undated:
        return '<p class="lead">Nothing is archived yet.</p>\n'
    lines = []
    if days:
        first, last = days[0].day, days[-1].day
        span = day_text(first, weekday=False)
        if last != first:
            span += f" to {day_text(last, weekday=False)}"
        lines.append(f'<p class="lead"><b>{summary(days)}</b><br>{span}</p>\n')
    if undated:
        lines.append(
            f'<p><a href="{FOLDER}/undated.html">{pluralize(undated, "recording")} without a known '
            f"date</a></p>\n"
        )
    zone = f"in {site.zone_name}" if site.zone_name else "as each recording gives them"
    lines.append(f'<p class="soft">Times are {text(zone)}.</p>\n')
    return "".join(lines)


def owed_notice(states: Mapping[State, int]) -> str:
    """The first page's word on what is owed: a count by state, and a link to the list."""
    total = sum(states.values())
    if not total:
        return ""
    words = ", ".join(f"{count:,} {STATE_TEXT[state]}" for state, count in states.items())
    return (
        f'<p class="notice"><a href="{FOLDER}/owed.html">{pluralize(total, "recording")} owed</a> '
        f"<span>{text(words)}</span></p>\n"
    )


def year_page(site: Site, index: CalendarIndex, year: str) -> str:
    """A year: twelve months, each day with its count."""
    years = list(index.years)
    tables = []
    for number in range(1, 13):
        month = f"{year}-{number:02d}"
        known = index.months.get(month, [])
        head = text(month_text(month)[:-5])
        if known:
            head = f'<a href="{month}.html">{head}</a> <span>{_count(known):,}</span>'
        tables.append(month_table(month, index.days, index.most[year], index.link, head=head))
    main = (
        crumbs(HOME)
        + f'<h1>{year}</h1>\n<p class="lead">{summary(index.years[year])}</p>\n'
        + neighbours(years, years.index(year), str, "Years")
        + f'<div class="months">\n{"".join(tables)}</div>\n'
    )
    return frame(site, year, main)


def month_page(
    site: Site,
    index: CalendarIndex,
    month: str,
    recordings: Callable[[str], Iterable[CalendarEntry]],
) -> str:
    """A month: its calendar, and its days with their recordings, or with links to their pages."""
    known = index.months[month]
    at = index.month_list.index(month)
    if month in index.split:
        items = "".join(
            f'<li><a href="{day.day}.html">{day_text(day.day)}</a> <span>{summary([day])}</span>'
            f"</li>\n"
            for day in known
        )
        body = f'<h2>Days</h2>\n<ul class="days">{items}</ul>\n'
    else:
        body = "".join(day_section(day, recordings(day.day)) for day in known)
    head = (
        crumbs(HOME, (f"{month[:4]}.html", month[:4]))
        + f'<h1>{month_text(month)}</h1>\n<p class="lead">{summary(known)}</p>\n'
        + neighbours(index.month_list, at, month_text, "Months")
    )
    return frame(site, month_text(month), _beside(head, _month(index, month), body))


def day_page(
    site: Site, index: CalendarIndex, day: str, recordings: Iterable[CalendarEntry], name: str
) -> str:
    """A day of a month that is too big for one page, or that part of it that is called `name`."""
    month = day[:7]
    keys = [known.day for known in index.months[month]]
    turn = neighbours(keys, keys.index(day), partial(day_text, weekday=False), "Days")
    head = (
        crumbs(HOME, (f"{day[:4]}.html", day[:4]), (f"{month}.html", month_text(month)))
        + f"<h1>{day_text(day, weekday=False)}</h1>\n{turn}"
        + part_links(index.parts(day), name)
    )
    body = day_section(index.days[day], recordings)
    return frame(site, day_text(day, weekday=False), _beside(head, _month(index, month), body))


def _month(index: CalendarIndex, month: str) -> str:
    most = max(day.count for day in index.months[month])
    return month_table(month, index.days, most, index.link)


def _beside(head: str, side: str, body: str) -> str:
    return (
        f'{head}<div class="beside"><nav class="side" aria-label="Days of the month">\n{side}'
        f"</nav>\n<div>{body}</div></div>\n"
    )


def day_section(day: Day, recordings: Iterable[CalendarEntry]) -> str:
    """A day's recordings under its date."""
    items = "".join(recording(one, "../") for one in recordings)
    return (
        f'<section class="day" id="d{day.day}"><h2>{day_text(day.day)} '
        f'<span>{summary([day])}</span></h2>\n<ul class="recs">\n{items}</ul></section>\n'
    )


def undated_page(site: Site, some: Iterable[CalendarEntry], names: Sequence[str], name: str) -> str:
    """Recordings of which no date is known, by the directory that they are in."""
    parts = [
        crumbs(HOME),
        "<h1>Without a known date</h1>\n",
        '<p class="lead">The catalogue has no start time for these recordings.</p>\n',
        part_links(names, name),
    ]
    for directory, group in groupby(some, lambda one: one.directory):
        items = "".join(recording(one, "../") for one in group)
        parts.append(
            f'<section class="day"><h2>{text(directory or "The archive itself")}</h2>\n'
            f'<ul class="recs">\n{items}</ul></section>\n'
        )
    return frame(site, "Without a known date", "".join(parts))


def owed_page(
    site: Site,
    some: Iterable[OwedEntry],
    states: Mapping[State, int],
    zone: tzinfo | None,
    names: Sequence[str],
    name: str,
) -> str:
    """What the archive still owes: which, why, since when."""
    total = sum(states.values())
    if not total:
        body = '<p class="lead">Nothing is owed: every recording asked for is here.</p>\n'
    else:
        counts = "".join(
            f"<li><b>{count:,}</b> {text(STATE_TEXT[state])}</li>"
            for state, count in states.items()
        )
        body = f'<ul class="counts">{counts}</ul>\n' + part_links(names, name)
        body += owed_table(some, zone)
    return frame(site, "Owed", f"{crumbs(HOME)}<h1>Owed</h1>\n{body}", at="owed")
