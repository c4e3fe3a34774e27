"""The calendar: a month as a table, a year as a strip of days, how busy a day was as a shade."""

from __future__ import annotations

from calendar import Calendar
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from math import sqrt

from g2a_archive.browse.database import Day
from g2a_archive.browse.markup import MONTHS, WEEKDAYS, day_text, month_text, text
from g2a_archive.models import pluralize

_WEEKS = Calendar()
SHADES = 4
_CELL, _STEP = 9, 11


def shade(count: int, most: int) -> int:
    """How busy a day was, 1 to 4, against the busiest; 0 for none.

    By the square root, so that one very busy day does not pale all the others.
    """
    return max(1, round(SHADES * sqrt(count / most))) if count else 0


def month_table(
    month: str, days: Mapping[str, Day], most: int, link: Callable[[str], str], *, head: str = ""
) -> str:
    """One month as a table, a row a week, each day with its count and a link.

    `head` is the caption as HTML; the month's name where there is none.
    """
    year, number = int(month[:4]), int(month[5:7])
    weekdays = "".join(
        f'<th scope="col"><abbr title="{name}">{name[:2]}</abbr></th>' for name in WEEKDAYS
    )
    rows = []
    for week in _WEEKS.monthdayscalendar(year, number):
        cells = (_cell(f"{month}-{n:02d}" if n else "", days, most, link) for n in week)
        rows.append(f"<tr>{''.join(cells)}</tr>\n")
    caption = head or text(month_text(month))
    return (
        f'<div class="month"><table><caption>{caption}</caption>\n'
        f"<thead><tr>{weekdays}</tr></thead>\n<tbody>\n{''.join(rows)}</tbody></table></div>\n"
    )


def _cell(day: str, days: Mapping[str, Day], most: int, link: Callable[[str], str]) -> str:
    if not day:
        return "<td></td>"
    number = int(day[8:])
    known = days.get(day)
    if known is None:
        return f"<td><span>{number}</span></td>"
    label = f"{day_text(day)}: {pluralize(known.count, 'recording')}"
    return (
        f'<td><a class="s{shade(known.count, most)}" href="{text(link(day))}" '
        f'aria-label="{text(label)}"><b>{number}</b><small>{known.count:,}</small></a></td>'
    )


def year_strip(year: str, days: Mapping[str, Day], most: int) -> str:
    """A whole year as a small picture, a column a week; one path a shade keeps it small."""
    first = date(int(year), 1, 1)
    paths: list[list[str]] = [[] for _ in range(SHADES + 1)]
    total = date(int(year), 12, 31).timetuple().tm_yday
    for n in range(total):
        known = days.get((first + timedelta(n)).isoformat())
        week, weekday = divmod(n + first.weekday(), 7)
        square = f"M{week * _STEP} {weekday * _STEP}h{_CELL}v{_CELL}h-{_CELL}z"
        paths[shade(known.count, most) if known else 0].append(square)
    width = ((total - 1 + first.weekday()) // 7 + 1) * _STEP - (_STEP - _CELL)
    height = 7 * _STEP - (_STEP - _CELL)
    drawn = "".join(f'<path class="s{n}" d="{"".join(p)}"/>' for n, p in enumerate(paths) if p)
    names = "".join(
        f'<text x="{_week_of(first, month) * _STEP}" y="-4">{MONTHS[month - 1][:3]}</text>'
        for month in range(1, 13)
    )
    return (
        f'<svg class="strip" viewBox="0 -{_STEP} {width} {height + _STEP}" aria-hidden="true">'
        f"{drawn}{names}</svg>"
    )


def _week_of(first: date, month: int) -> int:
    return (first.replace(month=month).timetuple().tm_yday - 1 + first.weekday() + 6) // 7
