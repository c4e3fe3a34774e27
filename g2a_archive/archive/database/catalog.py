"""The SQLite catalogue: what is archived, owed, unavailable, refused, and what each run did.

One process writes it, from one thread. Reading it with `SELECT` beside a run is supported; the
schema is documented in CATALOG.md beside this file. It keeps a rollback journal, since archives
live on network drives, where SQLite's write-ahead log does not work.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from g2a_archive.archive.database import counts, revisions, schema
from g2a_archive.archive.database.connection import Database
from g2a_archive.archive.database.revisions import Fingerprint
from g2a_archive.archive.database.statements import RECORD_RESULT, insert
from g2a_archive.models import OWED_STATES, FileKind, State, StoredFile

_STORE = f"""
INSERT INTO file (recording, kind, path, size, sha256, archived_at, revision) VALUES {{rows}}
ON CONFLICT (recording, kind) DO UPDATE SET
    path = excluded.path, size = excluded.size, sha256 = excluded.sha256,
    archived_at = excluded.archived_at, checked_at = NULL, damage = NULL,
    revision = {revisions.LISTED_SINCE}
"""  # noqa: S608 - no word in it comes from outside

# From each to the next one: as many look-ups in an index as there are directories.
_DIRECTORIES = """
WITH RECURSIVE some (name) AS (
    SELECT min(directory) FROM recording
    UNION ALL
    SELECT (SELECT min(directory) FROM recording WHERE directory > name) FROM some
    WHERE name IS NOT NULL
)
SELECT name FROM some WHERE name IS NOT NULL
"""

_OWED = ", ".join(f"'{state}'" for state in OWED_STATES)
IS_OWED = f"state <> 'archived' AND state IN ({_OWED})"
"""What is owed, by the index of what is not archived."""

STORED = "SELECT recording, kind, path, size, sha256 FROM file"
"""What `stored_file` takes the rows of."""

REMOVED_FILES = """SELECT recording, kind, path, size, sha256, archived_at FROM past_file
WHERE why = 'removed' AND recording IN ({ids}) ORDER BY kind, id"""
"""What removed recordings had; of one that was removed twice the last counts."""

STALE = "INSERT OR IGNORE INTO stale_directory VALUES {rows}"
"""Has the next run write the `SHA256SUMS` of directories."""

_QUEUE = """
INSERT INTO recording (id, state, owed_since, wanted) VALUES {rows}
ON CONFLICT (id) DO UPDATE SET
    wanted = CASE state WHEN 'removed' THEN 0 ELSE wanted END | excluded.wanted,
    state = CASE WHEN state IN ('archived', 'lost', 'removed') THEN excluded.state ELSE state END,
    reason = CASE WHEN state IN ('archived', 'lost', 'removed') THEN NULL ELSE reason END,
    owed_since = coalesce(owed_since, excluded.owed_since)
WHERE NOT (state = 'archived' AND unoffered <> 0 AND kinds | unoffered = 7)
"""

_PLACE = """
INSERT INTO recording (id, state, directory, start_time) VALUES {rows}
ON CONFLICT (id) DO UPDATE SET directory = excluded.directory, start_time = excluded.start_time
WHERE directory IS NOT excluded.directory
"""

# What is fetched again is no longer to be deleted.
_TO_STAY = (
    "DELETE FROM removal WHERE recording IN "
    "(SELECT id FROM recording WHERE state <> 'archived' AND state = 'queued')"
)

UNKNOWN_SHA256 = "0" * 64
SUSPECT = "it may be another recording's file"
"""The sum of a suspect file, which nothing has, and what is wrong with it."""

_MARK_SUSPECT = "UPDATE file SET sha256 = ?, damage = ? WHERE recording = ? AND kind = ?"

_CHECK = """
UPDATE file SET damage = ?, checked_at = ?
WHERE recording = ? AND kind = ? AND path = ? AND size = ? AND sha256 = ?
"""

# An owed recording keeps its state and reason: only what was complete can become complete again
# by a file that comes back.
_MARK_DAMAGED = """
UPDATE recording SET
    kinds = kinds & ~:bit,
    state = CASE WHEN state = 'archived' THEN 'damaged' ELSE state END,
    reason = CASE WHEN state IN ('archived', 'damaged') THEN coalesce(
        (SELECT group_concat(kind || ': ' || damage, '; ') FROM file
         WHERE recording = :id AND damage IS NOT NULL), :reason) ELSE reason END,
    owed_since = coalesce(owed_since, :now)
WHERE id = :id
"""

_MARK_INTACT = "UPDATE recording SET kinds = kinds | :bit, wanted = wanted | :bit WHERE id = :id"

_MARK_ARCHIVED = """
UPDATE recording SET state = 'archived', reason = NULL, owed_since = NULL
WHERE id = :id AND NOT EXISTS
    (SELECT 1 FROM file WHERE recording = :id AND damage IS NOT NULL)
AND (state = 'damaged'
     OR archived_at IS NOT NULL AND state NOT IN ('archived', 'removed')
        AND wanted & ~(kinds | unoffered) = 0)
"""

_ADOPT = """
INSERT INTO recording (id, state, directory, reason, owed_since, archived_at)
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET directory = coalesce(directory, excluded.directory)
"""

_IS_REMOVED = "SELECT 1 FROM recording WHERE id = ? AND state = 'removed'"

_ADOPT_FILE = """
INSERT OR IGNORE INTO file (recording, kind, path, size, sha256, archived_at, revision)
VALUES (?, ?, ?, ?, ?, ?, ?)
"""


@dataclass(slots=True)
class RecordingResult:
    """What one run found out about one recording; `files` are those it stored just now.

    `kinds`, `absent`, `wanted` and `unoffered` are bits of `FileKind`: settled now; settled
    because the service has no such file; asked for by this run (what was, by this run or an
    earlier one, and is not settled, keeps the recording owed); and not offered by the service,
    which is not believed yet, nor owed. `tried` is 1 where the service was asked, 0 where not.
    """

    id: int
    state: State
    kinds: int = 0
    absent: int = 0
    start_time: str | None = None
    directory: str | None = None
    reason: str | None = None
    tried: int = 1
    wanted: int = 0
    unoffered: int = 0
    files: list[StoredFile] = field(default_factory=list)


def stored_file(row: Sequence[Any]) -> StoredFile:
    """A file as the catalogue has it."""
    recording, kind, path, size, sha256 = row
    return StoredFile(recording, FileKind(kind), path, size, sha256)


class Catalog(Database):
    """An open catalogue. Every method may raise `CatalogError` (exit code 6)."""

    # --- what a run asks --------------------------------------------------------------------

    def owed(self) -> Iterator[int]:
        """The IDs that this archive still owes, those owed longest first.

        At their end those of which the service did not offer a file, which is not believed yet.
        """
        sql = (  # each part by an index of its own
            "SELECT id FROM (SELECT id, owed_since, 0 AS later FROM recording "  # noqa: S608
            f"WHERE {IS_OWED} UNION ALL "
            "SELECT id, owed_since, 1 FROM recording WHERE unoffered <> 0 AND state = 'archived') "
            "ORDER BY later, owed_since, id"
        )
        return (row[0] for row in self.stream(sql))

    def owed_count(self) -> int:
        """How many recordings this archive owes."""
        return int(
            self.scalar(f"SELECT coalesce(sum(recordings), 0) FROM state_count WHERE {IS_OWED}")  # noqa: S608
        )

    def last_success(self) -> float | None:
        """When a run last ended with exit code 0, in Unix time; never in the future."""
        value = self.scalar(
            "SELECT max(CAST(strftime('%s', finished_at) AS INTEGER)) FROM run "
            "WHERE exit_code = 0 AND finished_at <= ?",
            self.now(),
        )
        return None if value is None else float(value)

    def files(self, recordings: Iterable[int]) -> Iterator[StoredFile]:
        """The files that the catalogue holds of some recordings, damaged ones included."""
        return map(stored_file, self.among(f"{STORED} WHERE recording IN ({{ids}})", recordings))

    def files_of(self, recording: int) -> dict[FileKind, StoredFile]:
        """Those of one recording."""
        return {file.kind: file for file in self.files([recording])}

    def directories(self) -> list[str]:
        """The directories of all recordings, archived or not, in the order of their bytes."""
        return [row[0] for row in self.rows(_DIRECTORIES)]

    def archived_below(self, directory: str) -> int:
        """How many recordings have files archived in `directory` ("": anywhere), or below it."""
        where = "(directory = ? OR directory > ? AND directory < ?)" if directory else "TRUE"
        below = (directory, f"{directory}/", f"{directory}0") if directory else ()  # 0 follows /
        sql = (  # also of what is owed, as only a part of it has come yet
            f"SELECT count(*) FROM recording WHERE {where} "  # noqa: S608
            "AND EXISTS (SELECT 1 FROM file WHERE recording = id AND damage IS NULL)"
        )
        return int(self.scalar(sql, *below))

    def stale_directories(self) -> list[str]:
        """Directories whose `SHA256SUMS` is older than what the catalogue says of them."""
        return [row[0] for row in self.rows("SELECT directory FROM stale_directory")]

    # --- what a run records -----------------------------------------------------------------

    def queue(
        self, ids: Iterable[int], wanted: int = 0, places: Iterable[tuple[int, str, str]] = ()
    ) -> None:
        """Remember IDs that the run is about to ask for, so that a killed run still owes them.

        But not those that are archived as far as the service offered them, and looked at again.
        `wanted` are the bits of the kinds of file that it asks for. `places` are the directories
        in which a killed run may have named files of recordings: ID, directory, and start.
        """
        now, queued = self.now(), State.QUEUED.value
        with self.transaction() as db:
            insert(db, _QUEUE, ((id_, queued, now, wanted) for id_ in ids))
            insert(db, _PLACE, ((id_, queued, *place) for id_, *place in places))
            db.execute(_TO_STAY)

    def record_results(self, results: Iterable[RecordingResult]) -> None:
        """Record what became of recordings, and their new files, in one transaction.

        The caller has flushed the files and their directories before: from here on the archive
        claims to have them.
        """
        now = self.now()
        ended = list(results)
        stale = sorted({one.directory for one in ended if one.files and one.directory})
        with self.transaction() as db:
            insert(db, RECORD_RESULT, (_result_row(one, now) for one in ended))
            next_ = revisions.upcoming(db)
            insert(db, _STORE, (_file_row(f, now, next_) for one in ended for f in one.files))
            insert(db, STALE, ((directory,) for directory in stale))

    def mark_damaged(self, findings: Iterable[tuple[int, FileKind, str]]) -> None:
        """Record damage as (recording, kind, what is wrong): the recordings become owed."""
        now = self.now()
        with self.transaction() as db:
            for recording, kind, what in findings:
                db.execute(
                    "UPDATE file SET damage = ?, checked_at = ? WHERE recording = ? AND kind = ?",
                    (what, now, recording, kind),
                )
                _mark_damaged(db, recording, kind, what, now)

    def mark_suspect(self, files: Iterable[tuple[int, FileKind]]) -> None:
        """Record of these, as (recording, kind), that they may be other files than they should.

        Their recordings become owed; what is there is not taken for them any more.
        """
        now = self.now()
        with self.transaction() as db:
            for recording, kind in files:
                db.execute(_MARK_SUSPECT, (UNKNOWN_SHA256, SUSPECT, recording, kind))
                _mark_damaged(db, recording, kind, SUSPECT, now)

    def record_check(
        self, good: Iterable[StoredFile], broken: Iterable[tuple[StoredFile, str]] = ()
    ) -> None:
        """Record what a check found, in one transaction: good files, and (file, what is wrong).

        Left alone is a file whose row is no longer what was checked: a run has stored another
        one since. A file that is good again is damaged no more, and its recording is archived
        again if nothing else is wrong with it.
        """
        now = self.now()
        with self.transaction() as db:
            good = list(good)
            sound = f"{_CHECK} AND damage IS NULL"
            done = db.executemany(sound, ((None, now, *_row(file)) for file in good)).rowcount
            for file in good if done < len(good) else ():
                if db.execute(f"{_CHECK} AND damage > ''", (None, now, *_row(file))).rowcount:
                    db.execute(_MARK_INTACT, {"bit": file.kind.bit, "id": file.recording})
                    db.execute(_MARK_ARCHIVED, {"id": file.recording})
            for file, what in broken:
                if db.execute(_CHECK, (what, now, *_row(file))).rowcount:
                    _mark_damaged(db, file.recording, file.kind, what, now)
            counts.forget_zeros(db)

    def adopt(self, files: Iterable[StoredFile], broken: Mapping[int, str] | None = None) -> None:
        """Record files that were found in the archive (`verify --rebuild`), in one transaction.

        A recording that is new to the catalogue is archived if its MP4 is among `files`, which
        hold all of its files, and it is not among the `broken` (ID to reason); else it is owed.
        What the catalogue knows already stays as it is.
        """
        now = self.now()
        found: dict[int, list[StoredFile]] = {recording: [] for recording in broken or ()}
        for file in files:
            found.setdefault(file.recording, []).append(file)
        with self.transaction() as db:
            next_ = revisions.upcoming(db)
            for recording, its in found.items():
                whole = any(file.kind is FileKind.MP4 for file in its)
                why = (broken or {}).get(recording) or (None if whole else "mp4: not found")
                directory = its[0].path.rpartition("/")[0] if its else None
                owed, done = (now, None) if why else (None, now)
                state = State.FAILED if why else State.ARCHIVED
                if db.execute(_IS_REMOVED, (recording,)).fetchone():
                    continue  # it stays unknown, and `verify` tells so
                db.execute(_ADOPT, (recording, state, directory, why, owed, done))
                for file in its:
                    if db.execute(_ADOPT_FILE, (*_row(file), now, next_)).rowcount:
                        db.execute(_MARK_INTACT, {"bit": file.kind.bit, "id": recording})
                if its:
                    insert(db, STALE, [(directory,)])

    def rewrite_sums(self, directories: Iterable[str]) -> None:
        """Have the next run write the `SHA256SUMS` of these directories, whatever is in them."""
        with self.transaction() as db:
            insert(db, STALE, ((directory,) for directory in directories))

    def record_sums(self, sums: Iterable[revisions.DirectorySums]) -> None:
        """Record that the `SHA256SUMS` of these directories are up to date, and what they say.

        Where that is news, it is a new revision of the archive, with a fingerprint of its own.
        """
        with self.transaction() as db:
            revisions.record(db, list(sums), self.now())

    def fingerprint(self) -> Fingerprint | None:
        """The fingerprint of the last revision; None where there is none yet."""
        rows = self.rows("SELECT time, files, digest FROM revision ORDER BY id DESC LIMIT 1")
        return Fingerprint(*rows[0]) if rows else None

    def begin_run(self, command: str) -> int:
        """Record that a run has begun; returns its number for `end_run`."""
        with self.transaction() as db:
            sql = "INSERT INTO run (command, started_at) VALUES (?, ?)"
            return db.execute(sql, (command, self.now())).lastrowid or 0

    def end_run(self, run: int, outcome: dict[str, object]) -> None:
        """Record a run's outcome; the keys of `outcome` are columns of the table `run`."""
        columns = ", ".join(f"{name} = ?" for name in outcome)
        with self.transaction() as db:
            db.execute(
                f"UPDATE run SET {columns} WHERE id = ?",  # noqa: S608
                (*outcome.values(), run),
            )


class EmptyCatalog(Catalog):
    """That of an archive which is not there yet: nothing is in it, and it is only read."""

    def __init__(self) -> None:
        super().__init__(Path(os.devnull), readonly=True)

    def _connected(self) -> sqlite3.Connection:
        memory = sqlite3.connect(":memory:", isolation_level=None)
        schema.create(memory)
        return memory


def _mark_damaged(
    db: sqlite3.Connection, recording: int, kind: FileKind, what: str, now: str
) -> None:
    values = {"id": recording, "bit": kind.bit, "reason": f"{kind}: {what}", "now": now}
    db.execute(_MARK_DAMAGED, values)


def _row(file: StoredFile) -> tuple[int, str, str, int, str]:
    return (file.recording, file.kind, file.path, file.size, file.sha256)


def _result_row(one: RecordingResult, now: str) -> tuple[object, ...]:
    done = one.state is State.ARCHIVED
    return (
        one.id,
        one.state.value,  # a plain str: sqlite3 is slow with what is derived from it
        one.kinds,
        one.absent,
        one.wanted | one.kinds,
        one.unoffered & ~one.kinds,
        now if one.unoffered & ~one.kinds else None,
        one.start_time,
        one.directory,
        # A path in it may be no UTF-8, and SQLite takes nothing else.
        one.reason and one.reason.encode("utf-8", "backslashreplace").decode(),
        None if done else now,
        one.tried,
        now,
        now if done else None,
    )


def _file_row(file: StoredFile, now: str, revision: int) -> tuple[object, ...]:
    return (file.recording, file.kind.value, file.path, file.size, file.sha256, now, revision)
