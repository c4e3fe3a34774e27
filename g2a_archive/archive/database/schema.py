"""The catalogue's schema: its tables, and the way from an older version to this one.

CATALOG.md beside this file tells what the columns mean. Who carries recordings from one
catalogue to another (`merge`) takes along, for each: `state`, `reason`, `owed_since`, `tries` and
`last_try` where it is owed; `kinds`, `absent`, `wanted`, `unoffered` and `unoffered_since`;
`transcode_at`, `marked_at`, `scope` and `list_order`; and of a removed one `removed_at`, `reason`
and its rows of `past_file`. What tells of this archive's own `SHA256SUMS` is never copied, but
comes about as files are settled here: `revision` and `until` everywhere, the tables `revision`,
`sums` and `other_line`. Nor are counts, which are kept here (`counts`).
"""

from __future__ import annotations

import sqlite3

from g2a_archive.archive.database import counts

VERSION = 2
APPLICATION_ID = 0x67326121
"""Marks the file as ours, so that another program's database is never taken for a catalogue."""

_RECORDING = """
CREATE TABLE recording (
    id INTEGER PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('archived', 'queued', 'unavailable', 'refused',
                                         'failed', 'damaged', 'lost', 'removed')),
    kinds INTEGER NOT NULL DEFAULT 0,
    absent INTEGER NOT NULL DEFAULT 0,
    wanted INTEGER NOT NULL DEFAULT 0,
    unoffered INTEGER NOT NULL DEFAULT 0,
    unoffered_since TEXT,
    start_time TEXT,
    directory TEXT,
    reason TEXT,
    owed_since TEXT,
    tries INTEGER NOT NULL DEFAULT 0,
    last_try TEXT,
    archived_at TEXT,
    removed_at TEXT,
    scope TEXT,
    list_order INTEGER,
    transcode_at TEXT,
    marked_at TEXT
)"""

_INDEXES = (
    "CREATE INDEX recording_owed ON recording (state, id) WHERE state <> 'archived'",
    "CREATE INDEX recording_directory ON recording (directory)",
    "CREATE INDEX recording_unoffered ON recording (unoffered_since) WHERE unoffered <> 0",
)

_FILE = """
CREATE TABLE file (
    recording INTEGER NOT NULL REFERENCES recording (id),
    kind TEXT NOT NULL CHECK (kind IN ('mp4', 'events', 'thumbnail')),
    path TEXT NOT NULL,
    size INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    archived_at TEXT NOT NULL,
    checked_at TEXT,
    damage TEXT,
    revision INTEGER NOT NULL DEFAULT 1,
    PRIMARY KEY (recording, kind)
) WITHOUT ROWID"""

_RUN = """
CREATE TABLE run (
    id INTEGER PRIMARY KEY,
    command TEXT NOT NULL,
    started_at TEXT NOT NULL,
    finished_at TEXT,
    exit_code INTEGER,
    requested INTEGER,
    already_archived INTEGER,
    archived INTEGER,
    unavailable INTEGER,
    refused INTEGER,
    failed INTEGER,
    files INTEGER,
    bytes INTEGER,
    seconds REAL,
    fingerprint TEXT
)"""

_OWN = (
    "CREATE TABLE stale_directory (directory TEXT PRIMARY KEY) WITHOUT ROWID",
    "CREATE TABLE scan (scope TEXT PRIMARY KEY, complete_until TEXT NOT NULL) WITHOUT ROWID",
    """
CREATE TABLE scan_gap (
    scope TEXT NOT NULL,
    second TEXT NOT NULL,
    PRIMARY KEY (scope, second)
) WITHOUT ROWID""",
)

# A revision is a state of all SHA256SUMS together. A line is in those of the revisions from
# `revision` on, and up to the last one before `until`.
_HISTORY = (
    """
CREATE TABLE past_file (
    id INTEGER PRIMARY KEY,
    recording INTEGER NOT NULL,
    kind TEXT NOT NULL,
    path TEXT NOT NULL,
    size INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    archived_at TEXT NOT NULL,
    revision INTEGER NOT NULL,
    until INTEGER NOT NULL,
    why TEXT NOT NULL CHECK (why IN ('replaced', 'removed'))
)""",
    "CREATE INDEX past_file_recording ON past_file (recording)",
    "CREATE INDEX past_file_path ON past_file (path)",
    """
CREATE TABLE other_line (
    id INTEGER PRIMARY KEY,
    directory TEXT NOT NULL,
    after TEXT NOT NULL,
    line BLOB NOT NULL,
    revision INTEGER NOT NULL,
    until INTEGER
)""",
    "CREATE INDEX other_line_directory ON other_line (directory) WHERE until IS NULL",
    """
CREATE TABLE sums (
    directory TEXT NOT NULL,
    revision INTEGER NOT NULL,
    sha256 TEXT,
    files INTEGER NOT NULL,
    PRIMARY KEY (directory, revision)
) WITHOUT ROWID""",
    """
CREATE TABLE revision (
    id INTEGER PRIMARY KEY,
    time TEXT NOT NULL,
    files INTEGER NOT NULL,
    digest TEXT NOT NULL
)""",
    "CREATE TABLE removal (recording INTEGER PRIMARY KEY, step INTEGER NOT NULL DEFAULT 0)",
    # Whoever replaces a file's row: what SHA256SUMS said before is not forgotten.
    """
CREATE TRIGGER file_replaced BEFORE UPDATE OF path, sha256 ON file
WHEN old.path <> new.path OR old.sha256 <> new.sha256
BEGIN
    INSERT INTO past_file (recording, kind, path, size, sha256, archived_at, revision, until, why)
    SELECT old.recording, old.kind, old.path, old.size, old.sha256, old.archived_at, old.revision,
           (SELECT coalesce(max(id), 0) + 1 FROM revision), 'replaced'
    WHERE old.revision <= (SELECT coalesce(max(id), 0) FROM revision);
END""",
)

# Whoever moves a recording: where its files were, SHA256SUMS is no longer what it was.
_ELSEWHERE = """
CREATE TRIGGER recording_elsewhere AFTER UPDATE OF directory ON recording
WHEN old.directory <> new.directory AND EXISTS (SELECT 1 FROM file WHERE recording = new.id)
BEGIN
    INSERT INTO stale_directory SELECT old.directory
    WHERE NOT EXISTS (SELECT 1 FROM stale_directory WHERE directory = old.directory);
END"""

_FROM_1 = (
    _RECORDING.replace("TABLE recording", "TABLE recording_2"),
    # What was asked for is what came, was damaged, or failed: a reason begins "mp4: ".
    """
INSERT INTO recording_2
    (id, state, kinds, absent, wanted, start_time, directory, reason, owed_since, tries, last_try,
     archived_at, scope, list_order, transcode_at, marked_at)
SELECT id, state, kinds, absent,
    kinds | coalesce((SELECT sum(CASE kind WHEN 'mp4' THEN 1 WHEN 'events' THEN 2 ELSE 4 END)
                      FROM file WHERE recording = recording.id AND damage IS NOT NULL), 0)
    | CASE WHEN state NOT IN ('failed', 'damaged') THEN 0 ELSE
        (CASE WHEN '; ' || reason LIKE '%; mp4: %' THEN 1 ELSE 0 END)
        | (CASE WHEN '; ' || reason LIKE '%; events: %' THEN 2 ELSE 0 END)
        | (CASE WHEN '; ' || reason LIKE '%; thumbnail: %' THEN 4 ELSE 0 END) END,
    start_time, directory, reason, owed_since, tries, last_try,
    archived_at, scope, list_order, transcode_at, marked_at
FROM recording""",
    "DROP TABLE recording",
    "ALTER TABLE recording_2 RENAME TO recording",
    *_INDEXES,
    # The next run looks at all SHA256SUMS once, and makes the first revision of them.
    "INSERT OR IGNORE INTO stale_directory SELECT DISTINCT directory FROM recording "
    "WHERE directory IS NOT NULL AND EXISTS (SELECT 1 FROM file WHERE recording = recording.id)",
    "ALTER TABLE file ADD COLUMN revision INTEGER NOT NULL DEFAULT 1",
    "ALTER TABLE run ADD COLUMN fingerprint TEXT",
    *_HISTORY,
)


def create(db: sqlite3.Connection) -> None:
    """Make the tables; the caller has a transaction open. Raises `sqlite3.DatabaseError`."""
    for statement in (_RECORDING, _FILE, _RUN, *_INDEXES, *_OWN, *_HISTORY, _ELSEWHERE):
        db.execute(statement)
    counts.create(db)
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {VERSION}")


def migrate(db: sqlite3.Connection) -> None:
    """Bring an older catalogue to this schema; the caller has a transaction open: all or nothing.

    So, too, one of the first catalogues of this schema. Raises `sqlite3.DatabaseError`.
    """
    if version_of(db) < VERSION:
        for statement in _FROM_1:
            db.execute(statement)
    if not _has_counts(db):
        db.execute(_ELSEWHERE)
        counts.create(db)
    db.execute(f"PRAGMA user_version = {VERSION}")


def version_of(db: sqlite3.Connection) -> int:
    """The schema's version. Raises `sqlite3.DatabaseError`."""
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def is_current(db: sqlite3.Connection) -> bool:
    """Whether a catalogue is as this program makes it. Raises `sqlite3.DatabaseError`."""
    return version_of(db) == VERSION and _has_counts(db)


def _has_counts(db: sqlite3.Connection) -> bool:
    sql = "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'day_count')"
    return bool(db.execute(sql).fetchone()[0])
