"""Whatever the link call answers: no crash, no file outside the archive, no false claim."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import (
    LONG,
    archive_files,
    assert_archive_equals,
    assert_nothing_false,
    run_here,
    states,
)
from support.service import Serve

from g2a_archive.archive import layout
from g2a_archive.console.report import Report
from g2a_archive.demo import Fault, Response, SimulatedService, sample_recordings
from g2a_archive.errors import BadResponseError, ExitCode
from g2a_archive.models import MAX_ID, Recording
from g2a_archive.service import payloads as answers
from g2a_archive.transport import address

BAD, GOOD = 1_400_000_001, 1_400_000_002
ASKED = frozenset({1, 7, BAD, GOOD, MAX_ID})

LINKS: list[object] = [
    "file:///etc/passwd",
    "ftp://127.0.0.1/x",
    "javascript:alert(1)",
    "data:text/plain,x",
    "//127.0.0.1/x",
    "/etc/passwd",
    "https:///x",
    "http://192.0.2.1/x",
    "http://example.org/x",
    "http://127.0.0.1.example.org/x",
    "https://user:word@127.0.0.1/x",
    "https://@127.0.0.1/x",
    "http://127.0.0.1:99999/x",
    "http://127.0.0.1:port/x",
    "http://[::1/x",
    "http://127.0.0.1/x\r\nX-Other: y",
    "http://127.0.0.1 /x",
    "http://127.0.0.1/\0",
    "https://\ud800.example/x",
    "x" * 100_000,
    17,
    True,
    ["http://127.0.0.1/x"],
    {"href": "http://127.0.0.1/x"},
]

STARTS: list[object] = [
    None,
    "",
    17,
    "../../etc",
    "2014/05/06",
    "0000-01-01T00:00:00Z",
    "10000-01-01T00:00:00Z",
    "2014-13-01T00:00:00Z",
    "2014-02-30T00:00:00Z",
    "2014-05-06T25:00:00Z",
    "2014-05-06T12:00:00+99:99",
    "2014-05-06T12:00:00Z/../../x",
    "2014-05-06T12:00:00Z\n",
    "\uff12\uff10\uff11\uff14-05-06T12:00:00Z",
    "yesterday",
    "2014",
    "-2014-05-06T12:00:00Z",
    ["2014-05-06T12:00:00Z"],
    "2014-05-06T" + "1" * 100_000,
]

IDS: list[object] = [
    -1,
    0,
    1.5,
    1e300,
    float("nan"),
    True,
    None,
    [],
    {},
    "abc",
    "",
    "-1",
    2**63,
    2**80,
    "9" * 400,
]

SIZES: list[object] = [
    "-1",
    "abc",
    "1e9",
    "",
    None,
    -5,
    1.5,
    True,
    [],
    {},
    "9" * 400,
    float("inf"),
    "\u0663",
]


@pytest.fixture
def service(serve: Serve) -> SimulatedService:
    return serve(sample_recordings(2))


def edit(service: SimulatedService, **fields: object) -> None:
    """Let the answer say something else of one of the two recordings."""

    def change(entries: list[dict[str, object]]) -> object:
        return [e | fields if e["recordingId"] == BAD else e for e in entries]

    service.on_links.append(change)


Odd = dict[int, dict[str, object]]


def odd(serve: Serve, **fields: list[object]) -> tuple[SimulatedService, Odd]:
    """A service that says each of these values of a recording of its own; the last one is good."""
    values = [{name: value} for name, some in fields.items() for value in some]
    service = serve(sample_recordings(len(values) + 1), rate_limit=None)
    said = dict(zip(sorted(service.recordings), values, strict=False))

    def change(entries: list[dict[str, Any]]) -> object:
        return [entry | said.get(entry["recordingId"], {}) for entry in entries]

    service.on_links.append(change)
    return service, said


def reasons(report: Report, said: Odd) -> dict[int, tuple[str, str | None, str]]:
    """What was said of each that failed, the file that failed, and why."""
    assert report.exit_code == (1 if report.failed else 0)
    assert len({failure.id for failure in report.failed}) == len(report.failed)
    return {f.id: (ascii(said[f.id])[:80], f.file, f.reason) for f in report.failed}


def test_a_link_that_cannot_be_used(serve: Serve, root: Path) -> None:
    service, said = odd(serve, recordingUrl=LINKS, thumbnailUrl=LINKS)
    report = run_here(service, root, service.recordings)
    told = reasons(report, said)
    assert told.keys() == said.keys()
    for id_, (what, file, reason) in told.items():
        ((field, link),) = said[id_].items()
        assert file == ("mp4" if field == "recordingUrl" else "thumbnail"), what
        assert reason.startswith("the link cannot be used: "), what
        assert str(link)[:1000] not in reason, what
    found = states(root)
    assert {i for i in found if found[i] == "failed"} == said.keys()
    assert report.archived == 1
    assert_nothing_false(service, root)
    assert service.requests.counts["file"] == 3 + 2 * len(said)


@pytest.mark.parametrize("link", ["", None])
def test_no_link_to_the_mp4(link: object, service: SimulatedService, root: Path) -> None:
    edit(service, recordingUrl=link)
    report = run_here(service, root, [BAD, GOOD])
    (failure,) = report.failed
    assert (failure.id, failure.file) == (BAD, None)
    assert failure.reason == "the service gave no link to its MP4"
    assert_archive_equals(service, root, [GOOD])


def test_a_start_that_is_no_time(serve: Serve, root: Path) -> None:
    service, said = odd(serve, recordingStartTime=STARTS)
    told = reasons(run_here(service, root, service.recordings), said)
    assert told.keys() == said.keys()
    for what, file, reason in told.values():
        assert file is None, what
        assert "recordingStartTime" in reason, what
    assert_archive_equals(service, root, service.recordings.keys() - said.keys())
    assert [path.name for path in root.parent.iterdir()] == [root.name]


@pytest.mark.parametrize("start", ["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59"])
@pytest.mark.parametrize("timezone", [None, "UTC"])
def test_a_start_at_the_end_of_time(
    timezone: str | None, start: str, service: SimulatedService, root: Path
) -> None:
    edit(service, recordingStartTime=start)
    report = run_here(service, root, [BAD, GOOD], timezone=timezone, set_mtime=True)
    if timezone is None:
        assert (report.exit_code, report.archived) == (0, 2)
        assert [path.name for path in root.rglob(f"{BAD}.mp4")] == [f"{BAD}.mp4"]
    else:
        (failure,) = report.failed
        assert failure.reason == "recordingStartTime is out of range for the time zone"


def test_an_id_that_is_none(serve: Serve, root: Path) -> None:
    service, said = odd(serve, recordingId=IDS)
    report = run_here(service, root, service.recordings)
    assert report.exit_code == ExitCode.UNAVAILABLE
    assert {i: said.get(i) for i in report.unavailable} == said
    assert_archive_equals(service, root, service.recordings.keys() - said.keys())


def test_a_size_that_is_none(serve: Serve, root: Path) -> None:
    service, said = odd(serve, recordingSize=SIZES)
    assert reasons(run_here(service, root, service.recordings), said) == {}
    assert_archive_equals(service, root)


@pytest.mark.usefixtures("no_backoff")
def test_a_size_that_lies(serve: Serve, root: Path) -> None:
    service, said = odd(serve, recordingSize=["0", 0, "5", str(10**17)])
    told = reasons(run_here(service, root, service.recordings), said)
    assert told.keys() == said.keys()
    for id_, (what, file, reason) in told.items():
        assert file == "mp4", what
        assert f"recordingSize is {said[id_]['recordingSize']}" in reason, what
    assert_nothing_false(service, root)


def test_entries_that_nobody_asked_for_and_doubled_ones(
    service: SimulatedService, root: Path
) -> None:
    def more(entries: list[dict[str, object]]) -> object:
        stranger = entries[0] | {"recordingId": 4711}
        worse = entries[1] | {"recordingUrl": "file:///etc/passwd"}
        return [stranger, *entries, worse, "text", None, 3, [], {}, stranger]

    service.on_links.append(more)
    report = run_here(service, root, [BAD, GOOD])
    assert (report.exit_code, report.archived) == (0, 2)
    assert_archive_equals(service, root)


@pytest.mark.parametrize("wrapped", [{"recordings": None}, {"total": 2, "recordings": None}])
def test_an_object_that_wraps_the_array(
    wrapped: dict[str, object], service: SimulatedService, root: Path
) -> None:
    service.on_links.append(lambda entries: wrapped | {"recordings": entries})
    assert run_here(service, root, [BAD, GOOD]).exit_code == 0
    assert_archive_equals(service, root)


def test_ten_megabytes_of_answer(service: SimulatedService, root: Path) -> None:
    edit(service, comment="x" * (10 << 20))
    assert run_here(service, root, [BAD, GOOD]).exit_code == 0
    assert_archive_equals(service, root)


@pytest.mark.usefixtures("no_backoff")
def test_more_answer_than_anybody_needs(service: SimulatedService, root: Path) -> None:
    service.fail(Fault(response=Response(200, {}, b" " * (33 << 20))), call="links")
    report = run_here(service, root, [BAD, GOOD])
    assert report.exit_code == ExitCode.SERVICE
    assert {failure.reason for failure in report.failed} == {"link call: the answer is too large"}


@pytest.mark.usefixtures("no_backoff")
@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"recordingId":'])
def test_nesting_without_end(opening: bytes, service: SimulatedService, root: Path) -> None:
    service.fail(Fault(response=Response(200, {}, opening * 200_000)), call="links")
    report = run_here(service, root, [BAD, GOOD])
    assert report.exit_code == ExitCode.SERVICE
    assert {failure.reason for failure in report.failed} == {"link call: the answer is not JSON"}


# --- anything at all -----------------------------------------------------------------------------

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20),
    st.sampled_from([*LINKS, *STARTS, *IDS, *SIZES]),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
entries = st.fixed_dictionaries(
    {},
    optional={
        "recordingId": st.sampled_from([*ASKED, 4711, str(BAD), float(GOOD)]) | values,
        "recordingUrl": st.sampled_from(["https://host/x", "http://127.0.0.1/x"]) | values,
        "eventsUrl": values,
        "thumbnailUrl": values,
        "recordingStartTime": st.datetimes().map(lambda at: at.isoformat()) | values,
        "recordingSize": st.integers().map(str) | values,
        "": values,
    },
)
payloads = values | st.lists(entries | values, max_size=6)
payloads |= st.dictionaries(st.text(max_size=4), payloads, max_size=2)


@settings(max_examples=5000 if LONG else 20, deadline=None)
@given(payloads)
def test_any_json_is_read_or_refused(payload: Any) -> None:
    try:
        found, warnings = answers.parse_links(payload, ASKED, 0.0, 0.0)
    except BadResponseError:
        return
    assert found.keys() <= ASKED
    assert all(isinstance(warning, str) for warning in warnings)
    for id_, entry in found.items():
        if not isinstance(entry, Recording):
            assert entry
            continue
        assert entry.id == id_
        assert entry.size is None or 0 <= entry.size < 2**63
        assert not entry.links.keys() & entry.link_problems.keys()
        for link in entry.links.values():
            assert address.validate_url(link.url)
        directory = layout.directory_for(entry.start, "%Y/%m/%d", None)
        assert [part for part in directory.split("/") if not part.isdigit()] == []


@settings(
    max_examples=1000 if LONG else 12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(payload=payloads)
@pytest.mark.usefixtures("no_backoff", "at_once")
def test_any_json_at_all_leaves_the_archive_right(
    payload: Any, service: SimulatedService, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("fuzz") / "archive"
    body = json.dumps(payload).encode()
    service.on_request[:] = [
        lambda request: Response(200, {}, body) if request.call == "links" else None
    ]
    service.behaviour.rate_limit = None
    report = run_here(service, root, [BAD, GOOD], retries=0, timeout=0.5)
    assert report.exit_code in (ExitCode.FAILED, ExitCode.UNAVAILABLE, ExitCode.SERVICE)
    told = {f.id for f in report.failed} | {*report.unavailable}
    assert told == {BAD, GOOD}
    assert archive_files(root) == {}
    assert [path.name for path in root.parent.iterdir()] == ["archive"]


@pytest.mark.parametrize("url", ["https://h/\ud800", "https://h/?\udcff", "https://[::1%\xe9]/"])
def test_an_address_that_cannot_be_sent(url: str) -> None:
    with pytest.raises(ValueError, match="it"):
        address.validate_url(url)
