"""Other people's homes, empty variables, files of another owner: what users meet that have them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from support import report_of, run_cli
from support.auth import once_only, secret_file
from support.cli import FIRST, Args
from support.mounts import need_modes, need_root, tmpfs, unmount

from g2a_archive.cli.main import cli
from g2a_archive.demo import SimulatedService

NOBODY = 65534


def as_anybody(args: Args, env: Mapping[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the program without root's right to pass over the modes of other people's files."""
    need_root()
    return run_cli(args, env, cwd=cwd, before=need_modes())


# --- configuration ---------------------------------------------------------------------------


@pytest.fixture
def others_home(tmp_path: Path) -> Path:
    """A home, with a configuration file, that nobody else may look into."""
    home = tmp_path / "home"
    (home / "g2a-archive").mkdir(parents=True)
    (home / "g2a-archive" / "config.toml").write_text("jobs = 'not for you'\n")
    home.chmod(0o700)
    return home


def test_the_home_of_another_user(
    service: SimulatedService, others_home: Path, tmp_path: Path
) -> None:
    """As `setpriv` and `runuser` leave HOME: a file that nobody asked for is passed over."""
    need_root()
    os.chown(others_home, NOBODY, NOBODY)
    env = {**service.environment(), "XDG_CONFIG_HOME": str(others_home)}
    args: Args = ["download", FIRST, "--min-free", "0", "--json"]
    done = as_anybody(args, env, tmp_path)
    assert report_of(done)["archived"] == 1
    assert done.stderr == ""
    for name, code in (("check", 0), ("config show", 0)):
        done = as_anybody([*name.split(), "--min-free", "0"], env, tmp_path)
        assert done.returncode == code, done.stderr
        assert "config.toml: Permission denied" in done.stdout
    path = others_home / "g2a-archive" / "config.toml"
    for more in (["--config", path], ["--profile", "x"]):
        done = as_anybody([*args, *more], env, tmp_path)
        assert done.returncode == 2
        assert "cannot read the configuration file" in done.stderr


def test_a_home_that_is_no_directory(service: SimulatedService, tmp_path: Path) -> None:
    env = {**service.environment(), "XDG_CONFIG_HOME": "/dev/null"}
    result = run_cli(["download", FIRST, "--min-free", "0"], env, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")


def test_no_home_at_all(service: SimulatedService, tmp_path: Path) -> None:
    """A container's user may have none; a directory called "~" where it is run is not meant."""
    stray = tmp_path / "~/.config/g2a-archive"
    stray.mkdir(parents=True)
    (stray / "config.toml").write_text("jobs = 'not for you'\n")
    env = {**service.environment(renewable=True), "XDG_CONFIG_HOME": "~/.config"}
    result = run_cli(["download", FIRST, "--min-free", "0"], env, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    result = run_cli(["login", "--paste"], env, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert "no home directory to keep a sign-in in (set HOME or XDG_CONFIG_HOME" in result.stderr
    assert [file.name for file in stray.iterdir()] == ["config.toml"]


@pytest.mark.parametrize(
    ("env", "args", "where"),
    [
        ({}, ["--dest=~/a"], "--dest"),
        ({}, ["--config=~/c.toml"], "--config"),
        ({"G2A_ARCHIVE_CONFIG": "~/c.toml"}, [], "--config"),
        ({"G2A_ARCHIVE_TOKEN_FILE": "~/c.toml"}, [], "token_file (environment)"),
    ],
)
def test_a_path_in_a_home_that_is_not_there(
    env: dict[str, str], args: Args, where: str, service: SimulatedService, tmp_path: Path
) -> None:
    env = {**service.environment(), "HOME": "~", **env}
    result = run_cli(["download", FIRST, *args], env, cwd=tmp_path)
    assert result.returncode == 2
    assert f"{where}: '~/" in result.stderr
    assert "this user has no home directory; write the path in full" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def variables() -> Iterator[str]:
    commands = [cli.get_command(None, name) for name in ("sync", "download")]  # type: ignore[arg-type]
    yield from {str(p.envvar) for one in commands if one for p in one.params if p.envvar}
    yield from (f"G2A_ARCHIVE_{name}" for name in ("PAT", "TOKEN_FILE", "CLIENT_SECRET_FILE"))
    yield from ("G2A_ARCHIVE_TOKEN_URL", "G2A_ARCHIVE_AUTH_SCHEME", "XDG_CONFIG_HOME", "HOME")
    yield from ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "REQUESTS_CA_BUNDLE", "NO_COLOR")


def test_an_empty_variable_is_an_unset_one(service: SimulatedService, tmp_path: Path) -> None:
    """All of them at once, in a directory where a wrong reading would find something."""
    (tmp_path / "g2a-archive").mkdir()
    (tmp_path / "g2a-archive" / "config.toml").write_text("no TOML")
    env = {**dict.fromkeys(variables(), ""), **service.environment()}
    result = run_cli(["download", FIRST, "--min-free", "0", "--json"], env, cwd=tmp_path)
    assert report_of(result)["archived"] == 1, result.stderr
    assert (tmp_path / "recordings").is_dir()


@pytest.mark.parametrize(
    "content",
    [b"\xef\xbb\xbflayout = '%Y'\r\n", b"\xef\xbb\xbf# kept\r\nlayout = '%Y'\r\n[auth]\r\n"],
)
def test_a_configuration_file_from_windows(
    content: bytes, service: SimulatedService, tmp_path: Path
) -> None:
    (tmp_path / "c.toml").write_bytes(content)
    args: Args = ["download", FIRST, "--min-free", "0", "--config", "c.toml"]
    assert run_cli(args, service.environment(), cwd=tmp_path).returncode == 0
    assert (tmp_path / "recordings" / "2013" / f"{FIRST}.mp4").exists()


# --- the refresh token -----------------------------------------------------------------------


def with_refresh_token(service: SimulatedService, path: Path) -> dict[str, str]:
    """The environment of a client that keeps its refresh token there; each is good once."""
    service.behaviour.rotate_refresh_tokens = True
    service.on_request.append(once_only(set()))
    env = service.environment(renewable=True)
    del env["G2A_ARCHIVE_PAT"]
    return {**env, "G2A_ARCHIVE_REFRESH_TOKEN_FILE": str(path)}


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A file on the host, and the mount of it that a container sees."""
    need_root("mount")
    host, inside = tmp_path / "host token", tmp_path / "in side" / "token"
    inside.parent.mkdir()
    for path in (host, inside):
        path.touch(0o600)
    done = subprocess.run(["mount", "--bind", host, inside], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr!r}")
    yield host, inside
    unmount(inside)


def test_a_refresh_token_that_is_a_mount_of_its_own(
    service: SimulatedService, mounted: tuple[Path, Path], tmp_path: Path
) -> None:
    """The new one must be in the host's file: what lies beside it goes with the container."""
    host, inside = mounted
    first = service.issue_refresh_token()
    host.write_text(first)
    env = with_refresh_token(service, inside)
    seen = {first}
    for number in range(3):
        args: Args = ["download", FIRST + number, "--min-free", "0"]
        result = run_cli(args, env, cwd=tmp_path)
        assert (result.returncode, result.stderr) == (0, "")
        assert host.read_text().strip() not in seen
        seen.add(host.read_text().strip())
        assert os.listdir(inside.parent) == ["token"]
    assert host.stat().st_mode & 0o777 == 0o600


def test_a_mount_that_cannot_be_written_is_noticed_before_the_token_is_spent(
    service: SimulatedService, mounted: tuple[Path, Path], tmp_path: Path
) -> None:
    host, inside = mounted
    host.write_text(service.issue_refresh_token())
    subprocess.run(["mount", "-o", "remount,bind,ro", inside], check=True)
    env = with_refresh_token(service, inside)
    result = run_cli(["download", FIRST, "--min-free", "0"], env, cwd=tmp_path)
    assert result.returncode == 6
    assert "Read-only file system" in result.stderr
    assert service.requests.counts["token"] == 0


def test_a_disk_without_room_is_noticed_before_the_token_is_spent(
    service: SimulatedService, tmp_path: Path
) -> None:
    """Room for a part of what may come is none."""
    with tmpfs(tmp_path / "disk", "16k") as disk:
        path = secret_file(disk / "token", first := service.issue_refresh_token())
        with suppress(OSError), open(disk / "others", "wb", buffering=0) as others:
            while others.write(bytes(4096)):
                pass
        env = with_refresh_token(service, path)
        result = run_cli(["download", FIRST, "--min-free", "0"], env, cwd=tmp_path)
        assert result.returncode == 6
        assert "No space left on device" in result.stderr
        assert path.read_text() == first
    assert service.requests.counts["token"] == 0


def test_a_refresh_token_that_root_renews_stays_its_owner_s(
    service: SimulatedService, tmp_path: Path
) -> None:
    need_root()
    path = secret_file(tmp_path / "token", first := service.issue_refresh_token())
    os.chown(path, NOBODY, NOBODY)
    env = with_refresh_token(service, path)
    assert run_cli(["download", FIRST, "--min-free", "0"], env, cwd=tmp_path).returncode == 0
    assert path.read_text() != first
    owners = {one.name: one.stat().st_uid for one in tmp_path.glob("token*")}
    assert owners == {"token": NOBODY, "token.lock": NOBODY}


def test_a_refresh_token_in_a_directory_of_another_owner(
    service: SimulatedService, tmp_path: Path
) -> None:
    need_root()
    (tmp_path / "etc").mkdir()
    path = secret_file(tmp_path / "etc" / "token", service.issue_refresh_token())
    os.chown(path.parent, NOBODY, NOBODY)
    path.parent.chmod(0o755)
    env = with_refresh_token(service, path)
    for number in range(2):
        done = as_anybody(["download", FIRST + number, "--min-free", "0"], env, tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
    path.chmod(0o400)
    os.chown(path, 0, 0)
    shutil.rmtree(tmp_path / "recordings")
    spent = service.requests.counts["token"]
    done = as_anybody(["download", FIRST, "--min-free", "0"], env, tmp_path)
    assert done.returncode == 6
    assert service.requests.counts["token"] == spent


def test_check_tells_the_age_of_the_sign_in(service: SimulatedService, tmp_path: Path) -> None:
    path = secret_file(tmp_path / "token", service.issue_refresh_token())
    env = with_refresh_token(service, path)
    service.behaviour.rotate_refresh_tokens = False
    service.on_request.clear()
    past = time.time() - 12.2 * 86400
    os.utime(path, (past, past))
    result = run_cli(["check", "--min-free", "0", "--json"], env, cwd=tmp_path)
    answer = json.loads(result.stdout)
    assert answer["exit_code"] == result.returncode == 0
    by_name = {one["check"]: one for one in answer["checks"]}
    assert list(by_name) == [
        "configuration", "credentials", "sign-in", "clock", "destination", "lock", "catalogue"
    ]  # fmt: skip
    assert all(one["ok"] for one in by_name.values())
    assert "last renewed 12 days ago, and now" in by_name["sign-in"]["message"]
    # It was used just now, although the service left it as it is.
    again = run_cli(["check", "--min-free", "0"], env, cwd=tmp_path)
    assert "12 days" not in again.stdout
    assert "sign-in: last renewed " in again.stdout
    ahead = time.time() + 365 * 86400
    os.utime(path, (ahead, ahead))
    wrong = run_cli(["check", "--min-free", "0"], env, cwd=tmp_path)
    assert "sign-in: last renewed by a clock that was ahead, and now; one " in wrong.stdout


def test_check_says_in_json_what_is_wrong(service: SimulatedService, tmp_path: Path) -> None:
    service.revoke()
    result = run_cli(["check", "--min-free", "0", "--json"], service.environment(), cwd=tmp_path)
    answer = json.loads(result.stdout)
    assert answer["exit_code"] == result.returncode == 4
    assert [one["check"] for one in answer["checks"] if not one["ok"]] == ["credentials"]
