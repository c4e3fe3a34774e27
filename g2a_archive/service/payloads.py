"""Reading what the service answers: hostile until checked, tolerant where it does no harm."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from g2a_archive.archive.layout import parse_start
from g2a_archive.errors import BadAnswerError
from g2a_archive.models import ALL_KINDS, MAX_ID, FileKind, Link, Recording
from g2a_archive.transport import address

Parsed = tuple[dict[int, Recording | str], list[str]]
"""What each recording's entry says, or why it cannot be used; and warnings."""

_LINK_FIELDS = {
    FileKind.MP4: "recordingUrl",
    FileKind.EVENTS: "eventsUrl",
    FileKind.THUMBNAIL: "thumbnailUrl",
}


@dataclass(frozen=True, slots=True)
class Ready:
    """The list call's answer: IDs in the order of their start, at most 500 of each."""

    transcode: tuple[int, ...]
    download: tuple[int, ...]


def links(payload: Any, asked: Collection[int], wall: float, monotonic: float) -> Parsed:
    """Read the link call's answer: an array of objects, or an object that wraps one array.

    Entries nobody asked for are passed over; of doubled ones the first usable is taken. Raises
    `BadAnswerError` where there is no such array.
    """
    found: dict[int, Recording | str] = {}
    warnings = []
    nameless = 0
    for entry in _array(payload):
        id_ = recording_id(entry.get("recordingId")) if isinstance(entry, dict) else None
        if id_ is None:
            nameless += 1
            continue
        if id_ not in asked or isinstance(found.get(id_), Recording):
            continue
        try:
            recording = _recording(id_, entry, wall, monotonic)
        except ValueError as error:
            found[id_] = str(error)
            continue
        found[id_] = recording
        if recording.size is None and entry.get("recordingSize") not in (None, ""):
            warnings.append(f"recording {id_}: recordingSize is no number and is not used")
    if nameless:
        warnings.append(f"link call: {nameless} entries of the answer name no recording")
    return found, warnings


def ready(payload: Any) -> Ready:
    """Read the list call's answer. Raises `BadAnswerError` where it is not as described."""
    if not isinstance(payload, dict):
        raise BadAnswerError("list call: the answer is not an object")
    lists = []
    for name in ("readyForTranscode", "readyForDownload"):
        values = payload.get(name)
        if values is None:
            values = []
        if not isinstance(values, list):
            raise BadAnswerError(f"list call: {name} is not an array")
        ids = [recording_id(value) for value in values]
        if None in ids:
            raise BadAnswerError(f"list call: {name} holds something that is no recording ID")
        lists.append(tuple(id_ for id_ in ids if id_ is not None))
    return Ready(*lists)


def recording_id(value: object) -> int | None:
    """A recording ID that came as a number or a string; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
        value = int(value.strip()) if len(value.strip()) < 30 else None
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    if isinstance(value, int) and 0 < value <= MAX_ID:
        return value
    return None


def _array(payload: Any) -> list[Any]:
    if isinstance(payload, dict):
        arrays = [value for value in payload.values() if isinstance(value, list)]
        if len(arrays) == 1:
            payload = arrays[0]
    if not isinstance(payload, list):
        raise BadAnswerError("link call: the answer is not a list of recordings")
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
            parts = address.checked(value)
        except ValueError as error:
            problems[kind] = f"the link cannot be used: {error}"
        else:
            urls[kind] = Link(parts, wall, monotonic)
    return Recording(
        id=id_,
        start=start,
        start_text=str(start_text),
        size=_size(entry.get("recordingSize")),
        links=urls,
        link_problems=problems,
    )


def _size(value: object) -> int | None:
    """`recordingSize` in bytes: a string by the vendor's description, a number tolerated."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        text = value.strip()
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    return value if isinstance(value, int) and 0 <= value < 2**63 else None
