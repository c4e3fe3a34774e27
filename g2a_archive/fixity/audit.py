"""The checks of `verify.py` and `rebuild.py`, done with an open catalogue."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from g2a_archive.archive.catalog import Catalog
from g2a_archive.archive.layout import parse_name
from g2a_archive.errors import CatalogError, Interrupted
from g2a_archive.fixity import rebuild as rebuilding
from g2a_archive.fixity import verify as verifying
from g2a_archive.fixity.verify import Entry, Finding, Outcome
from g2a_archive.models import FileKind, State, StoredFile

_PAGE = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What is to be checked, and how; see the options of `verify`.

    `ids` None means all; `sample` is above 0 up to 1; `max_duration` is in seconds.
    """

    ids: Sequence[int] | None = None
    since: datetime | None = None
    sample: float = 1.0
    oldest_first: bool = False
    max_duration: float | None = None
    jobs: int | None = None

    @property
    def everything(self) -> bool:
        """Whether the whole archive is looked at, so that unknown files are looked for, too."""
        return self.ids is None and self.since is None and self.sample == 1


def open_catalog(path: Path, warn: Callable[[str], None]) -> Catalog:
    """The catalogue for a check: read only, with a `warn`ing, where it cannot be written.

    Raises `CatalogError` where it cannot be read either.
    """
    try:
        return Catalog(path, readonly=not path.exists())
    except CatalogError as error:
        catalog = Catalog(path, readonly=True)
        warn(f"what is found cannot be recorded: {error}")
        return catalog


def verify(
    catalog: Catalog,
    root: Path,
    wishes: Wishes,
    *,
    warn: Callable[[str], None],
    on_begin: Callable[[int, int], None] = lambda files, size: None,
    on_bytes: Callable[[int], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Check files of the archive at `root`, and record in the catalogue what is found.

    `on_begin` hears how many files, and bytes, there are to check; `on_bytes`, in several
    threads, of bytes read. Raises `StorageError` where archive or catalogue cannot be read.
    """
    paths: set[str] = set()
    files = verifying.choose(
        _noting(entries(catalog, wishes.ids), paths),
        since=wishes.since,
        sample=wishes.sample,
        seed=date.today().isoformat(),
        oldest_first=wishes.oldest_first,
    )
    on_begin(len(files), sum(file.size for file in files))

    def record(good: list[StoredFile], findings: list[Finding]) -> None:
        broken = ((one.file, one.problem) for one in findings if one.file)
        if not catalog.readonly:
            # In the table's own order, which touches each of its pages but once.
            good.sort(key=lambda file: (file.recording, file.kind))
            catalog.checked(good, broken)

    outcome = verifying.verify(
        root,
        files,
        current=lambda recording, kind: catalog.files_of(recording).get(kind),
        record=record,
        warn=warn,
        jobs=wishes.jobs,
        max_duration=wishes.max_duration,
        stop=stop,
        on_bytes=on_bytes,
    )
    outcome.recorded = outcome.recorded and not catalog.readonly
    outcome.findings += _without_files(catalog, wishes.ids or ())
    if wishes.everything and not outcome.interrupted:
        try:
            claimed = claims(catalog)
            outcome.findings += verifying.unknown(root, paths, claimed=claimed, stop=stop)
        except Interrupted:
            outcome.interrupted = True
    outcome.findings.sort(key=lambda finding: finding.path)
    return outcome


def rebuild(
    catalog: Catalog,
    root: Path,
    *,
    jobs: int | None = None,
    on_bytes: Callable[[int], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Bring into the catalogue the files of the archive at `root` that it does not hold.

    The caller holds the archive's lock. Raises `StorageError`.
    """
    pending: tuple[list[StoredFile], list[Finding]] = ([], [])

    def write() -> None:
        files, findings = pending
        broken = {
            one.recording: f"{one.kind}: {one.problem}"
            for one in findings
            if one.recording is not None and one.damage
        }
        if files or broken:
            catalog.adopt(files, broken)
        files.clear()
        findings.clear()

    def record(files: list[StoredFile], findings: list[Finding]) -> None:
        pending[0].extend(files)
        pending[1].extend(findings)
        if len(pending[0]) + len(pending[1]) >= _PAGE:
            write()

    def known(recording: int, kind: FileKind) -> str | None:
        file = catalog.files_of(recording).get(kind)
        return file.path if file else None

    try:
        return rebuilding.rebuild(
            root, known=known, record=record, jobs=jobs, on_bytes=on_bytes, stop=stop
        )
    finally:
        write()


def entries(catalog: Catalog, ids: Sequence[int] | None = None) -> Iterator[Entry]:
    """The catalogue's files, all or those of some recordings, read in short steps."""
    columns = (
        "SELECT f.recording, f.kind, f.path, f.size, f.sha256, r.start_time, f.archived_at, "
        "f.checked_at FROM file f JOIN recording r ON r.id = f.recording "
    )
    if ids is not None:
        for one in dict.fromkeys(ids):
            yield from map(_entry, catalog.rows(f"{columns} WHERE f.recording = ?", (one,)))
        return
    last: tuple[int, str] = (0, "")
    after = "WHERE (f.recording, f.kind) > (?, ?) ORDER BY f.recording, f.kind"
    while rows := catalog.rows(f"{columns} {after} LIMIT {_PAGE}", last):
        yield from map(_entry, rows)
        last = rows[-1][0], rows[-1][1]


def _entry(row: Any) -> Entry:
    return Entry(StoredFile(row[0], FileKind(row[1]), *row[2:5]), *row[5:])


def _noting(all_entries: Iterator[Entry], paths: set[str]) -> Iterator[Entry]:
    for entry in all_entries:
        paths.add(entry.file.path)
        yield entry


def claims(catalog: Catalog) -> Callable[[str], bool]:
    """Whether the catalogue, read now, accounts for a path: by a file, or by a recording owed.

    An owed recording's files come one by one, and are recorded when the last one is there.
    """

    def claimed(path: str) -> bool:
        name = parse_name(path.rpartition("/")[2])
        if name is None:
            return False
        recording, kind = name
        file = catalog.files_of(recording).get(kind)
        if file is not None:
            return file.path == path
        state = catalog.scalar("SELECT state FROM recording WHERE id = ?", recording)
        return state is not None and state != State.ARCHIVED

    return claimed


def _without_files(catalog: Catalog, ids: Sequence[int]) -> Iterator[Finding]:
    for recording in dict.fromkeys(ids):
        if not catalog.files_of(recording):
            problem = "missing: the catalogue holds no file of this recording"
            yield Finding(recording, None, "", problem, False)
