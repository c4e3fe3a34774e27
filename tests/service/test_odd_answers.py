"""Errors that come with status 200, and answers of which a part is odd: never "nothing there"."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import assert_archive_equals, catalog_rows, cli_here, run_here, states
from support import sync as sync_support
from support.service import Serve
from support.sync import FEW, sync_here

from g2a_archive.demo import Fault, Request, Response, SimulatedService, faults, sample_recordings
from g2a_archive.errors import ExitCode

pytestmark = pytest.mark.usefixtures("at_once")

few = sync_support.few

ERRORS: list[Any] = [
    {"errors": [{"code": 1}]},
    {"errors": []},
    {"error": "invalid_token"},
    {"error": {"code": 7}},
    {"errorCode": "x"},
    {"int_err_code": "InternalError", "msg": "Sorry"},
    {"message": "x", "details": []},
    {"message": "x", "recordings": []},
    {"details": []},
    {"fault": {"faultstring": "x"}},
    {"hasError": True, "data": []},
    {"error": "expired", "recordings": [{"recordingId": 1_400_000_001}]},
    {},
    None,
    "x",
    0,
    [{"errorCode": "x"}],
    [{"error": {"code": 7}}, {"error": {"code": 8}}],
    [{}],
    [None],
    [1_400_000_001],
    [[]],
    [{"recordingId": None, "recordingUrl": "http://127.0.0.1/x"}],
    [{"recordingId": 4711, "recordingUrl": "http://127.0.0.1/x"}],  # an answer to another call
]


def test_an_error_with_200_is_no_answer_to_the_link_call(
    serve: Serve, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each recording is asked for by itself, and has an error of its own."""
    monkeypatch.setattr("g2a_archive.service.client.LIST_LIMIT", 1)
    service = serve(len(ERRORS), rate_limit=None)
    said = dict(zip(sorted(service.recordings), ERRORS, strict=True))
    asked: list[int] = []

    def fail(request: Request) -> Fault | None:
        if request.call != "links":
            return None
        ((_, id_),) = request.query
        asked.append(int(id_))
        answer = json.dumps(said[int(id_)]).replace("1400000001", id_)
        return faults.says(json.loads(answer))

    service.on_request.append(fail)
    report = run_here(service, root, service.recordings, retries=2)
    times = Counter(asked)  # tried again, as what cannot be read is
    assert {str(said[i]): times[i] for i in said if times[i] != 3} == {}
    assert report.exit_code == ExitCode.SERVICE
    assert [said[i] for i in report.unavailable] == []
    failed = [failure.id for failure in report.failed]
    assert [said[i] for i in said if failed.count(i) != 1] == []
    found = states(root)
    assert [said[i] for i in said if found[i] != "failed"] == []
    service.on_request.clear()
    assert run_here(service, root, [], owed=True).exit_code == 0
    assert_archive_equals(service, root)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda entries: {"recordings": entries},
        lambda entries: {"data": entries, "error": None, "errors": []},
        lambda entries: {"data": entries, "message": "OK", "details": []},
    ],
)
def test_an_envelope_is_no_error(wrap: Any, service: SimulatedService, root: Path) -> None:
    service.on_links.append(wrap)
    assert run_here(service, root, service.recordings).exit_code == 0
    assert_archive_equals(service, root)


def test_nothing_available_is_an_answer(serve: Serve, root: Path) -> None:
    answers: list[Any] = [[], {"recordings": []}, {"recordings": [], "error": None}]
    for answer in answers:
        service = serve()
        service.fail(faults.says(answer), call="links")
        report = run_here(service, root, service.recordings)
        assert report.exit_code == ExitCode.UNAVAILABLE
        assert service.requests.counts["links"] == 1


def test_a_chunk_that_gets_an_error_with_200_does_not_stop_the_others(
    serve: Serve, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("g2a_archive.service.client.LIST_LIMIT", 4)
    service = serve(12, rate_limit=None)
    bad = list(service.recordings)[4:8]

    def fail(request: Request) -> Fault | None:
        asked = {int(value) for _, value in request.query if request.call == "links"}
        return faults.says({"errors": [{"code": 1}]}) if asked & set(bad) else None

    service.on_request.append(fail)
    report = run_here(service, root, service.recordings)
    assert report.exit_code == ExitCode.FAILED
    assert sorted(failure.id for failure in report.failed) == bad
    assert_archive_equals(service, root, [i for i in service.recordings if i not in bad])


def test_entries_that_name_no_recording_are_told_and_the_others_count(
    service: SimulatedService, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service.on_links.append(lambda entries: [{"errorCode": "x"}, *entries, None])
    assert run_here(service, root, service.recordings).exit_code == 0
    assert_archive_equals(service, root)
    assert "2 entries of the answer without a recording's ID" in caplog.text


@pytest.mark.parametrize("odd", [{"recordingUrl": ""}, {"recordingStartTime": "soon"}])
@pytest.mark.parametrize("first", [True, False])
def test_of_doubled_entries_the_usable_one_counts(
    odd: dict[str, str], first: bool, service: SimulatedService, root: Path
) -> None:
    def double(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        odd_ones = [entry | odd for entry in entries]
        return [*odd_ones, *entries] if first else [*entries, *odd_ones]

    service.on_links.append(double)
    assert run_here(service, root, service.recordings).exit_code == 0
    assert_archive_equals(service, root)


MANY = b"7" * 5000
LATIN_1 = b'"caf\xe9"'


@pytest.mark.parametrize("odd", [MANY, b"-" + MANY, LATIN_1, b'"\xed\xa0\x80"'])
@pytest.mark.parametrize(
    ("name", "code"),
    [("remark", 0), ("recordingSize", 0), ("thumbnailUrl", 1), ("recordingId", 3)],
)
def test_what_cannot_be_read_of_one_entry_concerns_no_other(
    name: str, code: int, odd: bytes, service: SimulatedService, root: Path
) -> None:
    first, *others = service.recordings
    answered = service._api.answer

    def spoil(request: Request) -> Response | None:
        if request.call != "links":
            return None
        entries = json.loads(b"".join(answered(request).chunks()))
        for entry in entries:
            if entry["recordingId"] == first:
                entry[name] = "odd"
        return Response(200, {}, json.dumps(entries).encode().replace(b'"odd"', odd))

    service.on_request.append(spoil)
    report = run_here(service, root, service.recordings)
    assert report.exit_code == code
    archived = {id_ for id_, state in states(root).items() if state == "archived"}
    assert archived == {*others, *([] if code else [first])}


@pytest.mark.parametrize("odd", [MANY, LATIN_1])
def test_what_cannot_be_read_of_a_list_keeps_no_other_out(
    odd: bytes, service: SimulatedService, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    body = json.dumps({"readyForDownload": ["odd", *service.recordings]}).encode()
    service.fail(faults.status(200, body.replace(b'"odd"', odd)), call="list")
    assert sync_here(service, root).exit_code == 0
    assert_archive_equals(service, root)
    (line,) = caplog.messages
    assert line.startswith("list call: readyForDownload holds 1 entry that is no recording ID")
    assert len(line) < 200


# --- the other calls ----------------------------------------------------------------------------

LIST_ERRORS: list[Any] = [
    {},
    {"error": "invalid_token"},
    {"error": "x", "readyForTranscode": [], "readyForDownload": []},
    {"errorCode": 5, "readyForDownload": [1_400_000_001]},
    {"message": "x"},
    {"message": "x", "readyForTranscode": [], "readyForDownload": []},
    {"readyForDownload": None, "readyForTranscode": None},
    {"readyForDownload": {}},
    {"readyForDownload": [None], "readyForTranscode": ["x"]},
    {"recordings": []},
    [],
    None,
]


@pytest.mark.parametrize("answer", LIST_ERRORS, ids=str)
def test_an_error_with_200_is_no_answer_to_the_list_call(
    answer: object, service: SimulatedService, root: Path
) -> None:
    rule = service.fail(faults.says(answer), call="list")
    report = sync_here(service, root)
    assert report.exit_code == ExitCode.SERVICE
    assert rule.applied == 2
    assert service.requests.counts["links"] == 0
    (stop,) = report.abort_messages
    assert stop.startswith("list call")
    assert "invalid_token" not in stop


def test_list_and_an_error_with_200(service: SimulatedService) -> None:
    service.fail(faults.says({"error": "invalid_token"}), call="list")
    args = ["list", "--account-key", "1000", "--retries", "0"]
    result = cli_here(args, service.environment())
    assert (result.returncode, result.stdout) == (ExitCode.SERVICE, "")
    assert result.stderr.endswith("list call: the answer is an error, though its status is not\n")


@pytest.mark.parametrize("key", ["readyForDownload", "readyForTranscode"])
def test_one_array_is_enough(key: str, service: SimulatedService) -> None:
    service.fail(faults.says({key: [7], "message": "one found"}), call="list")
    args = ["list", "--account-key", "1000", "--state", "all"]
    result = cli_here(args, service.environment())
    assert (result.returncode, result.stdout, result.stderr) == (0, "7\n", "")


ODD: list[Any] = [None, 0, "x", -5, 10**20, True, 1.5, {}, "9" * 400]


@pytest.mark.parametrize("odd", ODD, ids=lambda value: str(value)[:24])
def test_one_odd_entry_in_a_list_is_told_and_left_out(
    odd: object, serve: Serve, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = serve(4, rate_limit=None)
    ids: list[object] = list(service.recordings)
    ids.insert(2, odd)
    service.fail(faults.says({"readyForDownload": ids}), call="list")
    assert sync_here(service, root).exit_code == 0
    assert_archive_equals(service, root)
    (line,) = caplog.messages
    assert line.startswith("list call: readyForDownload holds 1 entry that is no recording ID")
    assert len(line) < 200


@pytest.mark.usefixtures("few")
def test_a_full_array_with_an_odd_entry_is_full(serve: Serve, root: Path) -> None:
    """Else what the service had no room for would be taken for not there."""
    service = serve(40, rate_limit=None, most_ids=FEW)
    answered = service._api.answer

    def spoil(request: Request) -> Response | None:
        if request.call != "list":
            return None
        ready = json.loads(b"".join(answered(request).chunks()))["readyForDownload"]
        if len(ready) == FEW:
            ready[2] = None
        return Response.json({"readyForDownload": ready})

    service.on_request.append(spoil)
    report = sync_here(service, root)
    assert report.sync is not None
    assert report.sync.calls > 8
    assert report.archived > 25


@pytest.mark.parametrize("call", ["transcode", "archived"])
@pytest.mark.parametrize(
    "answer",
    [{"error": "x"}, {"errors": [1]}, {"message": "x"}, [{"errorCode": "x"}], "page"],
    ids=str,
)
def test_an_error_with_200_changes_nothing(
    answer: object, call: Any, serve: Serve, root: Path
) -> None:
    service = serve(sample_recordings(4, transcode_every=2), rate_limit=None)
    fault = faults.html() if answer == "page" else faults.says(answer)
    rule = service.fail(fault, call=call)
    report = sync_here(service, root, transcode=True, mark_archived=True)
    assert report.exit_code == ExitCode.SERVICE
    assert rule.applied == 2
    column = "marked_at" if call == "archived" else "transcode_at"
    assert catalog_rows(root, f"SELECT id FROM recording WHERE {column} IS NOT NULL") == []
    service.on_request.clear()
    sync_here(service, root, transcode=True, mark_archived=True)
    ready = {i for i in service.recordings if service.recordings[i].state == "ready"}
    assert service.archived >= ready


def test_an_envelope_that_tells_of_no_error_is_none(serve: Serve, root: Path) -> None:
    service = serve(sample_recordings(4), rate_limit=None)
    service.fail(faults.says({"message": "", "errors": []}), call="archived")
    assert sync_here(service, root, mark_archived=True).exit_code == 0
    marked = catalog_rows(root, "SELECT id FROM recording WHERE marked_at IS NOT NULL")
    assert len(marked) == 4


def test_check_takes_no_error_with_200_for_a_welcome(service: SimulatedService, root: Path) -> None:
    service.fail(faults.says({"error": "invalid_token"}), call="list")
    result = cli_here(["check", "-d", root, "--retries", "0"], service.environment())
    assert result.returncode == ExitCode.SERVICE, result.stdout
    assert "trial call: the answer is an error, though its status is not" in result.stdout


# --- sizes --------------------------------------------------------------------------------------

NO_SIZES: list[Any] = [10**19, str(10**19), "garbage", "-1", -5, "1e9", 1.5, True, [], "9" * 400]


def test_a_size_that_is_none_is_told_with_the_recording(
    serve: Serve, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = serve(len(NO_SIZES) + 1, rate_limit=None)
    said = dict(zip(service.recordings, NO_SIZES, strict=False))

    def edit(entries: list[dict[str, Any]]) -> None:
        for entry in entries:
            if entry["recordingId"] in said:
                entry["recordingSize"] = said[entry["recordingId"]]

    service.on_links.append(edit)
    assert run_here(service, root, service.recordings).exit_code == 0
    assert len(caplog.messages) == len(said)
    for id_, size in said.items():
        begin = f"recording {id_}: recordingSize is "
        (line,) = [line for line in caplog.messages if line.startswith(begin)]
        assert "no size" in line, size
        assert len(line) < 200, size
    assert_archive_equals(service, root)


@pytest.mark.parametrize("size", [None, ""])
def test_a_size_that_is_missing_is_nothing_to_tell(
    size: object, service: SimulatedService, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service.on_links.append(lambda entries: [{**entry, "recordingSize": size} for entry in entries])
    with caplog.at_level(logging.WARNING):
        assert run_here(service, root, service.recordings).exit_code == 0
    assert caplog.text == ""


@pytest.mark.parametrize("kind", [str, float, lambda number: f" {number} "])
def test_numbers_of_another_type(
    kind: Callable[[int], object], service: SimulatedService, root: Path
) -> None:
    """Of an ID, or a size, which the service sends as text: what a proxy has made of them."""

    def change(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        names = "recordingId", "recordingSize"
        return [{**entry, **{name: kind(int(entry[name])) for name in names}} for entry in entries]

    service.on_links.append(change)
    assert run_here(service, root, service.recordings).exit_code == 0
    assert_archive_equals(service, root)
