"""Of several exit codes that hold, commands end with the first of the README's order."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import cli_here
from support.archive import Archive
from support.cli import Say

from g2a_archive.cli.commands import bag as bag_module
from g2a_archive.cli.commands import verify as verify_module
from g2a_archive.curation import remove as removing
from g2a_archive.demo import SimulatedService
from g2a_archive.errors import ExitCode

FULL = "/dev/full"


@pytest.fixture
def archive(root: Path) -> Iterator[Archive]:
    """An archive of two years."""
    made = Archive(root)
    made.add(1, "2014/05/06")
    made.add(2, "2015/05/06")
    yield made
    made.catalog.close()


def stopped(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, number: signal.Signals
) -> None:
    """The signal arrives once the work is done, which also logs a line."""
    real: Callable[..., Any] = getattr(module, name)

    def work(*args: Any, **more: Any) -> Any:
        result = real(*args, **more)
        logging.getLogger("g2a_archive").info("a line")
        os.kill(os.getpid(), number)
        return result

    monkeypatch.setattr(module, name, work)


def logging_first(real: Callable[..., Any]) -> Callable[..., Any]:
    def work(*args: Any) -> Any:
        logging.getLogger("g2a_archive").info("a line")
        return real(*args)

    return work


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("options", [[], ["--log-file", FULL], ["--max-duration", "0"]])
@pytest.mark.parametrize("mounted", [True, False])
def test_a_signal_to_verify(
    archive: Archive,
    say: Say,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    options: list[str],
    mounted: bool,
) -> None:
    if not mounted:
        shutil.rmtree(archive.root / "2014")
    stopped(monkeypatch, verify_module, "verify", number)
    code, _, err = say("verify", *options)
    assert code == 128 + number
    assert ("mounted" in err) is not mounted
    assert ("cannot write the log file" in err) is (FULL in options)


def test_without_a_signal_a_drive_comes_before_the_time(archive: Archive, say: Say) -> None:
    shutil.rmtree(archive.root / "2014")
    assert say("verify", "--max-duration", "0")[0] == ExitCode.STORAGE


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_remove(
    archive: Archive, say: Say, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    stopped(monkeypatch, removing, "remove", number)
    code, out, err = say("remove", "1", "--yes", "--log-file", FULL)
    assert code == 128 + number
    assert out.startswith("Removed 1 recording")
    assert "cannot write the log file" in err


def test_a_bag_is_told_though_the_log_file_is_full(
    archive: Archive, say: Say, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bag_module, "_chosen", logging_first(bag_module._chosen))
    code, out, err = say("bag", tmp_path / "bag", "1", "--json", "--log-file", FULL)
    assert "cannot write the log file" in err
    assert code == json.loads(out)["exit_code"] == ExitCode.STORAGE


def test_a_list_is_told_though_the_log_file_is_full(service: SimulatedService) -> None:
    args = ["list", "--account-key", "1000", "--log-file", FULL]
    result = cli_here(args, service.environment())
    assert result.returncode == ExitCode.STORAGE
    assert sorted(map(int, result.stdout.split())) == sorted(service.recordings)
    assert "cannot write the log file" in result.stderr


def test_what_an_error_of_the_system_was_met_at(
    service: SimulatedService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("n" * 300)
    env = service.environment()
    result = cli_here(["list", "--account-key", "1000", "--log-file", long / "log"], env)
    assert (result.returncode, result.stdout) == (ExitCode.STORAGE, "")
    assert result.stderr == f"g2a-archive: cannot use {long}/log: File name too long\n"


def test_a_working_directory_that_is_gone(
    service: SimulatedService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    result = cli_here(["download", "1"], service.environment())
    assert (result.returncode, result.stdout) == (ExitCode.STORAGE, "")
    assert result.stderr == (
        "g2a-archive: the working directory is gone (start from one that is there)\n"
    )
