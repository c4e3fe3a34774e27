"""How long a server asks to be left alone."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from g2a_archive.transport.retry_after import retry_after


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("0", 0.0),
        ("7", 7.0),
        (" 12 ", 12.0),
        ("99999999999999999999", 999_999_999.0),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("\u0663", None),
        ("\u00b2", None),
        ("Tue, 06 May 1014 07:08:09 GMT", 0.0),
        ("Tue, 06 May 2014 07:08:09 GMT", 0.0),
        ("Tue, 99 May 2014 07:08:09 GMT", None),
        ("Tue, 06 May 2014 07:08:09 +999999999999999", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after({} if value is None else {"Retry-After": value}) == seconds


def test_retry_after_as_a_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_400_000_000.0)
    assert retry_after({"Retry-After": formatdate(1_400_000_090, usegmt=True)}) == 90.0


def test_retry_after_as_a_date_counts_from_the_answer_s_own() -> None:
    """Whatever this machine takes the time for."""
    now = 1_400_000_000
    date = formatdate(now, usegmt=True)
    later = formatdate(now + 90, usegmt=True)
    assert retry_after({"Retry-After": later, "Date": date}) == 90.0
    assert retry_after({"Retry-After": "7", "Date": date}) == 7.0
    assert retry_after({"Retry-After": date, "Date": "soon"}) is None
