"""`--shard K/N`: the same part of the IDs on every machine and in every version."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from support import (
    assert_archive_equals,
    catalog_rows,
    download_args,
    report_of,
    run_cli,
    run_here,
    states,
)
from support import cli as cli_support
from support.cli import refused
from support.service import Serve

from g2a_archive.demo import SimulatedService
from g2a_archive.models import MAX_ID, Shard
from g2a_archive.service import session
from g2a_archive.service.pace import CallPacer

still = cli_support.still

FIXED = {
    1: (2, 2, 2, 914),
    2: (1, 2, 7, 447),
    7: (1, 3, 7, 231),
    500: (1, 1, 1, 769),
    1234567890: (1, 1, 1, 193),
    1400000001: (2, 1, 2, 10),
    2**31: (1, 1, 1, 129),
    2**53 + 1: (1, 1, 7, 151),
    MAX_ID: (2, 1, 8, 520),
}
"""ID: its part of 2, of 3, of 8 and of 1000. These may never change: archives are made by them."""


@pytest.mark.parametrize("recording", FIXED)
def test_the_part_of_an_id_never_changes(recording: int) -> None:
    parts = tuple(
        next(k for k in range(1, count + 1) if recording in Shard(k, count))
        for count in (2, 3, 8, 1000)
    )
    assert parts == FIXED[recording]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 16])
def test_every_id_is_in_one_part_and_the_parts_are_alike(count: int) -> None:
    ids = range(1_400_000_000, 1_400_000_000 + 1000 * count)
    parts = [Shard(number, count).select(ids) for number in range(1, count + 1)]
    assert sorted(id_ for part in parts for id_ in part) == list(ids)
    assert all(800 < len(part) < 1200 for part in parts)  # 6 sigma and more


def test_what_else_is_asked_for_changes_nothing() -> None:
    chance = random.Random(1)
    ids = [*{chance.randrange(1, 10**12) for _ in range(200)}]
    shard = Shard(2, 3)
    assert shard.select(ids) == [id_ for id_ in ids if shard.select([id_])]


# --- runs ---------------------------------------------------------------------------------------


def test_all_shards_together_are_the_whole(serve: Serve, tmp_path: Path) -> None:
    service = serve(9, rate_limit=None)
    ids = list(service.recordings)
    requested = []
    for number in (1, 2, 3):
        root = tmp_path / str(number)
        args = download_args(root, "--shard", f"{number}/3", *ids, ids[0])
        report = report_of(run_cli(args, service.environment()))
        mine = Shard(number, 3).select(ids)
        assert report["requested"] == report["archived"] == len(mine)
        assert_archive_equals(service, root, mine)
        assert set(states(root)) == set(mine)  # nothing of the others is asked for, or owed
        requested.append(report["requested"])
    assert sum(requested) == len(ids)


def test_another_shard_into_the_same_archive(serve: Serve, root: Path) -> None:
    service = serve(6, rate_limit=None)
    ids = list(service.recordings)
    for number, already in ((1, 0), (1, len(Shard(1, 2).select(ids))), (2, 0)):
        report = run_here(service, root, ids, shard=Shard(number, 2))
        assert (report.exit_code, report.already_archived) == (0, already)
    assert_archive_equals(service, root)


def test_what_is_owed_by_another_shard_is_left_alone(serve: Serve, root: Path) -> None:
    service = serve(6, rate_limit=None)
    ids = list(service.recordings)
    for id_ in ids:
        service.set_state(id_, "unavailable")
    assert run_here(service, root, ids).exit_code == 3
    for id_ in ids:
        service.set_state(id_, "ready")
    report = run_here(service, root, [], owed=True, shard=Shard(2, 2))
    assert report.requested == report.archived == len(Shard(2, 2).select(ids))
    archived = {row[0] for row in catalog_rows(root, "SELECT recording FROM file")}
    assert archived == set(Shard(2, 2).select(ids))


def test_a_shard_without_any_of_the_ids_has_nothing_to_do(
    service: SimulatedService, root: Path
) -> None:
    result = run_cli(["download", "--dest", root, "--shard", "2/2", "7"], service.environment())
    assert result.returncode == 0
    assert "Nothing to do" in result.stdout
    assert service.requests.count == 0
    assert not root.exists()


@pytest.mark.parametrize("form", ["option", "environment", "file"])
def test_where_it_can_be_said(form: str, serve: Serve, root: Path, tmp_path: Path) -> None:
    service = serve(8, rate_limit=None)
    ids = list(service.recordings)
    config = tmp_path / "config.toml"
    config.write_text('shard = "2/2"\n' if form == "file" else "")
    more = ["--shard", "2/2"] if form == "option" else []
    env = {"G2A_ARCHIVE_SHARD": "2/2"} if form == "environment" else {}
    args = download_args(root, "--config", config, *more, *ids)
    report = report_of(run_cli(args, {**service.environment(), **env}))
    assert report["requested"] == len(Shard(2, 2).select(ids))


@pytest.mark.parametrize("shard", [None, Shard(2, 5)])
def test_calls_are_paced_by_the_shard(
    shard: Shard | None,
    service: SimulatedService,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shards = []

    class Noted(CallPacer):
        def __init__(self, stop: object, shard: Shard | None = None) -> None:
            shards.append(shard)
            super().__init__(stop, shard)  # type: ignore[arg-type]

    monkeypatch.setattr(session, "CallPacer", Noted)
    run_here(service, root, service.recordings, shard=shard)
    assert shards == [shard]


PARTS = "parts are counted from 1, so there are"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("0/3", f"'0/3': {PARTS} 1/3 to 3/3"),
        ("4/3", f"'4/3': {PARTS} 1/3 to 3/3"),
        ("1/0", "'1/0': the number of parts must be from 1 to 10,000"),
        ("1/100000", "'1/100000': the number of parts must be from 1 to 10,000"),
        *(
            (value, f"{value!r} is no shard; write it like 2/8, the second of eight parts")
            for value in ("1", "a/b", "", "1/", "/3", "-1/3", "1/3/5", "1.5/3", "1/9999999999")
        ),
    ],
)
@pytest.mark.parametrize("command", ["download", "sync"])
def test_impossible_shards(
    command: str, value: str, message: str, still: SimulatedService, tmp_path: Path
) -> None:
    what = ["7"] if command == "download" else ["--account-key", "1"]
    said = refused(still, tmp_path, [command, "--shard", value, *what])
    assert said == f"g2a-archive: --shard: {message}; see `g2a-archive {command} --help`"
