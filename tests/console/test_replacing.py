"""Files that a run replaces, where they cannot be: on odd shares, as mounts, beside a kill."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from support import run_cli
from support.cli import FIRST, Args
from support.mounts import bind

from g2a_archive.console.outputs import atomic_write
from g2a_archive.demo import SimulatedService
from g2a_archive.errors import StorageError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that is there already, alone in its directory."""
    made = tmp_path / "node" / "g2a.prom"
    made.parent.mkdir()
    made.write_text("old\n" * 5)
    return made


def refusing(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "replace", refuse)


def rewrite(path: Path) -> None:
    with atomic_write(str(path), option="--output") as out:
        out.write("new\n")


@pytest.mark.parametrize("code", [errno.EEXIST, errno.EPERM, errno.EACCES])
def test_a_share_that_does_not_rename_over_a_file(
    code: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(monkeypatch, code)
    rewrite(path)
    assert path.read_text() == "new\n"
    assert os.listdir(path.parent) == [path.name]


def test_a_share_that_does_not_tell_of_what_is_new(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = os.stat

    def told(one: int | str | Path, **more: Any) -> os.stat_result:
        if str(one).endswith(".new"):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return stat(one, **more)

    monkeypatch.setattr(os, "stat", told)
    rewrite(path)
    assert path.read_text() == "new\n"
    assert os.listdir(path.parent) == [path.name]


def test_what_could_not_be_flushed_replaces_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut it would be empty, and the old one gone."""

    def refuse(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match=f"cannot write {path}"):
        rewrite(path)
    assert path.read_text() == "old\n" * 5
    assert os.listdir(path.parent) == [path.name]


def test_owner_and_mode_stay(path: Path) -> None:
    """Whoever is to read it was given it once; cron's umask need not know."""
    path.chmod(0o646)
    if os.geteuid() == 0:
        os.chown(path, 64001, 64000)
    before = path.stat()
    old = os.umask(0o077)
    try:
        rewrite(path)
        rewrite(path.with_name("first"))
    finally:
        os.umask(old)
    after = path.stat()
    assert after.st_ino != before.st_ino
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        *(before.st_mode, before.st_uid, before.st_gid),
    )
    assert path.with_name("first").stat().st_mode & 0o777 == 0o600


def test_what_fails_leaves_the_old_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing(monkeypatch, errno.EIO)
    with pytest.raises(StorageError, match=f"cannot write {path}"):
        rewrite(path)
    with pytest.raises(ZeroDivisionError), atomic_write(str(path), option="--output") as out:
        out.write(str(1 // 0))
    assert path.read_text() == "old\n" * 5
    assert os.listdir(path.parent) == [path.name]


def test_a_run_that_was_killed_between_two_renames(path: Path) -> None:
    path.rename(f"{path}.old")
    rewrite(path)
    assert (os.listdir(path.parent), path.read_text()) == ([path.name], "new\n")


def test_a_file_that_is_a_mount_of_its_own(
    path: Path, tmp_path: Path, service: SimulatedService
) -> None:
    """As containers have them: it is written over."""
    inside = tmp_path / "inside"
    inside.touch()
    with bind(path, inside):
        args: Args = ["download", "-d", tmp_path / "recordings", "--min-free", "0"]
        result = run_cli([*args, "--metrics-file", inside, FIRST], service.environment())
    assert (result.returncode, result.stderr) == (0, "")
    assert "g2a_archive_last_run_exit_code 0" in path.read_text()
    assert "old" not in path.read_text()
    assert sorted(os.listdir(tmp_path)) == ["inside", "node", "recordings"]


def test_a_directory_that_may_not_be_written_to(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Any = open

    def no_new_file(name: str | Path, mode: str = "r", **more: Any) -> Any:
        if "w" in mode and not Path(name).exists():
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(name, mode, **more)

    monkeypatch.setattr("builtins.open", no_new_file)
    rewrite(path)
    assert path.read_text() == "new\n"
    with pytest.raises(StorageError, match="Permission denied"):
        rewrite(path.with_name("other"))
