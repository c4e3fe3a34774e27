"""Recordings handed over: a BagIt bag of them, which whoever gets it can prove and watch.

Everything is copied in one pass, and the table, the pages and the manifest tell of what was copied
then, whatever a run does to the archive meanwhile. The bag is built beside its target, flushed, and
renamed: under its name there is all of it, or nothing.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import parseaddr
from pathlib import Path
from typing import BinaryIO

from g2a_archive import __version__
from g2a_archive.archive import layout
from g2a_archive.archive.database import inventory
from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.archive.database.inventory import RecordingDetail
from g2a_archive.archive.disk import strictpath
from g2a_archive.archive.disk.domains import Operation, local_error
from g2a_archive.archive.disk.flushing import GroupFlush, flush_directory, flush_file
from g2a_archive.archive.disk.hashing import open_regular, read_blocks
from g2a_archive.archive.disk.lock import FileLock, NoLocksError
from g2a_archive.archive.disk.mounts import missing_parts
from g2a_archive.archive.disk.renaming import rename_noreplace
from g2a_archive.archive.disk.space import free_space
from g2a_archive.browse import Entry, write_site
from g2a_archive.console.inventory import csv_rows
from g2a_archive.curation.bagit import BagWriter, Container, Folder, Zip
from g2a_archive.curation.selection import Choice
from g2a_archive.errors import (
    ArchiverError,
    Domain,
    InputError,
    Interrupted,
    LockedError,
    StorageError,
    storage_error,
)
from g2a_archive.models import FileKind, State, StoredFile, pluralize, printable, size_text, utc_now

_OVERHEAD = 1 << 20
"""Bytes beside the recordings' own that a bag of them takes at least: pages and lists."""


# --- where it comes to lie --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BagTarget:
    """Where a bag is to be: a directory, or with `zipped` a file; `name` is the bag's own name."""

    target: Path
    name: str
    zipped: bool

    @property
    def work(self) -> Path:
        """The directory beside it in which it is built."""
        return self.target.with_name(f".{self.target.name}.g2a-bag")


def bag_target(where: str, archive: Path, *, zipped: bool) -> BagTarget:
    """Where the bag `where` belongs. Raises `InputError` where it must not, or cannot, be."""
    if not where.rstrip("/"):
        raise InputError(f"a bag needs a name, not {where!r}", hint="choose another DIR")
    name = f"{where.rstrip('/').removesuffix('.zip')}.zip" if zipped else where
    target = Path(os.path.realpath(name))
    try:
        target.name.encode()
    except UnicodeEncodeError:  # the bag's pages and a ZIP file's entries are called after it
        raise InputError(
            f"the bag's name must be text in UTF-8: {target}", hint="choose another DIR"
        ) from None
    found = BagTarget(target, target.name.removesuffix(".zip") if zipped else target.name, zipped)
    parent = target.parent
    if Path(os.path.realpath(archive)) in (target, *target.parents):
        raise InputError(f"{target} lies in the archive", hint="a bag belongs beside it")
    try:
        if not strictpath.is_dir(parent):
            raise InputError(f"there is no directory {parent} for the bag", hint="make it first")
        if os.path.lexists(target):
            if strictpath.is_dir(found.work):  # of a run that was killed when the bag had its name
                with suppress(ArchiverError, OSError), _work_directory(found):
                    pass
            if zipped or not strictpath.is_dir(target):
                raise InputError(f"{target} is there already", hint="nothing is overwritten")
            if any(target.iterdir()):
                raise InputError(f"{target} is not empty", hint="nothing is overwritten")
            if os.path.ismount(target):
                raise InputError(
                    f"{target} is the top of a drive", hint="name a directory on it, a new one"
                )
    except OSError as error:
        raise storage_error(error, "read", target) from error
    return found


@contextmanager
def _work_directory(where: BagTarget) -> Iterator[Path]:
    """An empty directory beside the bag's target, ours alone; it is gone after the block.

    What a killed run left of it is removed, nothing else. Raises `LockedError`, `StorageError`.
    """
    work = where.work
    lock = FileLock(work / "lock", instead="DIR")
    try:
        work.mkdir(exist_ok=True)
    except OSError as error:
        raise storage_error(error, "make", work, option="DIR") from error
    try:
        lock.acquire()
    except NoLocksError:
        pass
    except LockedError as error:
        raise LockedError(
            f"another process is making the bag {where.target}", hint="wait for it to end"
        ) from error
    try:
        _clear(work)
        yield work
    finally:
        with suppress(OSError):
            _clear(work)
            lock.path.unlink(missing_ok=True)
        lock.release()  # while it is open, NFS and FUSE keep it there under another name
        with suppress(OSError):
            work.rmdir()


def _clear(work: Path) -> None:
    for name in ("bag", "pages"):
        if strictpath.is_dir(work / name):
            shutil.rmtree(work / name)
    for name in ("bag.zip", "recordings.csv", "manifest-sha256.txt"):
        (work / name).unlink(missing_ok=True)


def _check_space(where: BagTarget, need: int) -> None:
    """Raise `StorageError` where the bag cannot fit; a file system may also not tell."""
    told = free_space(where.target.parent)
    if told is not None and told[0] < need + _OVERHEAD:
        raise StorageError(
            f"not enough space for the bag in {where.target.parent}: {size_text(told[0])} free, "
            f"{size_text(need + _OVERHEAD)} needed",
            hint="free some space, or make it elsewhere; nothing was written",
        )


# --- making it --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Bagging:
    """What a bag is made of, and who hears of it: `on_bytes` of bytes, `on_file` of each file.

    `timezone` is the pages' clock; `stop` is asked before each piece (1 MiB).
    """

    archive: Path
    catalog: Catalog
    choice: Choice
    contact: str | None = None
    timezone: str | None = None
    on_bytes: Callable[[int], None] = lambda _: None
    on_file: Callable[[], None] = lambda: None
    stop: Callable[[], bool] = lambda: False

    def make(self, where: BagTarget) -> tuple[int, int]:
        """Make the bag; returns the files and bytes of its payload.

        Raises `ArchiverError` (exit 1) where a file is not what was archived, `StorageError`,
        `LockedError`, `InputError` where something has come to lie at the target meanwhile, and
        `Interrupted`. In all of these cases there is no bag, and nothing is left of it.
        """
        _check_space(where, self.choice.bytes)
        with _work_directory(where) as work:
            try:
                group = GroupFlush.of(str(work))
                try:
                    made = work / ("bag.zip" if where.zipped else "bag")
                    counts = self._build(where, work, made)
                    _flush(made, group)
                finally:
                    if group is not None:
                        group.close()
                if self.stop():
                    raise Interrupted
                _publish(made, where)
            except OSError as error:
                raise storage_error(error, "write the bag", where.target, option="DIR") from error
        return counts

    def _build(self, where: BagTarget, work: Path, made: Path) -> tuple[int, int]:
        container: Container = Zip(made, where.name) if where.zipped else Folder(made)
        writer = BagWriter(container, work)
        try:
            (work / "pages").mkdir()
            with open(work / "recordings.csv", "x", encoding="utf-8", newline="") as table:
                write_site(
                    work / "pages",
                    self._entries(writer, csv_rows(table)),
                    (),
                    zone=layout.zone(self.timezone),
                    zone_name=self.timezone or "",
                    title=where.name,
                )
            self._add_own(writer, work, "recordings.csv")
            pages = work / "pages"
            files = (path for path in pages.rglob("*") if strictpath.is_file(path))
            for page in sorted(files, key=Path.as_posix):
                self._add_own(writer, pages, page.relative_to(pages).as_posix())
            writer.finish(self._about())
        finally:
            writer.close()
        return writer.files, writer.bytes

    def _entries(
        self, writer: BagWriter, add_row: Callable[[RecordingDetail], None]
    ) -> Iterator[Entry]:
        """The recordings for the pages, each when it is in the bag, and in the table."""
        for detail in self._details():
            files = {}
            for one in detail.files:
                kind = FileKind(one.kind)
                file = StoredFile(detail.id, kind, one.path, one.size, one.sha256)
                self._copy(writer, file)
                files[kind] = file
            add_row(detail)
            yield Entry(detail.id, detail.start_time, detail.directory, files)

    def _details(self) -> Iterator[RecordingDetail]:
        """What the catalogue says now of those that were chosen; a run may go on meanwhile."""
        count = 0
        for detail in inventory.recordings(self.catalog, self.choice.ids):
            if detail.state != State.ARCHIVED:
                raise ArchiverError(f"no bag was made: {detail.id} is {detail.state} now")
            count += 1
            yield detail
        if count < len(self.choice.ids):
            raise ArchiverError("no bag was made: the archive has lost recordings meanwhile")

    def _copy(self, writer: BagWriter, file: StoredFile) -> None:
        """One file of the archive into the bag, held against its recorded size and SHA-256."""
        with self._opened(file.path) as opened:
            status = os.fstat(opened.fileno())
            if status.st_size != file.size:
                raise _wrong(file, f"{status.st_size:,} bytes, {file.size:,} were archived")
            source = self._pieces(opened.fileno(), file)
            digest = writer.payload(file.path, source, file.size, status.st_mtime)
        if digest != file.sha256:
            raise _wrong(file, f"SHA-256 is {digest[:16]}…, {file.sha256[:16]}… was archived")
        self.on_file()

    def _opened(self, path: str) -> BinaryIO:
        """A file of the archive, open for reading; raises `ArchiverError` where there is none."""
        try:
            return open_regular(self.archive / path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self._missing(path) from error
        except OSError as error:
            if error.errno in (errno.EISDIR, errno.EINVAL):
                raise ArchiverError(f"no bag was made: {path} is no file any more") from error
            raise self._unreadable(error, path) from error

    def _missing(self, path: str) -> ArchiverError:
        """What is said of a file that is not there: a drive that isn't mounted is no loss."""
        directory = path.rpartition("/")[0]
        for part in missing_parts(self.catalog, self.archive, [directory]):
            if part.holds(directory):
                return part.error()
        return ArchiverError(
            f"no bag was made: {path} is missing", hint="`g2a-archive verify` tells more"
        )

    def _pieces(self, descriptor: int, file: StoredFile) -> Iterator[memoryview]:
        try:
            for piece in read_blocks(descriptor, self.stop):
                self.on_bytes(len(piece))
                yield piece
        except OSError as error:
            raise self._unreadable(error, file.path) from error

    def _unreadable(self, error: OSError, path: str) -> StorageError:
        """What is said of a file that cannot be read: it may be the file alone, or its drive."""
        found = local_error(error, Operation.READ, self.archive / path)
        if found.domain is not Domain.FILE:
            return StorageError(found.message, hint=found.hint)
        found.message = f"no bag was made: {found.message}"
        return found

    def _add_own(self, writer: BagWriter, folder: Path, name: str) -> None:
        """A file of our own making: the table, or a page."""
        with open(folder / name, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            writer.payload(name, read_blocks(file.fileno(), self.stop), size)

    def _about(self) -> Mapping[str, str]:
        """What `bag-info.txt` says, but for the Oxum."""
        choice = self.choice
        days = f", {choice.first_day} to {choice.last_day}" if choice.first_day else ""
        about = _contact(self.contact or "")
        fingerprint = self.catalog.fingerprint()
        if fingerprint is not None:
            about["Source-Fingerprint"] = str(fingerprint)
        return about | {
            "Internal-Sender-Identifier": printable(f"{os.uname().nodename}:{self.archive}"),
            "Internal-Sender-Description": "an archive of GoToAssist Remote Support recordings",
            "External-Description": f"{pluralize(len(choice.ids), 'session recording')}{days}; "
            "open data/index.html in a browser to watch them",
            "Bagging-Date": utc_now()[:10],
            "Bagging-Time": utc_now(),
            "Bag-Size": size_text(choice.bytes),
            "Bag-Software-Agent": f"g2a-archive {__version__}",
        }


def _contact(text: str) -> dict[str, str]:
    """A name, an address, or both, as `Jane Doe <jane@example.org>`."""
    name, address = parseaddr(text)
    if "@" not in address:
        name, address = text, ""
    fields = {"Contact-Name": name, "Contact-Email": address}
    return {label: value for label, value in fields.items() if value}


def _wrong(file: StoredFile, what: str) -> ArchiverError:
    return ArchiverError(
        f"no bag was made: {file.path} is not what was archived: {what}",
        hint=f"`g2a-archive verify {file.recording}` records it, and `g2a-archive download "
        f"{file.recording}` then fetches it again",
    )


def _flush(made: Path, group: GroupFlush | None) -> None:
    """All that was made is on disk, names included."""
    if group is not None:
        group.flush()
        return
    if not strictpath.is_dir(made):
        _flush_file(made)
        return
    for folder, _, names in os.walk(made, topdown=False):
        for name in names:
            _flush_file(Path(folder, name))
        flush_directory(Path(folder))


def _flush_file(path: Path) -> None:
    with open(path, "rb") as file:
        flush_file(file.fileno())


def _publish(made: Path, where: BagTarget) -> None:
    """Give the bag its name, over nothing but an empty directory, and flush that."""
    try:
        if where.zipped:
            rename_noreplace(made, where.target)
        else:
            with suppress(OSError):  # not every share renames over an empty directory
                where.target.rmdir()
            os.rename(made, where.target)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        raise InputError(
            f"something has come to {where.target} meanwhile", hint="nothing is overwritten"
        ) from error
    flush_directory(where.target.parent)
