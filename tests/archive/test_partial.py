"""Partial files: what is trusted of them after a killed process, and after a crashed machine."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from g2a_archive.archive import partial
from g2a_archive.archive.disk.flushing import boot_id
from g2a_archive.archive.partial import Partial, Validator

ETAG = Validator('"1"', "Tue, 06 May 2014 07:08:09 GMT")


def never() -> bool:
    return False


def begun(directory: Path, size: int, total: int | None = 10_000) -> Partial:
    part = Partial(directory, "7.mp4")
    part.begin(total, ETAG)
    part.append(memoryview(bytes(range(250)) * (size // 250)))
    return part


def loaded(directory: Path) -> Partial:
    part = Partial(directory, "7.mp4")
    part.load()
    return part


def note_of(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "7.mp4.json").read_text())
    return found


def change_note(directory: Path, **fields: object) -> None:
    (directory / "7.mp4.json").write_text(json.dumps(note_of(directory) | fields))


def test_a_suspended_file_is_taken_up_again(tmp_path: Path) -> None:
    begun(tmp_path, 5000).suspend()
    part = loaded(tmp_path)
    assert (part.size, part.total, part.validator) == (5000, 10_000, ETAG)
    part.resume(10_000, never)
    part.append(memoryview(b"x" * 5000))
    content = bytes(range(250)) * 20 + b"x" * 5000
    assert part.sha.digest() == hashlib.sha256(content).digest()  # the kept bytes count
    part.sync()
    part.close()
    assert Path(part.path).read_bytes() == content
    part.remove_control_file()
    assert [path.name for path in tmp_path.iterdir()] == ["7.mp4.part"]


def test_a_suspended_file_without_bytes_leaves_nothing(tmp_path: Path) -> None:
    begun(tmp_path, 0).suspend()
    assert list(tmp_path.iterdir()) == []


def test_a_suspended_file_is_closed_though_it_cannot_be_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    part = begun(tmp_path, 5000)
    part.flush()
    part.append(b"more")
    monkeypatch.setattr(partial, "flush_file", fail)
    with pytest.raises(OSError, match="Input/output"):
        part.suspend()
    assert (part.fd, loaded(tmp_path).size) == (-1, 5000)


def test_after_a_killed_process_all_written_bytes_count(tmp_path: Path) -> None:
    part = begun(tmp_path, 5000)
    part.write_control_file()  # and not flushed
    part.append(memoryview(b"y" * 1000))
    part.close()
    assert loaded(tmp_path).size == 6000


def test_after_a_crash_only_flushed_bytes_count(tmp_path: Path) -> None:
    part = begun(tmp_path, 5000)
    part.flush()
    part.append(memoryview(b"y" * 1000))
    part.write_control_file()
    part.close()
    change_note(tmp_path, boot="another boot of this machine")
    part = loaded(tmp_path)
    assert part.size == 5000
    part.resume(10_000, never)
    part.close()
    assert Path(part.path).stat().st_size == 5000  # the rest is gone


@pytest.mark.parametrize("flushed", [0, 3000, 5000, 10**6])
def test_a_machine_that_names_no_boot(
    flushed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial, "boot_id", lambda: "")
    begun(tmp_path, 5000).suspend()
    change_note(tmp_path, flushed=flushed)
    assert loaded(tmp_path).size == min(flushed, 5000)


def test_a_file_that_was_cut_behind_our_back(tmp_path: Path) -> None:
    part = begun(tmp_path, 5000)
    part.suspend()
    with open(part.path, "r+b") as file:
        file.truncate(2000)
    assert loaded(tmp_path).size == 2000


NOTES = [
    "",
    "{",
    "[]",
    "7",
    "null",
    "{}",
    '{"total": null}',
    '{"total": 10000, "etag": null, "modified": null, "flushed": "many", "boot": "x"}',
    '{"total": [], "etag": 7, "modified": {}, "flushed": 1, "boot": null, "size": null,'
    ' "extents": []}',
    '{"total": 4999, "etag": null, "modified": null, "flushed": 1, "boot": "x", "size": null,'
    ' "extents": []}',
    '{"total": 10000, "etag": null, "modified": null, "flushed": 1, "boot": "x", "size": "y",'
    ' "extents": 7}',
    "\udcff" * 10,
    "[" * 100_000,
]


@pytest.mark.parametrize("text", NOTES, ids=range(len(NOTES)))
def test_a_note_that_cannot_be_read_means_starting_over(text: str, tmp_path: Path) -> None:
    begun(tmp_path, 5000).suspend()
    (tmp_path / "7.mp4.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    part = loaded(tmp_path)
    assert part.size in (0, 1)  # nothing, or what is said to be flushed
    assert part.total in (None, 4999, 10_000)
    part.begin(10_000, ETAG)
    assert not (tmp_path / "7.mp4.json").exists()  # it does not speak of the new bytes
    part.close()


@pytest.mark.parametrize("total", [4999, -1, [], "5000", 5000.5])
def test_a_length_that_the_bytes_contradict(total: object, tmp_path: Path) -> None:
    begun(tmp_path, 5000).suspend()
    change_note(tmp_path, total=total)
    assert loaded(tmp_path).size == 0


@pytest.mark.parametrize("field", ["flushed", "size"])
def test_a_note_of_less_than_nothing(field: str, tmp_path: Path) -> None:
    begun(tmp_path, 5000).suspend()
    boot = "another" if field == "flushed" else boot_id()
    fields: dict[str, object] = {"boot": boot, field: -1}
    change_note(tmp_path, **fields)
    assert loaded(tmp_path).size == 0


def test_a_note_without_a_file(tmp_path: Path) -> None:
    part = begun(tmp_path, 5000)
    part.suspend()
    Path(part.path).unlink()
    assert loaded(tmp_path).size == 0


def test_a_file_without_a_note(tmp_path: Path) -> None:
    begun(tmp_path, 5000).close()
    assert [path.name for path in tmp_path.iterdir()] == ["7.mp4.part"]
    assert loaded(tmp_path).size == 0


def test_starting_over_forgets_the_old_bytes(tmp_path: Path) -> None:
    begun(tmp_path, 5000).suspend()
    part = loaded(tmp_path)
    part.begin(300, Validator())
    part.append(memoryview(b"z" * 300))
    assert part.sha.digest() == hashlib.sha256(b"z" * 300).digest()
    part.close()
    assert Path(part.path).read_bytes() == b"z" * 300


def test_discarding_leaves_nothing(tmp_path: Path) -> None:
    begun(tmp_path, 5000).suspend()
    (tmp_path / "7.mp4.json.new").write_text("{")
    loaded(tmp_path).discard()
    assert list(tmp_path.iterdir()) == []


def test_a_quick_file_needs_no_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial, "_CONTROL_FILE_AFTER_SECONDS", 3600)
    part = begun(tmp_path, 10_000)
    assert not (tmp_path / "7.mp4.json").exists()
    part.close()


def test_a_large_one_gets_it_before_its_end(tmp_path: Path) -> None:
    part = begun(tmp_path, 300_000, total=400_000)
    assert note_of(tmp_path)["total"] == 400_000
    part.close()


def test_flushes_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial, "_FLUSH_EVERY", 1000)
    part = begun(tmp_path, 250)
    part.write_control_file()
    flushed = []
    for _ in range(20):
        part.append(memoryview(b"x" * 250))
        flushed.append(note_of(tmp_path)["flushed"])
    part.close()
    assert all(
        size - noted < 1000 for size, noted in zip(range(500, 6000, 250), flushed, strict=False)
    )


@pytest.mark.skipif(sys.platform != "linux", reason="the advice is given on Linux only")
def test_the_system_is_asked_to_write_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial, "_WRITE_BACK_EVERY", 1000)
    advised: list[tuple[int, int, int]] = []

    def advise(fd: int, offset: int, length: int, advice: int) -> None:
        advised.append((offset, offset + length, advice))
        raise OSError(errno.EINVAL, "this file system takes no advice")

    monkeypatch.setattr(os, "posix_fadvise", advise)
    part = begun(tmp_path, 0)
    for _ in range(8):
        part.append(memoryview(b"x" * 500))
    part.suspend()
    # Twice each: what was dirty the first time can be forgotten the second time.
    assert [(begin, end) for begin, end, _ in advised] == [
        (0, 1000),
        (0, 2000),
        (1000, 3000),
        (2000, 4000),
    ]
    assert {advice for *_, advice in advised} == {os.POSIX_FADV_DONTNEED}


def test_a_full_disk_gets_a_megabyte_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial, "_GIVEN_BACK", 2000)
    begun(tmp_path, 5000).free_tail()
    part = loaded(tmp_path)
    assert (part.size, part.validator) == (3000, ETAG)
    part.free_tail()
    part.free_tail()
    assert loaded(tmp_path).size == 0


def sparse(directory: Path) -> Partial:
    """A file of 10,000 bytes less [2000, 4000) and [5000, 9000)."""
    part = begun(directory, 2000)
    part.sparse = True
    part.write_at(b"m" * 1000, 4000)
    part.write_at(b"e" * 1000, 9000)
    part.extents = [(4000, 5000), (9000, 10_000)]
    return part


def test_holes_survive_a_killed_process(tmp_path: Path) -> None:
    sparse(tmp_path).suspend()
    part = loaded(tmp_path)
    assert (part.size, part.sparse) == (2000, True)
    assert part.extents == [(4000, 5000), (9000, 10_000)]
    part.resume(10_000, never)
    part.close()
    assert Path(part.path).stat().st_size == 10_000


def test_holes_do_not_survive_a_crash(tmp_path: Path) -> None:
    """The note may have reached the disk before the bytes that it speaks of."""
    sparse(tmp_path).suspend()
    change_note(tmp_path, boot="another boot of this machine")
    part = loaded(tmp_path)
    assert (part.size, part.extents) == (2000, [])
    part.resume(10_000, never)
    part.close()
    assert Path(part.path).stat().st_size == 2000


@pytest.mark.parametrize(
    ("left", "size", "extents"),
    [
        (10_000, 2000, [(4000, 5000), (9000, 10_000)]),
        (9500, 2000, [(4000, 5000), (9000, 9500)]),
        (4500, 2000, [(4000, 4500)]),
        (3000, 2000, []),
        (1500, 1500, []),
        (0, 0, []),
    ],
)
def test_holes_in_a_file_that_was_cut(
    left: int, size: int, extents: list[tuple[int, int]], tmp_path: Path
) -> None:
    part = sparse(tmp_path)
    part.suspend()
    with open(part.path, "r+b") as file:
        file.truncate(left)
    part = loaded(tmp_path)
    assert (part.size, part.extents) == (size, extents)


def test_validators_from_headers() -> None:
    def of(ETag: str = "", Last_Modified: str = "") -> Validator:  # noqa: N803 - as they are sent
        return Validator.checked(ETag, Last_Modified)

    date = "Tue, 06 May 2014 07:08:09 GMT"
    assert of(ETag='"1"', Last_Modified=date).condition == '"1"'
    assert of(ETag='W/"1"', Last_Modified=date).condition == date
    for useless in [
        "",
        '"',
        '""',
        "1",
        "abc",
        '"abc',
        'abc"',
        'W/"1"',
        '"\r\n"',
        '"\xe9"',
        f'"{"x" * 400}"',
        '"1", "2"',
    ]:
        assert of(ETag=useless).condition is None
    for useless in ["", "now", "x" * 100, "Tue, 06 May\r\n2014 07:08:09"]:
        assert of(Last_Modified=useless).condition is None


DATE, LATER = "Tue, 06 May 2014 07:08:09 GMT", "Wed, 07 May 2014 07:08:09 GMT"


@pytest.mark.parametrize(
    ("known", "told", "other"),
    [
        (Validator(), Validator('"1"', DATE), False),  # nothing to hold it against
        (Validator(), Validator(None, DATE), False),
        (Validator('"1"', DATE), Validator('"1"'), False),
        (Validator('"1"', DATE), Validator('"2"', DATE), True),
        (Validator('"1"', DATE), Validator('"1"', DATE), False),
        (Validator('"1"', DATE), Validator('"1"', LATER), True),  # an ETag that the host kept
        (Validator('"1"'), Validator(None, None, 'W/"1"'), True),
        (Validator('"1"'), Validator(), True),
        (Validator('"1"', DATE), Validator(None, DATE), False),
        (Validator('"1"', DATE), Validator(None, LATER), True),
        (Validator('"1"'), Validator(None, DATE), True),
        (Validator(None, DATE), Validator(None, DATE), False),
        (Validator(None, DATE), Validator('"1"', LATER), True),
        (Validator(None, DATE), Validator('"1"'), False),  # a part need not tell the time
        (Validator(None, None, 'W/"1"'), Validator(None, None, 'W/"1"'), False),
        (Validator(None, None, 'W/"1"'), Validator(None, None, 'W/"2"'), True),
    ],
)
def test_whether_an_answer_may_be_of_another_file(
    known: Validator, told: Validator, *, other: bool
) -> None:
    assert known.contradicts(told) is other
