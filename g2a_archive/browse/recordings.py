"""A recording as a list item, and the lists of owed ones."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import tzinfo

from g2a_archive.browse.entries import CalendarEntry, OwedEntry, local_time
from g2a_archive.browse.markup import text, url
from g2a_archive.models import FileKind, State, StoredFile, pluralize, size_text

STATE_TEXT = {
    State.ARCHIVED: "archived",
    State.QUEUED: "asked for, not settled yet",
    State.UNAVAILABLE: "not available from the service yet",
    State.REFUSED: "refused by the service",
    State.FAILED: "failed",
    State.DAMAGED: "damaged in the archive",
    State.LOST: "given up",
    State.REMOVED: "removed",
}
_FILE_TEXT = {FileKind.MP4: "Video", FileKind.EVENTS: "Events", FileKind.THUMBNAIL: "Thumbnail"}


def recording(one: CalendarEntry, up: str) -> str:
    """One recording as a list item; `up` leads from the page to the archive's root."""
    start = f'<time datetime="{text(one.iso)}">{text(one.clock)}</time>' if one.iso else ""
    zone = f' <span class="zone">{text(one.zone)}</span>' if one.iso else "Time not known"
    return (
        f'<li class="rec" id="r{one.id}">{_picture(one, up)}'
        f'<div><h3>{start}{zone} <span class="id">{one.id}</span></h3>'
        f"{_state(one)}{_links(one, up)}{_files(one)}</div></li>\n"
    )


def card(one: CalendarEntry, up: str, page: str) -> str:
    """One of the newest recordings, small, with a link to its place in the calendar."""
    return (
        f'<li class="card">{_picture(one, up)}'
        f'<a href="{text(page)}#r{one.id}">{text(one.day)} {text(one.clock[:5])}</a>'
        f'<span class="id">{one.id}</span></li>\n'
    )


def _picture(one: CalendarEntry, up: str) -> str:
    mp4, thumbnail = one.file(FileKind.MP4), one.file(FileKind.THUMBNAIL)
    words = f"Play recording {one.id}" + (f" of {one.day} {one.clock}" if one.clock else "")
    if thumbnail is None:
        image = '<span class="blank"></span>'
    else:
        # The link's label names it; the picture itself adds nothing to hear.
        source = text(url(thumbnail.path, up))
        image = f'<img src="{source}" alt="" loading="lazy" width="160" height="100">'
    if mp4 is None:
        return f'<span class="shot">{image}</span>'
    name = f"{one.day} {one.clock} {one.zone}".strip()
    return (
        f'<a class="shot play" href="{text(url(mp4.path, up))}" data-id="{one.id}" '
        f'data-name="{text(name)}" aria-label="{text(words)}">{image}</a>'
    )


def _state(one: CalendarEntry) -> str:
    if one.state is State.ARCHIVED:
        return ""
    since = f" since {one.since}" if one.since else ""
    reason = f": {one.reason}" if one.reason else ""
    words = f"{STATE_TEXT[one.state].capitalize()}{since}{reason}"
    return f'<p class="alarm">{text(words)}</p>'


def _links(one: CalendarEntry, up: str) -> str:
    parts = [
        f'<a href="{text(url(file.path, up))}">{_FILE_TEXT[file.kind]}</a> '
        f"<span>{size_text(file.size)}</span>"
        for file in one.files
        if file.kind is not FileKind.THUMBNAIL
    ]
    return f'<p class="links">{" ".join(parts) or "No video or events in the archive"}</p>'


def _files(one: CalendarEntry) -> str:
    if not one.files:
        return ""
    rows = "".join(map(_checksum, one.files))
    return (
        f'<details class="sums"><summary>Checksums <span class="quiet">of recording {one.id}'
        f"</span></summary><dl>{rows}</dl></details>"
    )


def _checksum(file: StoredFile) -> str:
    size = pluralize(file.size, "byte")
    return (
        f"<dt>{_FILE_TEXT[file.kind]} <span>{text(file.path)}, {size}, SHA-256</span>"
        f"</dt><dd><code>{text(file.sha256)}</code></dd>"
    )


def owed_table(owed: Iterable[OwedEntry], zone: tzinfo | None) -> str:
    """Owed recordings as a table: which, why, since when."""
    rows = []
    for one in owed:
        tried = pluralize(one.tries, "try") if one.tries else "not tried"
        rows.append(
            f'<tr id="o{one.id}"><th scope="row" class="id">{one.id}</th>'
            f"<td>{text(STATE_TEXT[one.state])}</td>"
            f"<td>{text(one.reason or '')}</td><td>{_when(one.since, zone)}</td>"
            f"<td>{tried}{_last(one, zone)}</td></tr>\n"
        )
    heads = "".join(
        f'<th scope="col">{head}</th>'
        for head in ("Recording", "State", "Reason", "Owed since", "Tried")
    )
    return (
        '<div class="wide" role="region" tabindex="0" aria-label="Owed recordings">'
        '<table class="owed"><caption class="quiet">Owed recordings</caption>\n'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{''.join(rows)}</tbody></table></div>\n"
    )


def _when(value: str | None, zone: tzinfo | None) -> str:
    when = local_time(value, zone)
    if when is None:
        return text(value or "")
    iso = when.isoformat(timespec="seconds")
    return f'<time datetime="{iso}">{when.strftime("%Y-%m-%d")}</time>'


def _last(one: OwedEntry, zone: tzinfo | None) -> str:
    return f", last {_when(one.last_try, zone)}" if one.last_try else ""
