"""HTML from strings: escaping, addresses, sizes and dates in words, the frame of every page."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from html import escape
from urllib.parse import quote

from g2a_archive.browse.write import FOLDER, GENERATOR

MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

# Chromium and Firefox take 'self' for files. What it means for them is not written anywhere, as
# files have no common origin, so their scheme is named too. Nothing inline ever runs.
_LOCAL = "'self' file:"
CSP = (
    f"default-src 'none'; script-src {_LOCAL}; style-src {_LOCAL}; img-src {_LOCAL}; "
    f"media-src {_LOCAL}; base-uri 'none'; form-action 'none'"
)

_NEAR = 10
"""Parts of a list, before and after the current one, that are linked to."""

_PLAIN = re.compile(r"[A-Za-z0-9_./-]+")


@dataclass(frozen=True, slots=True)
class Site:
    """What all pages share."""

    title: str
    zone_name: str = ""


def text(value: object) -> str:
    """Anything as HTML text, also within a quoted attribute."""
    return escape(str(value))


def url(path: str, up: str) -> str:
    """The address of a file of the archive, from a page for which the root is `up`.

    Every segment is encoded, so that no name can be taken for a scheme, a query or a fragment.
    """
    if _PLAIN.fullmatch(path):  # nearly all are
        return up + path
    return up + "/".join(quote(os.fsencode(part), safe="") for part in path.split("/"))


def day_text(day: str, *, weekday: bool = True) -> str:
    """An ISO date in words: `Tuesday, 6 May 2014`."""
    when = date.fromisoformat(day)
    words = f"{when.day} {MONTHS[when.month - 1]} {when.year:04d}"
    return f"{WEEKDAYS[when.weekday()]}, {words}" if weekday else words


def month_text(month: str) -> str:
    """An ISO month in words: `May 2014`."""
    return f"{MONTHS[int(month[5:7]) - 1]} {month[:4]}"


def neighbours(keys: Sequence[str], at: int, words: Callable[[str], str], what: str) -> str:
    """Links from the page of `keys[at]` to the pages before and after it, each in `words`."""
    parts = []
    if at:
        parts.append(
            f'<a rel="prev" href="{text(keys[at - 1])}.html"><span aria-hidden="true">←</span> '
            f"{text(words(keys[at - 1]))}</a>"
        )
    if at + 1 < len(keys):
        parts.append(
            f'<a rel="next" href="{text(keys[at + 1])}.html">{text(words(keys[at + 1]))} '
            f'<span aria-hidden="true">→</span></a>'
        )
    if not parts:
        return ""
    return f'<nav class="turn" aria-label="{text(what)}">{"".join(parts)}</nav>\n'


def part_links(pages: Sequence[str], current: str) -> str:
    """Links to the parts of a long list: the first and last, and those around the current one."""
    if len(pages) < 2:
        return ""
    at = pages.index(current)
    shown = {0, len(pages) - 1, *range(max(0, at - _NEAR), min(len(pages), at + _NEAR + 1))}
    links: list[str] = []
    last = -1
    for n in sorted(shown):
        if n != last + 1:
            links.append("…")
        here = " aria-current=page" if n == at else ""
        links.append(f'<a href="{text(pages[n])}"{here}>{n + 1}</a>')
        last = n
    return f'<nav class="parts" aria-label="Parts of this list">Part {" ".join(links)}</nav>\n'


def crumbs(*steps: tuple[str, str]) -> str:
    """Where a page stands, as links (address, words) from the top."""
    items = "".join(f'<li><a href="{text(to)}">{text(words)}</a></li>' for to, words in steps)
    return f'<nav class="crumbs" aria-label="You are here"><ol>{items}</ol></nav>\n'


_FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{csp}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
{generator}
<title>{title}</title>
<link rel="icon" type="image/svg+xml" href="{base}icon.svg">
<link rel="stylesheet" href="{base}style.css">
<script src="{base}recordings.js" defer></script>
<script src="{base}search.js" defer></script>
</head>
<body data-base="{base}">
<a class="skip" href="#main">Skip to the content</a>
<header class="top">
<a class="brand" href="{home}"><img src="{base}icon.svg" alt="" width="26" height="26">{site}</a>
<nav aria-label="Main"><a href="{home}"{at_home}>Calendar</a><a href="{base}owed.html"{at_owed}>\
Owed</a></nav>
<form class="search" id="search" role="search" hidden>
<label class="quiet" for="q">Recording ID or date</label>
<input id="q" type="search" placeholder="ID or date, e.g. 2014-05-06" autocomplete="off" \
autocapitalize="off" spellcheck="false" aria-describedby="told">
<label class="quiet" for="day">Go to a day</label>
<input id="day" type="date">
<div class="found" id="found" hidden><p id="told" role="status"></p><ul id="hits"></ul></div>
</form>
<noscript><p class="soft">The search needs JavaScript; all else works without.</p></noscript>
</header>
<main id="main" tabindex="-1">
{main}</main>
</body>
</html>
"""


def frame(site: Site, title: str, main: str, *, at: str = "") -> str:
    """A whole page. `at` is "index" for the page at the root, "owed" for the list of those."""
    root = at == "index"
    here = ' aria-current="page"'
    return _FRAME.format(
        csp=text(CSP),
        generator=GENERATOR,
        title=text(site.title if root else f"{title} · {site.title}"),
        base=f"{FOLDER}/" if root else "",
        home="index.html" if root else "../index.html",
        site=text(site.title),
        at_home=here if root else "",
        at_owed=here if at == "owed" else "",
        main=main,
    )
