"""How long a server asks to be left alone: the header `Retry-After` (RFC 9110)."""

from __future__ import annotations

import time
from collections.abc import Mapping


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that `Retry-After` names, as a number or a date; None where it names none.

    A date counts from the answer's own `Date`; without it, from this machine's clock.
    """
    value = headers.get("Retry-After")
    if not value:
        return None
    if value.isascii() and value.strip().isdigit():
        return float(value.strip()[:9])
    from email.utils import parsedate_to_datetime  # takes as long to load as a small archive

    date = headers.get("Date")
    try:
        now = parsedate_to_datetime(date).timestamp() if date else time.time()
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, OverflowError):
        return None
