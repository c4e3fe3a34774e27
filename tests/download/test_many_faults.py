"""One night in which everything goes wrong at once, in the real process, and the night after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from support import (
    archive_files,
    archive_size,
    assert_archive_equals,
    assert_nothing_false,
    catalog_rows,
    cli_here,
    download_args,
    report_of,
    run_cli,
    states,
)
from support.service import Serve

from g2a_archive.demo import Fault, Response, SimulatedService, faults, sample_recordings
from g2a_archive.demo.recordings import KINDS

SIZE = 100_000

STAY = {
    "connection reset": faults.reset(0),
    "the connection was closed early": faults.drop(),
    "nothing came within the time-out": faults.stall(0),
    "the link was answered with 404, also with a new link": faults.status(404),
    "the link was answered with a web page, also with a new link": faults.html(),
    "the file host answered 429": faults.status(429),
    "the file host answered 503": faults.status(503),
    "the file host answered 418": faults.status(418),
    "too many redirects": faults.redirect("?again"),
}

PASS = [
    faults.reset(SIZE // 2),
    faults.close(SIZE // 2),
    faults.drop(),
    faults.status(410),
    faults.html(),
    faults.status(503, retry_after="0"),
    faults.gzipped(),
    faults.chunked(),
    faults.no_length(),
    faults.changed(1) | faults.reset(SIZE // 2),
    Fault(response=Response(200)),
]


def the_night_after(
    service: SimulatedService,
    root: Path,
    *,
    owed: Sequence[int],
    unavailable: Sequence[int],
    missing: int,
) -> None:
    """All is well, and only the `missing` files are fetched."""
    service.on_request.clear()
    for id_ in unavailable:
        service.set_state(id_, "ready")
    done = set(archive_files(root))
    before = service.requests.file_bytes_sent
    service.requests.clear()
    errors_of_last_night = root.parent / "again"
    errors_of_last_night.write_text("".join(f"{id_}\n" for id_ in owed))
    again = cli_here(download_args(root, "-f", errors_of_last_night), service.environment())
    assert (again.returncode, again.stderr) == (0, "")
    assert_archive_equals(service, root)
    fetched = len(archive_files(root)) - len(done)
    assert service.requests.counts["file"] == fetched == missing
    # What came twice: bodies that were cut off or of no use, within both sockets' buffers.
    total = before + service.requests.file_bytes_sent
    assert total <= 1.2 * archive_size(service)


def test_a_night_in_which_everything_goes_wrong(serve: Serve, root: Path, tmp_path: Path) -> None:
    service = serve(sample_recordings(48, mp4_size=SIZE, unavailable_every=16))
    ready = [id_ for id_ in service.recordings if service.state(id_) == "ready"]
    unavailable = [id_ for id_ in service.recordings if id_ not in ready]
    free = iter(ready)
    expected = set()
    for kind in KINDS:
        for reason, fault in STAY.items():
            id_ = next(free)
            service.fail_files(fault, kind, id_)
            expected.add((id_, kind, reason))
    for fault in PASS:
        service.fail_files(fault, "mp4", next(free), times=1)
    refused = 4711
    errors = tmp_path / "errors"
    args: list[str | int | Path] = [
        "--retries",
        1,
        "--timeout",
        "0.5",
        "--jobs",
        16,
        "--error-file",
        errors,
    ]
    result = run_cli(
        download_args(root, *args, refused, *service.recordings), service.environment()
    )
    report = report_of(result)
    assert report["exit_code"] == 1
    assert report["requested"] == 49
    assert report["unavailable"] == unavailable
    assert report["refused"] == [refused]
    assert {(f["id"], f["file"], f["reason"]) for f in report["failed"]} == expected
    assert report["archived"] == len(ready) - len(expected)
    assert_nothing_false(service, root)

    bad = {id_ for id_, _, _ in expected}
    told = states(root)
    assert {id_ for id_, state in told.items() if state == "failed"} == bad
    assert {id_ for id_, state in told.items() if state == "archived"} == {*ready} - bad
    reasons = dict(catalog_rows(root, "SELECT id, reason FROM recording WHERE state = 'failed'"))
    assert reasons == {id_: f"{kind}: {reason}" for id_, kind, reason in expected}
    for id_, kind, reason in expected:
        assert f" ERROR recording {id_}: {kind}: {reason}\n" in result.stderr
    lines = dict(line.split("  # ") for line in errors.read_text().splitlines())
    assert lines.keys() == {str(id_) for id_ in {*bad, *unavailable, refused}}
    assert service.requests.leaks == []
    assert service.requests.peak_rate() <= 10
    for secret in (service.token, "key="):
        assert secret not in result.stdout + result.stderr + errors.read_text()

    owed = [int(id_) for id_ in lines if id_ != str(refused)]
    missing = len(bad) + 3 * len(unavailable)
    the_night_after(service, root, owed=owed, unavailable=unavailable, missing=missing)
