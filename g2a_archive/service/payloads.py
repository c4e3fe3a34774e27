"""Reading what the service answers: hostile until checked, tolerant where it does no harm.

An error may come with status 200. What has not the shape of an answer is unreadable, never an
answer that nothing is there: the one is tried again, the other is a reason to do nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from g2a_archive.archive.layout import parse_start
from g2a_archive.errors import BadResponseError
from g2a_archive.models import ALL_KINDS, MAX_ID, FileKind, Link, Recording, pluralize
from g2a_archive.transport import address

Parsed = tuple[dict[int, Recording | str], list[str]]
"""What each recording's entry says, or why it cannot be used; and warnings."""

_LINK_FIELDS = {
    FileKind.MP4: "recordingUrl",
    FileKind.EVENTS: "eventsUrl",
    FileKind.THUMBNAIL: "thumbnailUrl",
}


_ERROR = re.compile(r"(int_?|has_?|is_?)?(err|fault|exception)", re.IGNORECASE)
"""Names that only an error has: `error`, `errors`, `errorCode`, the vendor's `int_err_code`."""

_REMARK = re.compile(r"messages?|msg|details?|reason|description|title", re.IGNORECASE)
"""Names that an error may have, and an envelope too."""


@dataclass(frozen=True, slots=True)
class ListResult:
    """The list call's answer: IDs in the order of their start, at most 500 of each.

    `odd_transcode` and `odd_download` count entries that are no IDs; they are left out, but a
    full array is full with them. `warnings` says what they are.
    """

    transcode: tuple[int, ...]
    download: tuple[int, ...]
    odd_transcode: int = 0
    odd_download: int = 0
    warnings: tuple[str, ...] = ()


def parse_links(payload: Any, asked: Collection[int], wall: float, monotonic: float) -> Parsed:
    """Read the link call's answer: an array of objects, or an object that wraps one array.

    Entries nobody asked for are passed over; of doubled ones the first usable is taken. Raises
    `BadResponseError` where there is no such array, or where it has entries, but none of a
    recording that was asked for.
    """
    found: dict[int, Recording | str] = {}
    warnings = []
    nameless = 0
    entries = _array(payload)
    for entry in entries:
        id_ = recording_id(entry.get("recordingId")) if isinstance(entry, dict) else None
        if id_ is None:
            nameless += 1
            continue
        if id_ not in asked or _has_video(found.get(id_)):
            continue
        try:
            recording = _recording(id_, entry, wall, monotonic)
        except ValueError as error:
            found.setdefault(id_, str(error))
            continue
        found[id_] = recording
        if recording.size is None and entry.get("recordingSize") not in (None, ""):
            warnings.append(
                f"recording {id_}: recordingSize is {_shown(entry['recordingSize'])}, which is no "
                "size; the MP4 is not held against it"
            )
    if entries and not found:
        raise BadResponseError("link call: the answer names none of the recordings asked for")
    if nameless:
        many = pluralize(nameless, "entry")
        warnings.append(f"link call: {many} of the answer without a recording's ID")
    return found, warnings


def _has_video(entry: Recording | str | None) -> bool:
    """Whether an entry is of use: without a link to its MP4, its double may be."""
    return isinstance(entry, Recording) and FileKind.MP4 in entry.links


def parse_list(payload: Any) -> ListResult:
    """Read the list call's answer. Raises `BadResponseError` where it is not as described.

    An entry that is no recording ID is left out with a warning, unless there is no other. With a
    message, two empty arrays may be an error's.
    """
    if not isinstance(payload, dict):
        raise BadResponseError("list call: the answer is not an object")
    _refuse_error("list call", payload)
    if payload.get("readyForTranscode") is payload.get("readyForDownload") is None:
        raise BadResponseError("list call: the answer holds no list of recordings")
    transcode, odd_transcode = _ids(payload, "readyForTranscode")
    download, odd_download = _ids(payload, "readyForDownload")
    odd = {"readyForTranscode": odd_transcode, "readyForDownload": odd_download}
    if any(odd.values()) and not (transcode or download):
        raise BadResponseError("list call: the answer holds no recording ID")
    if not (transcode or download):
        _refuse_remark("list call", payload)
    warnings = tuple(
        f"list call: {name} holds {_entries(len(some))}, left out: "
        + ", ".join(map(_shown, some[:3]))
        + (", …" if len(some) > 3 else "")
        for name, some in odd.items()
        if some
    )
    return ListResult(transcode, download, len(odd_transcode), len(odd_download), warnings)


def parse_empty(name: str, payload: Any) -> None:
    """Read the answer of a call that answers nothing: `BadResponseError` where it is an error."""
    for entry in payload if isinstance(payload, list) else [payload]:
        if isinstance(entry, dict):
            _refuse_error(name, entry)
            _refuse_remark(name, entry)


def _refuse_error(name: str, payload: Mapping[str, Any]) -> None:
    """Raise `BadResponseError` for an error that came with status 200."""
    if any(_ERROR.match(key) and value for key, value in payload.items()):
        raise BadResponseError(f"{name}: the answer is an error, though its status is not")


def _refuse_remark(name: str, payload: Mapping[str, Any]) -> None:
    """Raise `BadResponseError` where something is said that an error may say."""
    if any(_REMARK.fullmatch(key) and value for key, value in payload.items()):
        raise BadResponseError(f"{name}: the answer may be an error, though its status is not")


def _ids(payload: Mapping[str, Any], name: str) -> tuple[tuple[int, ...], Sequence[Any]]:
    """The recording IDs of one array, and its entries that are none."""
    values = payload.get(name)
    if values is None:
        return (), ()
    if not isinstance(values, list):
        raise BadResponseError(f"list call: {name} is not an array")
    ids = [recording_id(value) for value in values]
    odd = [value for value, id_ in zip(values, ids, strict=True) if id_ is None]
    return tuple(id_ for id_ in ids if id_ is not None), odd


def _entries(count: int) -> str:
    return (
        "1 entry that is no recording ID"
        if count == 1
        else f"{count} entries that are no recording IDs"
    )


def _shown(value: object) -> str:
    """A value for a message: as JSON where that is short and can hold no secret."""
    if isinstance(value, str):
        if not re.fullmatch(r"[0-9+.,eE -]*", value):
            return "some text"
        return f'"{value}"' if len(value) <= 24 else f"a text of {len(value)} digits"
    if isinstance(value, list | dict):
        return "an array" if isinstance(value, list) else "an object"
    text = json.dumps(value)
    return text if len(text) <= 24 else f"a number of {len(text)} digits"


def recording_id(value: object) -> int | None:
    """A recording ID that came as a number or a string; None for anything else."""
    number = _whole(value) or 0
    return number if 0 < number <= MAX_ID else None


def _whole(value: object) -> int | None:
    """A whole number from 0 on that came as a number or a string."""
    if isinstance(value, str):
        text = value.strip()
        return int(text) if text.isascii() and text.isdigit() and len(text) < 30 else None
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    return None


def _array(payload: Any) -> list[Any]:
    """The array that the link call's answer is, or wraps."""
    if isinstance(payload, dict):
        _refuse_error("link call", payload)
        remarks = {key for key in payload if _REMARK.fullmatch(key) or _ERROR.match(key)}
        arrays = [v for key, v in payload.items() if isinstance(v, list) and key not in remarks]
        if len(arrays) == 1 and (arrays[0] or not any(payload[key] for key in remarks)):
            payload = arrays[0]
    if not isinstance(payload, list):
        raise BadResponseError("link call: the answer is not a list of recordings")
    return payload


def _recording(id_: int, entry: Mapping[str, Any], wall: float, monotonic: float) -> Recording:
    start_text = entry.get("recordingStartTime")
    start = parse_start(start_text)
    urls: dict[FileKind, Link] = {}
    problems: dict[FileKind, str] = {}
    for kind in ALL_KINDS:
        value = entry.get(_LINK_FIELDS[kind])
        if value is None or value == "":
            continue
        try:
            if not isinstance(value, str):
                raise ValueError("it is no text")
            address.validate_url(value)
        except ValueError as error:
            problems[kind] = f"the link cannot be used: {error}"
        else:
            urls[kind] = Link(value, wall, monotonic)
    return Recording(
        id=id_,
        start=start,
        start_text=str(start_text),
        size=_size(entry.get("recordingSize")),
        links=urls,
        link_problems=problems,
    )


def _size(value: object) -> int | None:
    """`recordingSize` in bytes: a string by the vendor's description, a number tolerated.

    None for what is no size, such as a negative number or one that no file can have.
    """
    number = _whole(value)
    return number if number is not None and number < 10**18 else None
