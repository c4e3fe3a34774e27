"""Refresh tokens: no replacement is lost, whatever fails, and whoever else renews."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support import auth as auth_support
from support.auth import Watch, accepted, once_only, refreshing, secret_file, seen_of, token_calls

from g2a_archive.auth import secretfile
from g2a_archive.auth.credentials import AuthSettings
from g2a_archive.auth.secretfile import locked, read_secret, reserve_replacement
from g2a_archive.demo import (
    SimulatedService,
)
from g2a_archive.errors import (
    CredentialsError,
    ExitCode,
    Interrupted,
    StorageError,
)

service = auth_support.service
client = auth_support.client
refresh_file = auth_support.refresh_file
watch = auth_support.watch


# Refresh tokens, and keeping their replacements.


def test_each_replacement_is_kept_before_it_is_used(
    service: SimulatedService, client: AuthSettings, refresh_file: Path, watch: Watch
) -> None:
    service.behaviour.rotate_refresh_tokens = True
    used: set[str] = set()
    service.on_request.append(once_only(used))
    credentials = refreshing(client, refresh_file, watch)
    for count in range(1, 4):
        header = credentials.authorization()
        assert accepted(service, header)
        assert read_secret(refresh_file, "it") not in used
        assert len(used) == count
        assert credentials.renew(header) or count == 3
    assert refresh_file.stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(refresh_file.parent)) == ["refresh_token", "refresh_token.lock"]
    assert used <= credentials.secrets()


def test_without_a_replacement_the_file_stays(
    client: AuthSettings, refresh_file: Path, watch: Watch
) -> None:
    before, text = refresh_file.stat().st_ino, refresh_file.read_text()
    refreshing(client, refresh_file, watch).authorization()
    assert (refresh_file.stat().st_ino, refresh_file.read_text()) == (before, text)
    assert sorted(os.listdir(refresh_file.parent)) == ["refresh_token", "refresh_token.lock"]


def test_a_symbolic_link_stays_one(
    service: SimulatedService, client: AuthSettings, refresh_file: Path, watch: Watch
) -> None:
    service.behaviour.rotate_refresh_tokens = True
    (refresh_file.parent / "links").mkdir()
    link = refresh_file.parent / "links" / "token"
    link.symlink_to(refresh_file)
    before = refresh_file.read_text()
    refreshing(client, link, watch).authorization()
    assert link.is_symlink()
    assert refresh_file.read_text() != before
    assert os.listdir(link.parent) == ["token"]


def test_a_dead_refresh_token_says_what_to_do(
    service: SimulatedService, client: AuthSettings, refresh_file: Path, watch: Watch
) -> None:
    service.revoke(refresh_file.read_text())
    with pytest.raises(CredentialsError) as caught:
        refreshing(client, refresh_file, watch).authorization()
    assert "g2a-archive login" in caught.value.hint
    assert refresh_file.read_text() not in seen_of(caught.value)


def broken(function: Callable[..., int], suffix: str) -> Callable[..., int]:
    def fail(path: str | os.PathLike[str] | int, *rest: object) -> int:
        if isinstance(path, int) or os.fspath(path).endswith(suffix):
            raise OSError(30, "Read-only file system")
        return function(path, *rest)

    return fail


@pytest.mark.parametrize("suffix", ["", ".new"])
def test_no_place_for_a_replacement_is_noticed_before_the_old_one_is_spent(
    suffix: str,
    service: SimulatedService,
    client: AuthSettings,
    refresh_file: Path,
    watch: Watch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    credentials = refreshing(client, refresh_file, watch)
    monkeypatch.setattr(os, "open", broken(os.open, suffix))  # beside it
    monkeypatch.setattr(os, "pwrite", broken(os.pwrite, ""))  # nor in it
    with pytest.raises(StorageError, match="Read-only") as caught:
        credentials.authorization()
    assert caught.value.exit_code is ExitCode.STORAGE
    assert token_calls(service) == 0


def test_a_replacement_that_cannot_be_kept_is_told_and_found_again(
    service: SimulatedService,
    client: AuthSettings,
    refresh_file: Path,
    watch: Watch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service.behaviour.rotate_refresh_tokens = True
    service.on_request.append(once_only(set()))
    credentials = refreshing(client, refresh_file, watch)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", broken(os.replace, ".new"))  # type: ignore[arg-type]
        patch.setattr(secretfile, "_write_in_place", broken(os.pwrite, ""))
        with pytest.raises(StorageError, match="could not be kept") as caught:
            credentials.authorization()
    assert "old one may be dead" in caught.value.hint
    assert not any(secret in seen_of(caught.value) for secret in credentials.secrets())
    again = refreshing(client, refresh_file, watch)
    assert accepted(service, again.authorization())


@pytest.mark.parametrize("left", ["", "\n" * 8192, "\0" * 8192, "refresh-\0\0", "refresh-half"])
def test_an_unfinished_successor_is_dropped(
    left: str, client: AuthSettings, refresh_file: Path, service: SimulatedService, watch: Watch
) -> None:
    secret_file(refresh_file.with_name("refresh_token.new"), left)
    assert accepted(service, refreshing(client, refresh_file, watch).authorization())


@pytest.mark.parametrize("behind", ["", "\n" * 8000, "\0" * 8000])
def test_a_successor_that_a_crash_left_counts(
    behind: str, client: AuthSettings, refresh_file: Path, service: SimulatedService, watch: Watch
) -> None:
    """After a power cut there may be zeros where nothing was to be any more."""
    old, new = refresh_file.read_text(), service.issue_refresh_token()
    service.revoke(old.strip())
    secret_file(refresh_file.with_name("refresh_token.new"), f"{new}\n{behind}")
    assert accepted(service, refreshing(client, refresh_file, watch).authorization())
    assert refresh_file.read_text() == f"{new}\n"


def test_a_token_that_was_put_there_later_counts(refresh_file: Path, watch: Watch) -> None:
    successor = secret_file(refresh_file.with_name("refresh_token.new"), "left-by-a-crash\n")
    os.utime(successor, (1, 1))
    with locked(refresh_file, watch.wait) as target:
        assert read_secret(target, "it").startswith("refresh-")
    assert not successor.exists()


def test_a_lock_that_is_never_released(
    refresh_file: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secretfile, "LOCK_TRIES", 3)
    with locked(refresh_file, watch.wait):
        with pytest.raises(StorageError, match="for too long"), locked(refresh_file, watch.wait):
            raise AssertionError("locked twice")
        watch.stop_after = 4
        with pytest.raises(Interrupted), locked(refresh_file, watch.wait):
            raise AssertionError("locked twice")
    assert watch.waits == [secretfile.LOCK_PAUSE] * 4


def test_a_lock_file_that_was_removed_meanwhile_is_no_lock(
    refresh_file: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = secretfile.beside(refresh_file, ".lock")
    taken: list[int] = []

    def flock(descriptor: int, operation: int) -> None:
        if not taken:
            lock.unlink()  # by a logout, between opening and locking
        taken.append(descriptor)

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(refresh_file, watch.wait):
        assert lock.exists()
    assert len(taken) == 2


def test_a_secret_file_is_for_the_owner_alone(tmp_path: Path, watch: Watch) -> None:
    path = tmp_path / "secret"
    for value in ("one", "two"):
        with locked(path, watch.wait) as target, reserve_replacement(target) as store:
            store(value)
    assert path.read_text() == "two\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_nothing_is_left_of_a_successor_that_never_came(tmp_path: Path) -> None:
    path = secret_file(tmp_path / "secret", "one")
    with pytest.raises(KeyError), reserve_replacement(path):
        raise KeyError
    assert os.listdir(tmp_path) == ["secret"]
