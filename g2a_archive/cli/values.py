"""Reading the options' values; `ValueError` or `InputError` says what is wrong with one."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TypeVar

from g2a_archive.archive import layout
from g2a_archive.models import ALL_KINDS, ID_PLACES, Age, FileKind, ListState, Shard, iso
from g2a_archive.transport import address

_T = TypeVar("_T")

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?(?:/s)?", re.IGNORECASE | re.ASCII)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d|w)?", re.IGNORECASE | re.ASCII)
_MOST_SHARDS = 10_000
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def whole(least: int, most: int) -> Callable[[str], int]:
    """A reader of whole numbers within these bounds."""

    def read(value: str) -> int:
        # int() would also take 1_0 for 10, and other scripts' digits.
        plain = re.fullmatch(r"\s*[0-9]{1,9}\s*", value)
        number = int(value) if plain else least - 1
        if not least <= number <= most:
            raise ValueError(f"{value!r} is not a whole number from {least} to {most}")
        return number

    return read


def timeout(value: str) -> float:
    """Seconds, a tenth to a day."""
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 86400:
        raise ValueError(f"{value!r} is not a number of seconds from 0.1 to 86400")
    return seconds


def text(value: str) -> str:
    """Any text, such as a path; an empty one is a variable that a script forgot to set."""
    _set(value)
    if "\0" in value:
        raise ValueError("it must not hold a NUL")
    _nameable(value)
    return value


def path(value: str) -> str:
    """A file or directory; what begins with `~`, as shells read it, which do so for some only."""
    value = text(value)
    found = os.path.expanduser(value)
    if value.partition("/")[0] == found.partition("/")[0] == "~":
        raise ValueError(f"{value!r}: this user has no home directory; write the path in full")
    return found


def _set(value: str) -> None:
    if not value:
        raise ValueError("it must not be empty")


def _nameable(value: str) -> None:
    """Refuse what no file can be called by in this locale, as it is not one of UTF-8."""
    try:
        os.fsencode(value)
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{value!r} cannot be written in this locale ({error.encoding}); set LC_ALL=C.UTF-8"
        ) from None


def line(value: str) -> str:
    """Some words on one line, such as a person's name."""
    _set(value)
    if not value.isprintable() or not value.strip():
        raise ValueError("it must be some words on one line")
    return value.strip()


def one_of(words: Mapping[str, _T], noun: str) -> Callable[[str], _T]:
    """A reader of one of some words, each of which stands for something."""

    def read(value: str) -> _T:
        if value not in words:
            *others, last = words
            raise ValueError(f"{value!r} is no {noun}; there are {', '.join(others)} and {last}")
        return words[value]

    return read


_kind = one_of({kind.value: kind for kind in FileKind}, "kind of file")

id_place = one_of({place: place for place in ID_PLACES}, "such place")
"""Where a call that changes something has its IDs."""

SESSION_TYPES = {"attended": 0, "unattended": 1}
"""The vendor's numbers for the types of session."""

session_type = one_of(SESSION_TYPES, "type of session")
"""The vendor's number for a type of session."""

list_state = one_of({state.value: state for state in ListState}, "state")
"""Which of the list call's arrays."""


def kinds(value: str) -> tuple[FileKind, ...]:
    """Kinds of file, with commas between them."""
    wanted = {_kind(part.strip()) for part in value.split(",")}
    return tuple(kind for kind in ALL_KINDS if kind in wanted)


def shard(value: str) -> Shard:
    """A part of all recordings, `2/8`."""
    match = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*", value, re.ASCII)
    if not match:
        raise ValueError(f"{value!r} is no shard; write it like 2/8, the second of eight parts")
    number, count = int(match[1]), int(match[2])
    if not 1 <= count <= _MOST_SHARDS:
        raise ValueError(f"{value!r}: the number of parts must be from 1 to {_MOST_SHARDS:,}")
    if not 1 <= number <= count:
        raise ValueError(
            f"{value!r}: parts are counted from 1, so there are 1/{count} to {count}/{count}"
        )
    return Shard(number, count)


def layout_text(value: str) -> str:
    """A layout that can name directories."""
    layout.check_layout(value)
    _nameable(value)
    return value


def zone_name(value: str) -> str:
    """The name of a time zone that there is."""
    layout.zone(value)
    return value


def service_url(value: str) -> str:
    """The base address of the service."""
    try:
        parts = address.validate_url(value)
    except ValueError as error:
        raise ValueError(f"this address cannot be used: {error}") from None
    if parts.query or parts.fragment:
        raise ValueError("the address must not have a query or a fragment")
    return value


def attribute(value: str) -> str:
    """The name of a query attribute."""
    if not value or not value.isascii() or not value.replace("_", "").replace("-", "").isalnum():
        raise ValueError(f"{value!r} is no name of a query attribute")
    return value


def key(value: str) -> str:
    """An account, user or company key as the service has them."""
    if not re.fullmatch(r"[A-Za-z0-9_.:-]{1,100}", value):
        raise ValueError(f"{value!r} is no key; it is a number, or letters and digits")
    return value


def parse_size(text: str) -> int:
    """Bytes of `500K`, `10M`, `1.5G` (1024-based) or a plain number. Raises `ValueError`."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is no size; write it like 500K, 10M or 1.5G")
    number, unit = match.groups()
    size = float(number) * 1024 ** " kmgt".index(unit.lower() or " ")
    if size >= 2**63:
        raise ValueError(f"{text!r} is too large")
    return int(size)


def parse_rate(text: str) -> int:
    """Bytes a second, written as a size is; 1 at least. Raises `ValueError`."""
    try:
        rate = parse_size(text)
    except ValueError:
        rate = 0
    if rate < 1:
        raise ValueError(f"{text!r} is no rate; write it like 500K, 10M or 1.5G (bytes a second)")
    return rate


def parse_duration(text: str) -> float:
    """Seconds of `45s`, `90m`, `6h`, `2d`, `1w` or a plain number. Raises `ValueError`."""
    match = _DURATION.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is no duration; write it like 45s, 90m, 6h or 2d")
    seconds = float(match.group(1)) * _SECONDS[(match.group(2) or "s").lower()]
    if not math.isfinite(seconds) or seconds > 100 * 365 * 86400:
        raise ValueError(f"{text!r} is too long")
    return seconds


def parse_share(text: str) -> float:
    """A part of all: `5%` is 0.05, `1` is 1%, above 0% up to 100%. Raises `ValueError`."""
    number = text.strip().removesuffix("%").strip()
    try:
        share = float(number) / 100
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise ValueError(f"{text!r} is no part of all; write it like 5%")
    return share


def parse_moment(text: str) -> datetime:
    """A date or a time (ISO 8601), in UTC where it has no offset. Raises `ValueError`."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"{text!r} is no date; write it like 2014-05-06") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def parse_when(text: str) -> int | Age:
    """Unix time, in whole seconds, of a date or a time; or an age such as `30d`.

    Dates are midnight UTC; ages need their unit. Raises `ValueError`.
    """
    try:
        if re.fullmatch(r"\s*[\d.]+\s*[smhdw]\s*", text, re.IGNORECASE | re.ASCII):
            return Age(parse_duration(text))
        seconds = math.floor(parse_moment(text).timestamp())
        iso(seconds - 1), iso(seconds)  # the service is asked from the second before
        return seconds
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is no date, time or age; "
            "write it like 2014-05-06, 2014-05-06T15:00:00Z or 30d"
        ) from None
