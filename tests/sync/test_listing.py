"""Finding recordings: windows are planned so that nothing is missed, with few calls."""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from email.utils import formatdate
from functools import cache, partial
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import LONG

from g2a_archive.cli.values import parse_when
from g2a_archive.errors import BadRequestError
from g2a_archive.models import Age, ListState, Selection, iso
from g2a_archive.service.clock import Clock
from g2a_archive.service.payloads import ListResult
from g2a_archive.sync import listing
from g2a_archive.sync.listing import Listing, Query, queries
from g2a_archive.sync.windows import EARLIEST, Span, Window, span_of

NOW = 1_770_000_000
DAY = 86400
QUERY = Query((("accountKey", "1000"),))


def unix(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


class Truth:
    """A list call over starts in Unix time; the IDs are places in start order, from 1."""

    def __init__(
        self,
        starts: Sequence[float],
        *,
        inclusive: bool = True,
        from_inclusive: bool = True,
        transcode_every: int = 0,
        fractions: bool = True,
    ) -> None:
        self.starts = sorted(starts)
        self.find = bisect_right if inclusive else bisect_left
        self.find_first = bisect_left if from_inclusive else bisect_right
        self.every = transcode_every
        self.fractions = fractions
        self.asked: list[dict[str, str]] = []

    def __call__(self, params: Sequence[tuple[str, str]]) -> ListResult:
        given = dict(params)
        self.asked.append(given)
        begin, end = given.get("fromTime"), given.get("toTime")
        if "." in f"{begin}{end}" and not self.fractions:
            raise BadRequestError("list call: the service answered 400 (malformed)")
        first = self.find_first(self.starts, unix(begin)) if begin else 0
        last = self.find(self.starts, unix(end)) if end else len(self.starts)
        ids = range(first + 1, last + 1)
        if not self.every:
            return ListResult((), tuple(ids[:500]))
        waits = ids[-ids.start % self.every :: self.every]
        ready = (i for i in ids if i % self.every)
        return ListResult(tuple(waits[:500]), tuple(islice(ready, 500)))


def walk(
    truth: Truth,
    begin: int | None = None,
    end: int | None = None,
    wanted: ListState = ListState.ALL,
) -> Listing:
    found = new_listing(truth, wanted)
    for _ in found.walk(QUERY, lambda: Span(begin, end)):
        pass
    assert found.calls == len(truth.asked)
    return found


@cache
def business_days(count: int, years: float, seed: int) -> list[float]:
    """Starts as they come: mostly by day, hardly at weekends, over the years before `NOW`."""
    chance = random.Random(seed)
    starts: list[float] = []
    while len(starts) < count:
        day = int((NOW - years * 365 * DAY * chance.random()) // DAY)
        if day % 7 in (2, 3) and chance.random() < 0.9:
            continue
        starts.append(day * DAY + int(min(max(chance.gauss(13, 3), 0), 23.9) * 3600))
    return starts


@cache
def with_bursts(seed: int, count: int = 25_000) -> list[float]:
    """Over three years: 700 in an hour six times, several hundred in a second four times."""
    chance = random.Random(seed)
    starts = [*business_days(count - 6 * 700 - 4 * 450, 3, seed)]
    chosen = chance.sample(sorted(set(starts)), 10)
    for hour in chosen[:6]:
        starts += [hour + chance.randrange(3600) for _ in range(700)]
    for second in chosen[6:]:
        starts += [second] * 450
    return starts


def new_listing(ask: listing.Ask, wanted: ListState = ListState.ALL) -> Listing:
    return Listing(ask, Clock(lambda: float(NOW)), wanted)


@pytest.mark.parametrize("inclusive", [True, False])
@pytest.mark.parametrize(
    ("make", "most_calls"),  # made where they are needed, not where tests are collected
    [
        pytest.param(list, 1, id="nothing"),
        pytest.param(partial(business_days, 499, 3, 1), 1, id="a typical night"),
        pytest.param(partial(business_days, 600, 3, 2), 12, id="just too many"),
        pytest.param(partial(with_bursts, 3), 250, id="25,000 in three years with bursts"),
        pytest.param(partial(business_days, 80_000, 10, 4), 300, id="80,000 in ten years"),
        pytest.param(lambda: [NOW - DAY + s * 3 for s in range(25_000)], 100, id="25,000 in a day"),
        pytest.param(
            lambda: [EARLIEST + s * DAY for s in range(501)], 20, id="at the very beginning"
        ),
        pytest.param(lambda: [NOW + s for s in range(600)], 40, id="at the very end"),
    ],
)
def test_everything_is_found_once_with_few_calls(
    make: Callable[[], list[float]], most_calls: int, inclusive: bool
) -> None:
    starts = make()
    truth = Truth(starts, inclusive=inclusive, from_inclusive=inclusive)
    found = walk(truth)
    assert [*found.ids()] == list(range(1, len(starts) + 1))  # each once, in start order
    assert found.overflowing == []
    assert found.calls <= most_calls


@pytest.mark.parametrize("inclusive", [True, False])
def test_the_bursts_of_a_second(inclusive: bool) -> None:
    """499 in one second are told by a call, however many start in the seconds beside it."""
    second = NOW - 100 * DAY
    starts = [second + s for s in range(-3, 4) for _ in range(499)]
    found = walk(Truth(starts, inclusive=inclusive, from_inclusive=inclusive))
    assert [*found.ids()] == list(range(1, len(starts) + 1))
    assert found.overflowing == []


def test_starts_between_two_seconds_are_found() -> None:
    starts = [NOW - 5 * DAY + n / 400 for n in range(4000)]
    for inclusive in (True, False):
        for first in (True, False):
            truth = Truth(starts, inclusive=inclusive, from_inclusive=first)
            assert len(walk(truth).ids()) == 4000


@pytest.mark.parametrize("inclusive", [True, False])
@pytest.mark.parametrize("fractions", [True, False])
@pytest.mark.parametrize("number", [50, 4000])
def test_what_starts_at_the_end_itself_is_not_told(
    number: int, fractions: bool, inclusive: bool
) -> None:
    end = NOW - 5 * DAY
    truth = Truth(range(end - number, end + 3), inclusive=inclusive, fractions=fractions)
    found = walk(truth, end=end).ids()
    # Where no fraction of a second is taken, one too many is better than one too few.
    assert len(found) == number + (inclusive and not fractions)


@pytest.mark.parametrize("fractions", [True, False])
def test_a_second_that_overflows_is_said(fractions: bool, caplog: pytest.LogCaptureFixture) -> None:
    second = NOW - 100 * DAY
    starts = business_days(2000, 1, 5) + [second] * 700
    truth = Truth(starts, fractions=fractions)
    found = walk(truth)
    # Where no fraction of a second is taken, the seconds beside it cannot be told apart.
    doubtful = [second] if fractions else [second - 1, second, second + 1]
    assert found.overflowing == [iso(at) for at in doubtful]
    assert iso(second) in caplog.text
    # The first 500 of that second and all others are found all the same.
    assert len(found.ids()) == 2000 + 500
    others = {place for place, at in enumerate(truth.starts, 1) if at != second}
    assert others <= set(found.ids())


@given(
    st.lists(
        st.tuples(st.integers(0, 4000), st.integers(1, 700)).map(
            lambda burst: [NOW - 4000 + burst[0]] * burst[1]
        ),
        max_size=8,
    ),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0, 2, 3]),
)
@settings(max_examples=1000 if LONG else 50, deadline=None)
def test_what_is_not_found_is_said(
    bursts: list[list[float]], inclusive: bool, first: bool, fractions: bool, every: int
) -> None:
    """Whatever the bursts: an ID that is missing started in a second that is said to overflow."""
    truth = Truth(
        [at for burst in bursts for at in burst],
        inclusive=inclusive,
        from_inclusive=first,
        fractions=fractions,
        transcode_every=every,
    )
    found = walk(truth)
    missing = set(range(1, len(truth.starts) + 1)).difference(found.ids())
    assert {iso(int(truth.starts[i - 1])) for i in missing} <= set(found.overflowing)


def test_only_the_array_that_is_wanted_counts() -> None:
    starts = business_days(3000, 2, 6)
    truth = Truth(starts, transcode_every=10)
    found = walk(truth, wanted=ListState.TRANSCODE)
    assert found.calls == 1
    assert [*found.ids()] == list(range(10, 3001, 10))
    both = walk(Truth(starts, transcode_every=2))
    assert [*both.ids(ListState.TRANSCODE)] == list(range(2, 3001, 2))
    assert [*both.ids(ListState.DOWNLOAD)] == list(range(1, 3001, 2))


def test_what_becomes_ready_meanwhile_is_told_once() -> None:
    answers = iter(
        [
            ListResult((7,), tuple(range(1000, 1500))),
            ListResult((7,), (7,)),
            ListResult((), (7,)),
            ListResult((7,), ()),
        ]
    )
    found = new_listing(lambda _: next(answers, ListResult((), ())))
    for _ in found.walk(QUERY):
        pass
    assert [*found.ids(ListState.TRANSCODE)] == []
    assert found.ids().count(7) == found.ids(ListState.DOWNLOAD).count(7) == 1


def test_edges_are_kept() -> None:
    starts = business_days(5000, 2, 7)
    begin, end = NOW - 300 * DAY, NOW - 100 * DAY
    truth = Truth(starts, inclusive=False)
    found = walk(truth, begin, end)
    wanted = [i for i, at in enumerate(truth.starts, 1) if begin <= at < end]
    assert [*found.ids()] == wanted
    for asked in truth.asked:
        assert begin <= unix(asked["fromTime"]) < unix(asked["toTime"]) <= end


def test_progress_only_grows_and_ends() -> None:
    truth = Truth(with_bursts(8, 8_000))
    found = new_listing(truth)
    until: list[int] = []
    for one in found.walk(QUERY):
        view = found.snapshot()
        assert view.done == found.calls < view.total or one.complete_until == NOW
        if one.complete_until is not None:
            until.append(one.complete_until)
            known = range(1, bisect_left(truth.starts, one.complete_until) + 1)
            assert set(known) <= set(found.ids())
    assert until == sorted(until)
    assert until[-1] == NOW
    assert (found.total, found.snapshot().unit) == (found.calls, "window")


def test_a_query_for_each_combination_of_keys() -> None:
    selection = Selection(
        account_keys=("1", "2", "1"), user_keys=("8", "9"), session_type=1, archived=True
    )
    assert [q.params for q in queries(selection)] == [
        (("accountKey", a), ("userKey", u), ("sessionType", "1"), ("archived", "1"))
        for a in "12"
        for u in "89"
    ]
    assert [q.scope for q in queries(Selection(company_ids=("5",)))] == ["companyId=5"]


def test_the_attributes_of_windows() -> None:
    assert Window().params() == []
    assert Window(EARLIEST, EARLIEST + 60).params() == [
        ("fromTime", "2000-01-01T00:00:00Z"),
        ("toTime", "2000-01-01T00:01:00Z"),
    ]
    assert Window(EARLIEST, EARLIEST + 1).params() == [
        ("fromTime", "2000-01-01T00:00:00Z"),
        ("toTime", "2000-01-01T00:00:00.999Z"),
    ]
    assert Window(EARLIEST, EARLIEST + 60, include_begin=True).params() == [
        ("fromTime", "1999-12-31T23:59:59.998Z"),
        ("toTime", "2000-01-01T00:01:00Z"),
    ]
    assert Window(EARLIEST, EARLIEST + 60, exclude_end=True).params() == [
        ("fromTime", "2000-01-01T00:00:00Z"),
        ("toTime", "2000-01-01T00:00:59.999Z"),
    ]
    assert Window(EARLIEST, EARLIEST + 60, exclude_end=True).params(fractions=False) == [
        ("fromTime", "2000-01-01T00:00:00Z"),
        ("toTime", "2000-01-01T00:01:00Z"),
    ]
    assert Window(EARLIEST, EARLIEST + 1, include_begin=True).params(fractions=False) == [
        ("fromTime", "1999-12-31T23:59:59Z"),
        ("toTime", "2000-01-01T00:00:01Z"),
    ]


def test_times_long_ago_are_written_in_full_or_refused() -> None:
    begin = parse_when("0476-09-04")
    assert isinstance(begin, int)
    assert Window(begin).params() == [("fromTime", "0476-09-04T00:00:00Z")]
    for text in ("0001-01-01", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"):
        with pytest.raises(ValueError, match="is no date, time or age"):
            parse_when(text)


@pytest.mark.parametrize("behind", [DAY, 40 * DAY, 365 * DAY, 56 * 365 * DAY])
@pytest.mark.parametrize("told", [True, False])
def test_a_clock_that_is_behind_hides_nothing(behind: int, told: bool) -> None:
    """Whether the service tells the time or not; what is complete is less than what is found."""
    truth = Truth([NOW - 500 * DAY + n * 40_000 for n in range(1075)])
    clock = Clock(lambda: float(NOW - behind))
    found = Listing(truth, clock=clock)
    if told:
        clock.update(formatdate(NOW, usegmt=True))
    complete = [one.complete_until for one in found.walk(QUERY)]
    assert [*found.ids()] == list(range(1, 1076))
    assert complete[-1] == NOW - behind
    assert found.calls < (30 if told else 250)


@pytest.mark.parametrize("ahead", [DAY, 365 * DAY, 9_000 * DAY])
def test_a_clock_that_is_ahead_is_not_believed(ahead: int) -> None:
    truth = Truth(business_days(3000, 2, 6))
    clock = Clock(lambda: float(NOW + ahead))
    clock.update(formatdate(NOW, usegmt=True))
    found = Listing(truth, clock=clock)
    complete = [one.complete_until for one in found.walk(QUERY)]
    assert [*found.ids()] == list(range(1, 3001))
    assert NOW - 60 <= (complete[-1] or 0) <= NOW


def test_what_the_first_answer_tells_of_the_time_changes_what_is_asked_for() -> None:
    """`--since 30d` and `--until 1d` by a clock that is a year ahead."""
    truth = Truth([NOW - n * DAY - 5 for n in range(100)])
    clock = Clock(lambda: float(NOW + 365 * DAY))
    selection = Selection(since=Age(30 * DAY), until=Age(DAY))

    def ask(params: Sequence[tuple[str, str]]) -> ListResult:
        clock.update(formatdate(NOW, usegmt=True))
        return truth(params)

    found = Listing(ask, clock=clock)
    for _ in found.walk(QUERY, lambda: span_of(selection, clock.best())):
        pass
    assert len(found.ids()) == 29
    assert found.calls == 2
