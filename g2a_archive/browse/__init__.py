"""Static pages to find and watch the archive's recordings in a browser, from `file://`.

`update_site` asks a `PageSource` for the recordings, and writes `index.html` at the archive's root
and everything else in `browse/`. What it kept of the last run there tells which pages have changed.
`write_site` does the same once, for some recordings in memory.
The pages need no server and no network; all but the search works without JavaScript.
"""

from __future__ import annotations

from g2a_archive.browse.entries import Entry, OwedEntry, PageSource
from g2a_archive.browse.site import SiteResult, open_site, update_site, write_site
from g2a_archive.browse.write import FOLDER

__all__ = [
    "FOLDER",
    "Entry",
    "OwedEntry",
    "PageSource",
    "SiteResult",
    "open_site",
    "update_site",
    "write_site",
]
