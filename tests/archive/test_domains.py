"""How much an error of the disk concerns, and the try that proves what concerns everything."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import mounts

from g2a_archive.archive.disk import domains
from g2a_archive.archive.disk import space as space_module
from g2a_archive.archive.disk.domains import Operation, domain_of, local_error, retry_transient
from g2a_archive.archive.disk.space import NoRoomError, Space, SpaceReservedError
from g2a_archive.archive.storage import Storage
from g2a_archive.errors import Domain, ExitCode, LocalError, StorageError

PASSING, FILE, DIRECTORY, ARCHIVE = Domain.TRANSIENT, Domain.FILE, Domain.DIRECTORY, Domain.ARCHIVE

# What an error means while bytes are written to `partial/`, a name or a directory is made, a
# directory is flushed, a file is read, a directory is listed.
TABLE = {
    "EINTR": (PASSING, PASSING, PASSING, PASSING, PASSING),
    "EAGAIN": (PASSING, PASSING, PASSING, PASSING, PASSING),
    "EBUSY": (PASSING, PASSING, PASSING, PASSING, PASSING),
    "ETXTBSY": (PASSING, PASSING, PASSING, PASSING, PASSING),
    "ESTALE": (PASSING, PASSING, PASSING, PASSING, PASSING),
    "EMFILE": (PASSING, PASSING, PASSING, PASSING, PASSING),
    "ENOMEM": (PASSING, PASSING, PASSING, PASSING, PASSING),
    "ETIMEDOUT": (PASSING, PASSING, PASSING, PASSING, PASSING),
    "EFBIG": (FILE, FILE, FILE, FILE, DIRECTORY),
    "ENAMETOOLONG": (FILE, FILE, FILE, FILE, DIRECTORY),
    "EILSEQ": (FILE, FILE, FILE, FILE, DIRECTORY),
    "EINVAL": (FILE, FILE, FILE, FILE, DIRECTORY),
    "EISDIR": (FILE, FILE, FILE, FILE, DIRECTORY),
    "EEXIST": (FILE, FILE, FILE, FILE, DIRECTORY),
    "EACCES": (ARCHIVE, DIRECTORY, DIRECTORY, FILE, DIRECTORY),
    "EPERM": (ARCHIVE, DIRECTORY, DIRECTORY, FILE, DIRECTORY),
    "EIO": (ARCHIVE, DIRECTORY, DIRECTORY, FILE, DIRECTORY),
    "ENOENT": (ARCHIVE, DIRECTORY, DIRECTORY, FILE, DIRECTORY),
    "EROFS": (ARCHIVE, DIRECTORY, DIRECTORY, DIRECTORY, DIRECTORY),
    "ENOSPC": (ARCHIVE, DIRECTORY, DIRECTORY, DIRECTORY, DIRECTORY),
    "EDQUOT": (ARCHIVE, DIRECTORY, DIRECTORY, DIRECTORY, DIRECTORY),
    "ENOTDIR": (ARCHIVE, DIRECTORY, DIRECTORY, DIRECTORY, DIRECTORY),
    "ENODEV": (ARCHIVE, DIRECTORY, DIRECTORY, DIRECTORY, DIRECTORY),
    "EHOSTDOWN": (ARCHIVE, DIRECTORY, DIRECTORY, DIRECTORY, DIRECTORY),
}


@pytest.fixture
def storage(root: Path) -> Iterator[Storage]:
    storage = Storage(root)
    storage.open()
    yield storage
    storage.close()


def error_of(code: int) -> OSError:
    return OSError(code, os.strerror(code))


@pytest.mark.parametrize("name", TABLE)
def test_the_domain_of_each_error(name: str) -> None:
    error = error_of(getattr(errno, name))
    assert tuple(domain_of(error, doing) for doing in Operation) == TABLE[name]


def test_an_error_that_nobody_has_met_is_never_passing() -> None:
    assert domain_of(OSError("without a number"), Operation.WRITE) is ARCHIVE
    assert domain_of(error_of(9999), Operation.NAME) is DIRECTORY


def test_what_a_local_error_says() -> None:
    error = local_error(error_of(errno.EACCES), Operation.NAME, "/a/2014")
    assert str(error).startswith("cannot write /a/2014: Permission denied (give the user")
    assert (error.exit_code, error.code) == (ExitCode.FAILED, errno.EACCES)
    assert error.domain is DIRECTORY


@pytest.mark.parametrize(
    ("codes", "tries"),
    [
        ([errno.EBUSY] * 5, 6),
        ([errno.EBUSY] * 6, None),
        ([errno.ESTALE, errno.ESTALE], 3),
        ([errno.EINTR, errno.ESTALE, errno.EAGAIN], 4),
        ([errno.EIO], None),
    ],
)
def test_what_passes_is_tried_again(
    codes: list[int], tries: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, waits = list(codes), list[float]()
    monkeypatch.setattr(domains, "sleep", waits.append)

    def action() -> int:
        if left:
            raise error_of(left.pop(0))
        return len(codes) + 1

    if tries is None:
        with pytest.raises(OSError, match=os.strerror(codes[-1])):
            retry_transient(action)
        assert left == []
    else:
        assert retry_transient(action) == tries
    assert sum(waits) < 1


def test_what_takes_long_to_fail_is_tried_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a share whose server is gone each try lasts until its time-out."""
    now, tries = [0.0], []

    def action() -> None:
        tries.append(now[0])
        now[0] += 180
        raise error_of(errno.ETIMEDOUT)

    monkeypatch.setattr(domains, "sleep", lambda _: None)
    monkeypatch.setattr("g2a_archive.archive.disk.domains.time.monotonic", lambda: now[0])
    with pytest.raises(OSError, match=os.strerror(errno.ETIMEDOUT)):
        retry_transient(action)
    assert len(tries) == 2


# --- the try ----------------------------------------------------------------------------------


def test_a_try_leaves_nothing_behind(storage: Storage) -> None:
    storage.require_writable()
    assert list(storage.partial.iterdir()) == []


def test_a_try_on_a_disk_that_is_full(root: Path) -> None:
    """A byte may still fit where running transfers have given some back; a file does not."""
    with mounts.tmpfs(root, "4m"):
        storage = Storage(root)
        storage.open()
        (root / "much").write_bytes(bytes(2 << 20))
        storage.require_writable()
        full = local_error(error_of(errno.ENOSPC), Operation.WRITE, storage.partial / "1.mp4.part")
        with pytest.raises(StorageError, match="No space left on device") as caught:
            storage.require_writable(full)
        assert caught.value.exit_code == ExitCode.STORAGE
        assert list(storage.partial.iterdir()) == []
        mounts.grow(root, "64m")
        storage.require_writable(full)
        storage.close()


def test_a_try_after_another_disk_is_full(root: Path) -> None:
    """A year's full disk says nothing of the archive's own, which has room for a small file."""
    with mounts.tmpfs(root, "4m"), mounts.tmpfs(root / "2014", "1m"):
        storage = Storage(root)
        storage.open()
        for name in ("2014/05/06/1.mp4", "2014/05/06", "2014"):
            storage.require_writable(
                local_error(error_of(errno.ENOSPC), Operation.NAME, root / name)
            )
        with pytest.raises(StorageError, match="No space left on device"):
            storage.require_writable(
                local_error(error_of(errno.ENOSPC), Operation.NAME, root / "2015/1.mp4")
            )
        storage.close()


def test_inodes_that_are_used_up_are_named(root: Path) -> None:
    with mounts.tmpfs(root, "4m,nr_inodes=8"):
        storage = Storage(root)
        storage.open()
        for number in range(8):
            try:
                (root / str(number)).touch()
            except OSError:
                break
        with pytest.raises(StorageError, match="its inodes are used up") as caught:
            storage.require_writable()
        assert "remove files that nobody needs" in caught.value.hint
        with pytest.raises(LocalError, match="its inodes are used up") as refused:
            storage.make_directory("2014/05")
        assert refused.value.domain is DIRECTORY
        storage.close()


def test_a_try_on_another_drive(root: Path, tmp_path: Path) -> None:
    with mounts.tmpfs(tmp_path / "store", "4m") as store:
        with mounts.bind(store, root):
            storage = Storage(root)
            storage.open()
        (root / ".g2a-archive" / "partial").mkdir(parents=True)
        with pytest.raises(StorageError, match="no longer the drive") as caught:
            storage.require_writable()
        assert caught.value.exit_code == ExitCode.STORAGE
        assert "mounted?" in caught.value.hint
        storage.close()


# --- directories ------------------------------------------------------------------------------


def test_a_directory_is_refused_as_long_as_something_is_in_its_way(
    storage: Storage, root: Path
) -> None:
    (root / "2014").write_text("in the way")
    for _ in range(2):
        with pytest.raises(LocalError, match=r"2014: Not a directory") as caught:
            storage.make_directory("2014/05/06")
        assert caught.value.domain is DIRECTORY
    storage.make_directory("2015/05/06")
    (root / "2014").unlink()
    storage.make_directory("2014/05/06")
    assert (root / "2014/05/06").is_dir()
    assert (root / "2015/05/06").is_dir()


def test_a_directory_that_is_busy_for_a_moment(
    storage: Storage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir, codes = os.mkdir, [errno.EBUSY, errno.ESTALE, errno.EAGAIN]

    def busy(path: str, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        if codes:
            raise error_of(codes.pop())
        mkdir(path, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mkdir", busy)
    storage.make_directory("2014/05/06")
    assert codes == []
    assert (root / "2014/05/06").is_dir()


def test_what_was_made_is_flushed_by_whoever_flushes_next(
    storage: Storage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by one whose own directory had been there: both may be claimed in one step.

    The archive itself was made, too.
    """
    flushed: list[str] = []
    monkeypatch.setattr(
        "g2a_archive.archive.disk.flushing.flush_directory", lambda path: flushed.append(str(path))
    )
    storage.make_directory("2014/05/06")
    assert storage.flush([f"{root}/2013"]) == {}
    ends = ("", "/.g2a-archive", "/2013", "/2014", "/2014/05")
    assert sorted(flushed) == sorted([str(root.parent), *(f"{root}{end}" for end in ends)])


def test_a_directory_that_cannot_be_flushed_is_told(
    storage: Storage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = f"{root}/2014/05/06"

    def flush(path: str) -> None:
        if path == bad:
            raise error_of(errno.EIO)

    for directory in ("2014/05/06", "2014/05/07"):
        storage.make_directory(directory)
    monkeypatch.setattr("g2a_archive.archive.disk.flushing.flush_directory", flush)
    failed = storage.flush([bad, f"{root}/2014/05/07"])
    assert list(failed) == [bad]
    assert failed[bad].domain is DIRECTORY
    assert f"cannot flush the directory {bad}: Input/output error" in str(failed[bad])


def test_names_that_a_share_shows_in_capitals(storage: Storage, root: Path) -> None:
    """It opens them by any; where both are files of their own, the other is none of ours."""
    (root / "day").mkdir()
    (root / "day" / "7.MP4").touch()
    assert storage.find("day", ["7.mp4"]) is None
    (root / "day" / "7.mp4").touch()  # what a share that folds names would say is there
    assert storage.find("day", ["7.mp4"]) == f"{root}/day/7.mp4"


def test_all_that_stands_in_a_file_s_place_is_kept_aside(storage: Storage, root: Path) -> None:
    """Also what has come since it was looked for, and under which of its names ever."""
    storage.make_directory("day")
    names = ("7.jpg", "7.png", "7.gif")
    assert storage.find("day", names) is None
    for name in names[1:]:
        (root / "day" / name).write_text(name)
    part = storage.partial / "7.part"
    part.write_text("new")
    assert storage.publish(str(part), "day", names, "7.png") == ["7.png.kept-1", "7.gif.kept-1"]
    there = {path.name: path.read_text() for path in (root / "day").iterdir()}
    assert there == {"7.png": "new", "7.png.kept-1": "7.png", "7.gif.kept-1": "7.gif"}


# --- space ------------------------------------------------------------------------------------


def statvfs_of(*, free: int, total: int) -> os.statvfs_result:
    return os.statvfs_result((4096, 4096, total // 4096, free // 4096, free // 4096, 0, 0, 0, 0, 0))


def test_a_file_system_that_does_not_tell_its_space_is_not_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((0,) * 10))
    space = Space(tmp_path, 1 << 30)
    space.require()
    space.reserve("one", 1 << 50)
    for code in (errno.ENOSYS, errno.EIO, errno.EACCES):

        def refuse(_: object, code: int = code) -> None:
            raise error_of(code)

        monkeypatch.setattr(os, "statvfs", refuse)
        space = Space(tmp_path, 1 << 30)
        space.require()
        space.reserve("one", 1 << 50)


def test_min_free_is_looked_at_before_the_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: statvfs_of(free=5 << 20, total=1 << 40))
    Space(tmp_path, 4 << 20).require()
    with pytest.raises(StorageError, match=r"5\.0 MB free, and --min-free keeps 6.0 MB") as caught:
        Space(tmp_path, 6 << 20).require()
    assert caught.value.exit_code == ExitCode.STORAGE


def test_a_length_that_no_disk_has_is_no_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: statvfs_of(free=1 << 38, total=1 << 40))
    space = Space(tmp_path, 1 << 30)
    with pytest.raises(LocalError, match=r"909\.5 TB are announced; the whole disk of") as caught:
        space.reserve("one", 1_000_000_000_000_000)
    assert caught.value.domain is FILE
    space.reserve("two", 1 << 30)
    with pytest.raises(LocalError, match=r"256\.0 GB free, 512\.0 GB still to come") as caught:
        space.reserve("three", 1 << 39)
    assert caught.value.domain is DIRECTORY
    with pytest.raises(StorageError, match=r"free, 256\.0 GB still to come") as full:
        space.reserve("four", (1 << 38) - (1 << 30))
    assert full.type is SpaceReservedError


def test_the_third_file_without_room_is_of_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A night of large files must not ask for each of them what the disk can tell."""
    monkeypatch.setattr(os, "statvfs", lambda _: statvfs_of(free=1 << 30, total=1 << 40))
    space = Space(tmp_path, 1 << 29)
    for owner in ("one", "two", "one"):
        with pytest.raises(LocalError) as caught:
            space.reserve(owner, 1 << 30)
        assert caught.value.domain is DIRECTORY
    with pytest.raises(StorageError, match="not enough space") as full:
        space.reserve("three", 1 << 30)
    assert full.type is NoRoomError


def test_of_a_full_disk_no_length_is_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: statvfs_of(free=40 << 20, total=1 << 40))
    with pytest.raises(StorageError, match="not enough space") as full:
        Space(tmp_path, 10 << 20).reserve("one", 1 << 30)
    assert full.type is NoRoomError


def test_a_year_on_a_disk_of_its_own_has_its_own_space(root: Path) -> None:
    with mounts.tmpfs(root, "32m"), mounts.tmpfs(root / "2014", "2m"):
        space = Space(root, 0)
        space.reserve("one", 8 << 20, directory="2015/05/06")
        for need, domain in ((3 << 20, FILE), ((2 << 20) + 1, FILE), (1 << 20, None)):
            if domain is None:
                space.reserve("two", need, directory="2014/05/06")
                continue
            with pytest.raises(LocalError) as caught:
                space.reserve("two", need, directory="2014/05/06")
            assert caught.value.domain is domain
        with pytest.raises(SpaceReservedError, match=f"not enough space on {root}/2014: ") as full:
            space.reserve("three", 3 << 19, directory="2014/05/07")
        assert "catalogue" not in str(full.value)
        # What is here already lies on the archive's own disk.
        with pytest.raises(SpaceReservedError, match=f"not enough space on {root}/2014: "):
            space.reserve("three", 1 << 19, here=1 << 20, directory="2014/05/07")
        space.release("two")
        space.reserve("three", 3 << 19, directory="2014/05/07")
        # What was refused on the one disk is claimed on neither.
        space.reserve("four", 20 << 20, directory="2015/05/06")


def test_what_others_claim_is_not_free(root: Path) -> None:
    """Also while free space is far, and need not be read for each file."""
    with mounts.tmpfs(root, "600m"):
        space = Space(root, 0)
        for owner in range(5):
            space.reserve(owner, 100 << 20)
        with pytest.raises(SpaceReservedError):
            space.reserve("one more", 100 << 20)
        space.reserve("one that claims as it comes", 550 << 20, try_only=True)


def test_what_is_written_while_the_disk_is_asked_is_not_free(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mounts.tmpfs(root, "64m"):
        space = Space(root, 0)
        space.reserve("one", 40 << 20)
        ask = os.statvfs

        def write(path: str) -> os.statvfs_result:
            told = ask(path)
            (root / "one").write_bytes(bytes(40 << 20))
            space.wrote("one", 40 << 20)
            return told

        monkeypatch.setattr(os, "statvfs", write)
        with pytest.raises(SpaceReservedError):
            space.reserve("two", 30 << 20)


def test_what_goes_to_another_disk_makes_room_on_this_one_alone(root: Path) -> None:
    with mounts.tmpfs(root, "64m"), mounts.tmpfs(root / "2014", "40m"):
        (root / "2014" / "others").write_bytes(bytes(15 << 20))
        space = Space(root, 0)
        space.reserve("one", 20 << 20, directory="2014/05/06")
        (root / "one").write_bytes(bytes(20 << 20))
        space.wrote("one", 20 << 20)
        with pytest.raises(SpaceReservedError):  # it waits for that one
            space.reserve("two", 50 << 20, directory="2015/05/06")
        with pytest.raises(LocalError, match=f"not enough space on {root}/2014: "):
            space.reserve("three", 26 << 20, directory="2014/05/06")


def test_two_threads_that_claim_and_release(tmp_path: Path) -> None:
    space = Space(tmp_path, 0)

    def work(name: int) -> None:
        for _ in range(200):
            space.reserve(name, 1000)
            space.wrote(name, 500)
            space.release(name)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert space._own.reserved == {}


@pytest.mark.parametrize(("magic", "most"), [(0x4D44, (1 << 32) - 1), (0xEF53, None), (0, None)])
def test_the_largest_file_of_fat_is_known(
    magic: int, most: int | None, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space_module, "file_system_type", lambda _: magic)
    assert storage.largest_file("2014/05/06") == most


def test_a_year_on_fat(storage: Storage, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of each disk that a file comes to counts."""
    (root / "2014").mkdir()
    fat = f"{root}/2014"
    monkeypatch.setattr(
        space_module, "file_system_type", lambda path: 0x4D44 if path.startswith(fat) else 0xEF53
    )
    for _ in range(2):
        assert storage.largest_file("2014/05/06") == (1 << 32) - 1
    assert storage.largest_file("2015/05/06") is None
