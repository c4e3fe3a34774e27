"""From a recording to its directory and file names. Nothing else ever makes a path.

Names come from the numeric ID alone; of what the service sends, only the date becomes part of
a path, and only through `strftime`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, tzinfo
from functools import cache, lru_cache
from pathlib import Path

from g2a_archive.archive.content import image_extension
from g2a_archive.errors import InputError
from g2a_archive.models import MAX_ID, FileKind

ARCHIVE_DIR = ".g2a-archive"
THUMBNAIL_EXTENSIONS = (".jpg", ".png", ".gif", ".webp")
_KINDS = {
    "mp4": FileKind.MP4,
    "events": FileKind.EVENTS,
    **{extension[1:]: FileKind.THUMBNAIL for extension in THUMBNAIL_EXTENSIONS},
}
FILE_NAME = re.compile(rf"([1-9][0-9]*)\.({'|'.join(_KINDS)})", re.ASCII)
"""A final file name: the recording's ID and an extension."""

_OURS = re.compile(rf"SHA256SUMS|{FILE_NAME.pattern}\.kept-[0-9]+", re.ASCII | re.IGNORECASE)
_OURS_AT_TOP = ("browse", "index.html")

_SYSTEM_FILES = frozenset(
    {
        # Synology, QNAP, NetApp
        *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "@__thumb"),
        *("#recycle", "#snapshot", "~snapshot", ".snapshot", ".snapshots"),
        *("@sharebin", "@appstore", "@synofinder-log", "@quarantine"),
        # Windows
        *("thumbs.db", "thumbs.db:encryptable", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"),
        *("$recycle.bin", "recycler", "system volume information", "found.000", "found.001"),
        *("wpsettings.dat", "folder.jpg", "albumartsmall.jpg", "autorun.inf"),
        # macOS
        *(".ds_store", ".spotlight-v100", ".fseventsd", ".trashes", ".temporaryitems", ".apdisk"),
        *("icon\r", "network trash folder", "temporary items"),
        # Linux, and file systems
        *(".directory", "lost+found", "aquota.user", "aquota.group", "quota.user", "quota.group"),
    }
)

_FULL_DATE = re.compile(r"\d{4}-?(\d{2}-?\d{2}|W\d{2}-?\d|\d{3})([T ]|$)", re.IGNORECASE)
_LEAP_SECOND = re.compile(r"((?<=:[0-5][0-9]:)|(?<=[Tt][0-2][0-9][0-5][0-9]))60(?![0-9])")
_USUAL = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3])(?::[0-5][0-9]){2}"
    r"(?:\.[0-9]{1,6})?(?:Z|[+-][0-9]{2}:[0-9]{2})?"
)
_SAMPLES = (
    datetime(2014, 5, 6, 3, 4, 5, tzinfo=UTC),
    datetime(2023, 12, 31, 23, 59, 59, tzinfo=UTC),
)


def option_of(catalog: Path) -> str:
    """The option that names the place of a catalogue."""
    return "--dest" if catalog.parent.name == ARCHIVE_DIR else "--catalog"


def is_of_catalog(path: str, catalog: str) -> bool:
    """Whether a file is a catalogue, or its journal, lock or lease, or the older one beside it.

    Both are real paths.
    """
    rest = path.removeprefix(catalog)
    return path.startswith(catalog) and (
        rest in ("", "-journal", ".lock", ".lock.lease") or rest.startswith(".schema-")
    )


def parse_start(text: object) -> datetime:
    """Read a `recordingStartTime`: ISO 8601 with a full date; without an offset it is UTC.

    The letters may be small ones (RFC 3339). A leap second is the one before it, so that it stays
    in its day. Raises `ValueError`, with a reason to show, where it is no such time.
    """
    if not isinstance(text, str):
        raise ValueError("recordingStartTime is missing or is no text")
    if not _FULL_DATE.match(text):
        raise ValueError("recordingStartTime is not an ISO 8601 date and time")
    if not _USUAL.fullmatch(text):
        text = _LEAP_SECOND.sub("59", text)
    try:
        # As nearly all are; for what else ISO 8601 knows there is a library, which takes longer.
        start = datetime.fromisoformat(text) if _USUAL.fullmatch(text) else _rarer_iso(text)
    except (ValueError, OverflowError, ArithmeticError) as error:
        raise ValueError("recordingStartTime is not an ISO 8601 date and time") from error
    return start if start.tzinfo else start.replace(tzinfo=UTC)


def _rarer_iso(text: str) -> datetime:
    from dateutil.parser import isoparse

    return isoparse(text.upper())


@cache
def zone(name: str | None) -> tzinfo | None:
    """The time zone called `name` in the IANA database; `InputError` if there is none.

    None for None: each time as it is written.
    """
    if name is None:
        return None
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    # gettz() would also read any file and take any POSIX rule (EST5, UTC+3, Foo5, each of which
    # means something that few expect): only names are wanted here.
    found: tzinfo | None = None
    # Each of both makes a path of it, and one that is too long is an error of the disk there.
    if len(name) < 256 and re.fullmatch(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*", name):
        try:
            # Before dateutil 4, gettz() has no summers after 2037, and of a system that keeps
            # its zones without doubles ("slim") it makes UTC.
            found = ZoneInfo(name)
        except (ZoneInfoNotFoundError, OSError, ValueError):
            from dateutil import tz  # which has zones of its own, where the system has none

            found = tz.gettz(name)
            if isinstance(found, tz.tzstr | tz.tzlocal):
                found = None
    if found is None:
        raise InputError(
            f"there is no time zone {name!r}", hint="use a name such as Europe/Berlin or UTC"
        )
    return found


def check_layout(layout: str) -> None:
    """Refuse, with `InputError`, a layout that could not name a directory in the archive."""
    for sample in _SAMPLES:
        try:
            _directory(layout, sample)
        except ValueError as error:
            raise InputError(
                f"the layout {layout!r} cannot be used: {error}",
                hint="use strftime codes and slashes, such as %Y/%m/%d",
            ) from error


def directory_for(start: datetime, layout: str, timezone: tzinfo | None) -> str:
    """The directory of a recording, relative to the archive, with `/` between its parts.

    Raises `ValueError` where the date is out of range for the zone or the layout.
    """
    try:
        local = start.astimezone(timezone) if timezone else start
    except (OverflowError, ValueError) as error:
        raise ValueError("recordingStartTime is out of range for the time zone") from error
    return _directory(layout, local)


def _directory(layout: str, when: datetime) -> str:
    # Some C libraries write the year 1 as 1, others as 0001.
    codes = {"%Y": f"{when.year:04}", "%F": f"{when.year:04}-%m-%d"}
    layout = re.sub("%.", lambda code: codes.get(code[0], code[0]), layout)
    # Of a code that it does not know, musl makes nothing at all.
    return _checked(when.strftime(layout) or layout)


@lru_cache(maxsize=256)
def _checked(directory: str) -> str:
    for place, part in enumerate(checked_directory(directory).split("/")):
        if is_ignored(part, top=not place):
            raise ValueError(f"what is called {part} is passed over when the archive is checked")
    return directory


def checked_directory(text: str) -> str:
    """A directory's name; `ValueError` where it must not be one."""
    parts = text.split("/")
    if not text.strip():
        raise ValueError("it is empty")
    if text.startswith("/"):
        raise ValueError("it begins with a slash")
    if "%" in text:
        raise ValueError("it has a code that strftime does not know")
    if any(ord(c) < 32 or c in "\x7f\\" or 0xD800 <= ord(c) < 0xE000 for c in text):
        raise ValueError("it has a character that no directory name should have")
    if any(not p or p != p.strip() for p in parts):
        raise ValueError("a directory name is empty or begins or ends with a space")
    if any(p.startswith(".") for p in parts):
        raise ValueError("a directory name begins with a dot")
    if parts[0] == "browse":
        raise ValueError("`browse` is the name of the pages that g2a-archive writes")
    if any(len(p.encode()) > 200 for p in parts) or len(text.encode()) > 1000:
        raise ValueError("it is too long")
    return text


def is_directory(text: str) -> bool:
    """Whether recordings' files can be in a directory of this name: never at the archive's top."""
    try:
        return bool(checked_directory(text))
    except ValueError:
        return False


def file_names(recording: int, kind: FileKind) -> tuple[str, ...]:
    """Every name that a recording's file of this kind can have; a thumbnail has one of several."""
    if kind is FileKind.THUMBNAIL:
        return tuple(f"{recording}{extension}" for extension in THUMBNAIL_EXTENSIONS)
    return (f"{recording}.{kind}",)


def parse_name(name: str) -> tuple[int, FileKind] | None:
    """The recording and kind that a final file name stands for; None for any other name."""
    match = FILE_NAME.fullmatch(name)
    if match is None or len(match[1]) > 19 or int(match[1]) > MAX_ID:
        return None
    return int(match[1]), _KINDS[match[2]]


def is_system_file(name: str) -> bool:
    """Whether a NAS, a desktop or a file system makes files or directories of this name."""
    lower = name.lower()
    return (
        lower in _SYSTEM_FILES
        or lower.startswith(
            ("._", ".trash-", ".nfs", ".fuse_hidden", ".smbdelete", "~$", "albumart_{")
        )
        or lower.endswith((":zone.identifier", "@synoeastream", "@synoresource"))
    )


def is_ignored(name: str, *, top: bool) -> bool:
    """Whether what is called so is no recording's: the program's own, a system file, or hidden.

    `top`: directly in the archive, where the pages of `browse` lie.
    """
    if _OURS.fullmatch(name) or is_system_file(name) or name.startswith("."):
        return True
    return top and name.lower() in _OURS_AT_TOP


def file_name(recording: int, kind: FileKind, head: bytes) -> str:
    """The final name of a file whose content begins with `head` (12 bytes or more tell)."""
    if kind is FileKind.THUMBNAIL:
        return f"{recording}{image_extension(head) or '.jpg'}"
    return f"{recording}.{kind}"
