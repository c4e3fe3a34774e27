"""What a run says: summary, JSON, error file, metrics."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support import JSON_KEYS, mounts, report_of, run_cli, run_here, states
from support import cli as cli_support
from support.cli import FIRST, Args, refused
from support.service import Serve

from g2a_archive.archive.disk.lock import RunLock
from g2a_archive.cli import main
from g2a_archive.console.outputs import metrics_text
from g2a_archive.console.report import Report
from g2a_archive.demo import Request, SimulatedRecording, SimulatedService, sample_recordings
from g2a_archive.demo.faults import status
from g2a_archive.models import FileKind

UNKNOWN = 77

still = cli_support.still


def mixed(serve: Serve, **behaviour: Any) -> SimulatedService:
    """A service on which of five recordings one fails, one is unavailable, one is archived."""
    service = serve(5, rate_limit=None, **behaviour)
    service.set_state(FIRST + 1, "unavailable")
    service.fail_files(status(404), kind="mp4", recording_id=FIRST + 2)
    return service


IDS: Args = [FIRST, FIRST + 1, FIRST + 2, UNKNOWN]
RUN: Args = ["download", "--min-free", "0", "--retries", "0"]


def test_the_summary_of_a_mixed_run(serve: Serve, tmp_path: Path) -> None:
    service = mixed(serve)
    run_cli([*RUN, FIRST + 3], service.environment(), cwd=tmp_path)
    result = run_cli([*RUN, *IDS, FIRST + 3], service.environment(), cwd=tmp_path)
    assert result.returncode == 1
    head, *rest, last = result.stdout.splitlines()
    assert last.startswith("  fingerprint: g2a1 ")
    assert re.fullmatch(
        r"Archived 1 of 5 recordings: 5 files, \d+\.\d kB in \d+\.\d s \(\d+\.\d kB/s\); "
        r"1 already archived; 1 not available yet, 1 refused, 1 failed",
        head,
    )
    assert rest[0].startswith(f"  {FIRST + 2}  mp4: ")
    assert "404" in rest[0]
    assert rest[1:] == [
        f"  {UNKNOWN}  refused: the service calls this ID invalid",
        f"  {FIRST + 1}  unavailable: not ready for download yet",
    ]


@pytest.mark.parametrize(
    ("args", "env", "code"),
    [
        (["download", FIRST], {"G2A_ARCHIVE_TOKEN": ""}, 4),
        (["download", FIRST, "--min-free", "9000T"], {}, 6),
        (["download", FIRST, "--max-duration", "0"], {}, 8),
        (["sync", "--account-key", "1"], {"G2A_ARCHIVE_API_URL": "http://127.0.0.1:1"}, 7),
        (["sync", "--account-key", "1", "--max-duration", "0"], {}, 8),
    ],
)
def test_a_run_that_ends_before_anything_was_asked_for_has_a_summary_too(
    args: Args, env: dict[str, str], code: int, still: SimulatedService, tmp_path: Path
) -> None:
    args = [*args, "--retries", "0", *(() if code == 6 else ("--min-free", "0"))]
    result = run_cli(args, {**still.environment(), **env}, cwd=tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (code, 1)
    said = [line for line in result.stdout.splitlines() if not line.startswith("  fingerprint: ")]
    assert said == (
        ["Stopped before anything was archived; run again to go on"]
        if args[0] == "sync"
        else ["Archived none of 1 recording", "  not finished: 1; run again to go on with them"]
    )


def test_a_second_run_has_nothing_to_do(service: SimulatedService, tmp_path: Path) -> None:
    run_cli([*RUN, FIRST, FIRST + 1], service.environment(), cwd=tmp_path)
    asked = service.requests.count
    for ids, said in (
        ([FIRST], "Nothing to do: the recording is archived\n"),
        ([FIRST, FIRST + 1], "Nothing to do: all 2 recordings are archived\n"),
    ):
        result = run_cli([*RUN, *ids], service.environment(), cwd=tmp_path)
        head, last = result.stdout.splitlines(keepends=True)
        assert (head, result.stderr, result.returncode) == (said, "", 0)
        assert last.startswith("  fingerprint: g2a1 ")
    assert service.requests.count == asked


def test_a_long_list_is_cut_and_says_where_the_rest_is(serve: Serve, tmp_path: Path) -> None:
    service = serve(30, rate_limit=None)
    for id_ in service.recordings:
        service.set_state(id_, "unavailable")
    args: Args = [*RUN, *service.recordings, "--error-file", "errors"]
    result = run_cli(args, service.environment(), cwd=tmp_path)
    assert result.returncode == 3
    *lines, last = result.stdout.splitlines()
    assert len(lines) == 22
    assert last.startswith("  fingerprint: ")
    assert lines[-1] == (
        "  … and 10 more: all of them are in --error-file and --json, and in `g2a-archive status`"
    )
    assert len((tmp_path / "errors").read_text().splitlines()) == 30


def test_a_dry_run_says_what_it_would_fetch(serve: Serve, tmp_path: Path) -> None:
    service = mixed(serve)
    result = run_cli([*RUN, *IDS, "--dry-run"], service.environment(), cwd=tmp_path)
    assert result.returncode == 1
    size = sum(service.recordings[FIRST + n].size("mp4") or 0 for n in (0, 2)) / 1024
    assert result.stdout.splitlines()[0] == (
        f"Would fetch 2 of 4 recordings (MP4s: {size:.1f} kB); 1 not available yet, 1 refused"
    )
    assert list(tmp_path.iterdir()) == []
    assert service.requests.counts["file"] == 0


def test_a_dry_run_fails_what_a_run_would(serve: Serve, tmp_path: Path) -> None:
    """One without an MP4's link, one whose start is no time."""
    odd: list[dict[str, object]] = [{"recordingUrl": None}, {"recordingStartTime": "soon"}, {}]
    start = datetime(2014, 5, 6, tzinfo=UTC)
    service = serve([SimulatedRecording(n, start, fields=one) for n, one in enumerate(odd, 1)])
    failed = []
    for dry in (["--dry-run"], []):
        args: Args = [*RUN, "--json", *dry, *service.recordings]
        report = report_of(run_cli(args, service.environment(), cwd=tmp_path))
        assert report["exit_code"] == 1
        failed.append(sorted((one["id"], one["reason"]) for one in report["failed"]))
    assert failed[0] == failed[1]


def test_a_dry_run_that_no_call_answers(serve: Serve, tmp_path: Path) -> None:
    service = mixed(serve)
    service.fail(status(500), call="links")
    args: Args = [*RUN, *IDS, "--retries", "0", "--dry-run"]
    assert run_cli(args, service.environment(), cwd=tmp_path).returncode == 7


# --- JSON ----------------------------------------------------------------------------------


def test_json_has_the_keys_and_types_of_its_description(serve: Serve, tmp_path: Path) -> None:
    service = mixed(serve)
    result = run_cli([*RUN, *IDS, "--json"], service.environment(), cwd=tmp_path)
    report = report_of(result)
    assert {key: type(value) for key, value in report.items()} == JSON_KEYS
    assert list(report) == list(JSON_KEYS)
    assert (report["exit_code"], report["requested"], report["archived"]) == (1, 4, 1)
    assert report["already_archived"] == 0
    assert report["unavailable"] == [FIRST + 1]
    assert report["refused"] == [UNKNOWN]
    (failure,) = report["failed"]
    assert list(failure) == ["id", "file", "reason"]
    assert (failure["id"], failure["file"]) == (FIRST + 2, "mp4")
    assert "404" in failure["reason"]
    assert (report["files"], report["bytes"]) == (5, service.requests.file_bytes_sent)
    for name in ("started_at", "finished_at"):
        assert datetime.fromisoformat(report[name]).utcoffset() is not None


def test_a_whole_recording_that_fails_has_no_file(serve: Serve, tmp_path: Path) -> None:
    service = serve(2, rate_limit=None)
    service.on_links.append(lambda entries: [{**e, "recordingStartTime": "?"} for e in entries])
    result = run_cli([*RUN, FIRST, "--json"], service.environment(), cwd=tmp_path)
    (failure,) = report_of(result)["failed"]
    assert failure["file"] is None
    assert "recordingStartTime" in failure["reason"]


def test_json_is_alone_on_stdout_even_at_v_v(serve: Serve, tmp_path: Path) -> None:
    service = mixed(serve)
    args: Args = [*RUN, *IDS, "--json", "-v", "-v"]
    env = {"FORCE_COLOR": "1", "PYTHONIOENCODING": "ascii"}
    result = run_cli(args, {**service.environment(), **env}, cwd=tmp_path)
    assert json.loads(result.stdout)["exit_code"] == 1
    assert result.stdout.endswith("}\n")


def test_json_when_nothing_is_to_be_done(service: SimulatedService, tmp_path: Path) -> None:
    result = run_cli(["download", "--json", "-f", "-"], service.environment(), "", cwd=tmp_path)
    report = report_of(result)
    assert report.pop("fingerprint") is None  # there is no archive yet
    assert {key: type(value) for key, value in report.items()} | {"fingerprint": str} == JSON_KEYS
    assert (report["requested"], report["exit_code"]) == (0, 0)


@pytest.mark.parametrize("why", ["nothing asked for", "another run"])
def test_every_run_tells_the_fingerprint(
    why: str, service: SimulatedService, tmp_path: Path
) -> None:
    env = service.environment()
    first = report_of(run_cli([*RUN, "--json", FIRST], env, cwd=tmp_path))
    lock = RunLock(tmp_path / "recordings" / ".g2a-archive" / "lock")
    ids: Args = ["-f", "-"]
    if why == "another run":
        lock.acquire()
        ids = [FIRST + 1]
    result = run_cli([*RUN, "--json", "--metrics-file", "m", *ids], env, "", cwd=tmp_path)
    lock.release()
    assert report_of(result)["fingerprint"] == first["fingerprint"]
    assert metrics(tmp_path / "m")["fingerprint_info"] == 1


# --- the error file --------------------------------------------------------------------------


def test_the_error_file_is_ready_for_the_next_run(serve: Serve, tmp_path: Path) -> None:
    service = mixed(serve)
    args: Args = ["--error-file", "errors.txt"]
    first = run_cli([*RUN, *IDS, *args], service.environment(), cwd=tmp_path)
    assert first.returncode == 1
    lines = (tmp_path / "errors.txt").read_text().splitlines()
    assert [re.split("  # ", line)[0] for line in lines] == [
        str(FIRST + 2), str(UNKNOWN), str(FIRST + 1),
    ]  # fmt: skip
    assert all(re.fullmatch(r"\d+  # \S.*", line) for line in lines)
    service.on_request.clear()
    service.set_state(FIRST + 1, "ready")
    again = run_cli(
        [*RUN, "-f", "errors.txt", *args, "--json"], service.environment(), cwd=tmp_path
    )
    report = report_of(again)
    assert (report["requested"], report["archived"], report["refused"]) == (3, 2, [UNKNOWN])
    assert (tmp_path / "errors.txt").read_text().splitlines() == [
        f"{UNKNOWN}  # refused: the service calls this ID invalid"
    ]


def test_the_error_file_of_a_good_run_is_empty(service: SimulatedService, tmp_path: Path) -> None:
    (tmp_path / "errors").write_text("12345  # from the night before\n")
    run_cli([*RUN, FIRST, "--error-file", "errors"], service.environment(), cwd=tmp_path)
    assert (tmp_path / "errors").read_bytes() == b""


@pytest.mark.parametrize("more", [[], ["--owed"]])
def test_the_error_file_of_a_run_without_room_names_what_is_owed(
    more: Args, service: SimulatedService, tmp_path: Path
) -> None:
    """Nothing is begun; what was archived before is archived all the same."""
    done, *others = service.recordings
    service.fail_files(status(418), "mp4", others[0])
    env = service.environment()
    run_cli([*RUN, done, others[0]], env, cwd=tmp_path)
    args: Args = [*RUN, "--json", "--min-free", "9999999G", "--error-file", "errors", *more]
    result = run_cli([*args, done, *(others[1:] if more else others)], env, cwd=tmp_path)
    report = report_of(result)
    assert (result.returncode, report["requested"]) == (6, len(service.recordings))
    assert report["already_archived"] == 1
    lines = (tmp_path / "errors").read_text().splitlines()
    assert sorted(int(line.split()[0]) for line in lines) == sorted(others)


def test_the_error_file_where_the_catalogue_s_disk_is_full(serve: Serve, tmp_path: Path) -> None:
    """It fills with the first answer: of what that had, nothing else would tell."""
    service = serve(sample_recordings(600))
    ids = list(service.recordings)
    with mounts.tmpfs(tmp_path / "small", "128k"):
        args: Args = ["--catalog", "small/c.sqlite3", "--error-file", "errors", "--json"]
        result = run_cli([*RUN, *args, *ids], service.environment(), cwd=tmp_path)
    report = report_of(result)
    assert (result.returncode, report["archived"]) == (6, 0)
    lines = (tmp_path / "errors").read_text().splitlines()
    assert sorted(int(line.split()[0]) for line in lines) == sorted(ids)


# --- metrics ---------------------------------------------------------------------------------


def metrics(path: Path) -> dict[str, float]:
    """Sample name, with the outcome where there is one, to value, by the client library."""
    found = {}
    for family in text_string_to_metric_families(path.read_text()):
        assert family.type == "gauge"
        assert family.documentation
        for sample in family.samples:
            found[sample.name + sample.labels.get("outcome", "")] = sample.value
    return {name.removeprefix("g2a_archive_"): value for name, value in found.items()}


def test_the_error_file_beside_another_run_names_what_is_not_archived(
    serve: Serve, tmp_path: Path
) -> None:
    service = mixed(serve)
    env = service.environment()
    assert run_cli([*RUN, FIRST, FIRST + 3], env, cwd=tmp_path).returncode == 0
    lock = RunLock(tmp_path / "recordings" / ".g2a-archive" / "lock")
    lock.acquire()
    args: Args = [FIRST, FIRST + 4, FIRST + 3, "--error-file", "errors", "--json"]
    report = report_of(run_cli([*RUN, *args], env, cwd=tmp_path))
    lock.release()
    assert (report["exit_code"], report["already_archived"]) == (5, 2)
    assert (
        tmp_path / "errors"
    ).read_text() == f"{FIRST + 4}  # not finished: the run ended before\n"


def test_metrics(serve: Serve, tmp_path: Path) -> None:
    service = mixed(serve)
    path = tmp_path / "g2a.prom"
    args: Args = ["--metrics-file", path, "--json"]
    good = report_of(run_cli([*RUN, FIRST + 3, *args], service.environment(), cwd=tmp_path))
    end = datetime.fromisoformat(good["finished_at"]).timestamp()
    assert metrics(path)["last_success_timestamp_seconds"] == end
    inode = path.stat().st_ino
    bad = report_of(run_cli([*RUN, *IDS, FIRST + 3, *args], service.environment(), cwd=tmp_path))
    assert metrics(path) == {
        "last_run_end_timestamp_seconds": datetime.fromisoformat(bad["finished_at"]).timestamp(),
        "last_run_exit_code": 1,
        "last_run_duration_seconds": bad["seconds"],
        "last_run_recordingsarchived": 1,
        "last_run_recordingsalready_archived": 1,
        "last_run_recordingsunavailable": 1,
        "last_run_recordingsrefused": 1,
        "last_run_recordingsfailed": 1,
        "last_run_recordingsnot_tried": 0,
        "last_run_received_bytes": bad["bytes"],
        "owed_recordings": 3,
        "last_success_timestamp_seconds": end,
        "fingerprint_info": 1,
    }
    assert path.stat().st_ino != inode, "written in place: a scrape could see half of it"
    assert path.stat().st_mode & 0o444 == 0o444, "node_exporter runs as another user"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["g2a.prom", "recordings"]


def test_metrics_of_a_run_that_could_not_begin(service: SimulatedService, tmp_path: Path) -> None:
    path = tmp_path / "g2a.prom"
    env = {**service.environment(), "G2A_ARCHIVE_TOKEN": ""}
    result = run_cli([*RUN, FIRST, "--metrics-file", path], env, cwd=tmp_path)
    assert result.returncode == 4
    values = metrics(path)
    assert values["last_run_exit_code"] == 4
    assert "last_success_timestamp_seconds" not in values


@pytest.mark.parametrize("why", ["no credentials", "no space", "another run"])
def test_metrics_tell_of_the_last_success_whatever_ended_this_run(
    why: str, serve: Serve, tmp_path: Path
) -> None:
    """An alarm on its age must not fall silent in the very nights that fail."""
    service = mixed(serve)
    path, env = tmp_path / "g2a.prom", service.environment()
    args: Args = ["--metrics-file", path]
    assert run_cli([*RUN, FIRST + 3, *args], env, cwd=tmp_path).returncode == 0
    before = metrics(path)
    lock = RunLock(tmp_path / "recordings" / ".g2a-archive" / "lock")
    if why == "no credentials":
        env["G2A_ARCHIVE_TOKEN"] = ""
    elif why == "no space":
        args += ["--min-free", "9000T"]
    else:
        lock.acquire()
    result = run_cli([*RUN, FIRST + 4, *args], env, cwd=tmp_path)
    lock.release()
    after = metrics(path)
    assert after["last_run_exit_code"] == result.returncode > 3
    for name in ("last_success_timestamp_seconds", "owed_recordings"):
        assert after[name] == before[name]


def test_a_dry_run_leaves_error_file_and_metrics_alone(
    service: SimulatedService, tmp_path: Path
) -> None:
    """Also where the IDs come from the error file of the night before."""
    (tmp_path / "errors").write_text(last := f"{FIRST}  # mp4: failed\n")
    args: Args = [*RUN, "-f", "errors", "--dry-run", "--error-file", "errors"]
    args = [*args, "--metrics-file", "m"]
    assert run_cli(args, service.environment(), cwd=tmp_path).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["errors"]
    assert (tmp_path / "errors").read_text() == last


def test_metrics_text_ends_as_prometheus_wants_it() -> None:
    report = Report("2026-11-23T02:00:00Z", finished_at="2026-11-23T02:00:05Z")
    text = metrics_text(report, owed=None, success=None)
    assert text.endswith("\n")
    assert "owed_recordings" not in text
    assert {line.split()[0] for line in text.splitlines() if line[0] != "#"} >= {
        "g2a_archive_last_success_timestamp_seconds", "g2a_archive_last_run_exit_code",
    }  # fmt: skip


OUTPUTS = ["--metrics-file", "--error-file", "--log-file"]


@pytest.mark.parametrize("option", OUTPUTS)
def test_a_file_that_has_no_place_is_told_before_the_run(
    still: SimulatedService, tmp_path: Path, option: str
) -> None:
    (tmp_path / "there").mkdir()
    for path, why in (
        ("no\x1b[31m/where", f"{option}: there is no directory {tmp_path}/no\\x1b[31m ("),
        ("there", f"{option}: there is a directory"),
        ("-", f"{option}: - is no file (name one; /dev/stdout is one)"),
    ):
        line = refused(still, tmp_path, [*RUN, FIRST, option, path])
        assert line.startswith(f"g2a-archive: {why}".replace("there is a", f"{path} is a"))


LOST: dict[str, list[str]] = {
    "--metrics-file": ["errors", "run.log", "stdout"],
    "--error-file": ["m.prom", "run.log", "stdout"],
    "stdout": ["errors", "m.prom", "run.log"],
}


@pytest.mark.parametrize("lost", LOST)
def test_what_fails_at_the_end_takes_nothing_else_along(
    serve: Serve, tmp_path: Path, lost: str
) -> None:
    """Its directory vanishes in mid-run."""
    service = mixed(serve)
    away = tmp_path / "away"
    away.mkdir()

    def vanish(request: Request) -> None:
        if request.call == "file":
            with suppress(FileNotFoundError):  # another answer, at the same time, was first
                away.rmdir()

    service.on_request.append(vanish)
    names = {"--error-file": "errors", "--metrics-file": "m.prom", "--log-file": "run.log"}
    options = [f"{o}={away / n if o == lost else tmp_path / n}" for o, n in names.items()]
    args: Args = [*RUN, *IDS, *options]
    with open("/dev/full" if lost == "stdout" else tmp_path / "stdout", "w") as stdout:
        result = run_cli(args, service.environment(), cwd=tmp_path, stdout=stdout)
    assert result.returncode == 6
    why = "cannot write to standard output: No space left" if lost == "stdout" else "cannot write"
    (line,) = [line for line in result.stderr.splitlines() if " ERROR cannot " in line]
    assert f"ERROR {why}" in line
    for name in LOST[lost]:
        assert (tmp_path / name).read_text(), name
    assert states(tmp_path / "recordings")[FIRST] == "archived"


def test_a_device_is_written_to_and_not_replaced(serve: Serve, tmp_path: Path) -> None:
    service = mixed(serve)
    args: Args = [*RUN, *IDS, "--json", "--error-file"]
    result = run_cli([*args, "/dev/stderr"], service.environment(), cwd=tmp_path)
    assert f"{UNKNOWN}  # refused" in result.stderr
    # What it is in cron's place: a regular file, which would be replaced under its writer.
    path = tmp_path / "stderr"
    with open(path, "w") as stderr:
        inode = path.stat().st_ino
        run_cli([*args, "/dev/fd/2"], service.environment(), cwd=tmp_path, stderr=stderr)
    assert f"{UNKNOWN}  # refused" in path.read_text()
    assert path.stat().st_ino == inode


def test_a_symbolic_link_stays_one(serve: Serve, tmp_path: Path) -> None:
    service = mixed(serve)
    (tmp_path / "link").symlink_to("real")
    run_cli([*RUN, *IDS, "--error-file", "link"], service.environment(), cwd=tmp_path)
    assert (tmp_path / "link").is_symlink()
    assert f"{UNKNOWN}  # refused" in (tmp_path / "real").read_text()


def test_one_is_told_as_one(
    service: SimulatedService, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, args = tmp_path / "archive", ["-d", str(tmp_path / "archive")]
    assert run_here(service, root, [FIRST], kinds=(FileKind.MP4,)).archived == 1
    merge = ["merge", "--dry-run", str(root), "-d", str(tmp_path / "other")]
    bag = ["bag", str(tmp_path / "bag"), str(FIRST), *args]
    remove = ["remove", str(FIRST), *args]
    for command in (["status", *args], ["verify", *args], ["browse", *args], bag, merge, remove):
        assert main.run(command) == 0
    said = capsys.readouterr().out
    assert min(said.count("1 recording"), said.count("1 file")) >= 5
    assert re.findall(r"(?<![\d.,:-])1 [a-z]+s\b", said) == []
