"""Static pages to find and watch the archive's recordings in a browser, from `file://`.

`write_site` takes the recordings as an iterable, in any order, and writes `index.html` at the
archive's root and everything else in `browse/`, each file only where its content has changed.
The pages need no server and no network; all but the search works without JavaScript.
"""

from __future__ import annotations

from g2a_archive.browse.entries import Entry, Owed
from g2a_archive.browse.site import SiteResult, open_site, write_site
from g2a_archive.browse.write import FOLDER

__all__ = ["FOLDER", "Entry", "Owed", "SiteResult", "open_site", "write_site"]
