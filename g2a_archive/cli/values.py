"""Reading the options' values; `ValueError` or `InputError` says what is wrong with one."""

from __future__ import annotations

import re
from collections.abc import Callable

from g2a_archive.archive import layout
from g2a_archive.models import ALL_KINDS, FileKind, ListState
from g2a_archive.transport import address


def whole(least: int, most: int) -> Callable[[str], int]:
    """A reader of whole numbers within these bounds."""

    def read(value: str) -> int:
        try:
            number = int(value)
        except ValueError:
            number = least - 1
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
    if not value:
        raise ValueError("it must not be empty")
    if "\0" in value:
        raise ValueError("it must not hold a NUL")
    return value


def kinds(value: str) -> tuple[FileKind, ...]:
    """Kinds of file, with commas between them."""
    wanted = [part.strip() for part in value.split(",")]
    for part in wanted:
        if part not in [*FileKind]:
            raise ValueError(f"{part!r} is no kind of file; there are mp4, events and thumbnail")
    return tuple(kind for kind in ALL_KINDS if kind in wanted)


def layout_text(value: str) -> str:
    """A layout that can name directories."""
    layout.check_layout(value)
    return value


def zone_name(value: str) -> str:
    """The name of a time zone that there is."""
    layout.zone(value)
    return value


def service_url(value: str) -> str:
    """The base address of the service."""
    try:
        parts = address.checked(value)
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


def session_type(value: str) -> int:
    """The vendor's number for a type of session."""
    types = {"attended": 0, "unattended": 1}
    if value not in types:
        raise ValueError(f"{value!r} is no type of session; there are attended and unattended")
    return types[value]


def list_state(value: str) -> ListState:
    """Which of the list call's arrays."""
    if value not in [*ListState]:
        raise ValueError(f"{value!r} is no state; there are download, transcode and all")
    return ListState(value)
