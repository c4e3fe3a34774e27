"""Sizes, rates and durations as a person writes them."""

from __future__ import annotations

import math
import re
import time
from datetime import UTC, datetime

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?(?:/s)?", re.IGNORECASE | re.ASCII)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d|w)?", re.IGNORECASE | re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


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


def parse_when(text: str) -> int:
    """Unix time, in whole seconds, of a date, a time or an age such as `30d`.

    Dates are midnight UTC; ages need their unit. Raises `ValueError`.
    """
    try:
        if re.fullmatch(r"\s*[\d.]+\s*[smhdw]\s*", text, re.IGNORECASE | re.ASCII):
            return int(time.time() - parse_duration(text))
        return math.floor(parse_moment(text).timestamp())
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is no date, time or age; "
            "write it like 2014-05-06, 2014-05-06T15:00:00Z or 30d"
        ) from None
