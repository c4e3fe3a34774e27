"""What two catalogues say of a recording, and what one of them is to say once they are merged.

Rows are carried by the names of their columns, so that one that a later schema adds comes along
without being named here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from g2a_archive.archive.database import revisions
from g2a_archive.archive.database.catalog import STALE, Catalog
from g2a_archive.archive.database.statements import insert
from g2a_archive.archive.database.tombstones import MERGED
from g2a_archive.models import ALL_KINDS, FileKind, Shard, State, StoredFile, kinds_mask

PAGE = 500
"""Recordings that are read, and recorded, at a time."""

_ALL = kinds_mask(ALL_KINDS)
_DONE = (State.ARCHIVED, State.REMOVED)
_EARLIER = ("owed_since", "unoffered_since")
_OF_A_REMOVED = (
    *("state", "reason", "removed_at", "owed_since", "kinds", "absent", "wanted"),
    *("unoffered", "unoffered_since"),
)
_LATER = ("tries", "last_try", "list_order", "transcode_at")


@dataclass(slots=True)
class RecordingRows:
    """One recording in a catalogue: its row, and the rows of its files, by column."""

    row: dict[str, Any]
    files: dict[FileKind, dict[str, Any]] = field(default_factory=dict)

    @property
    def id(self) -> int:
        """The recording's ID."""
        return int(self.row["id"])

    @property
    def state(self) -> State:
        """Its state there."""
        return State(self.row["state"])

    def whole(self) -> dict[FileKind, dict[str, Any]]:
        """The files of which no damage is known."""
        return {kind: file for kind, file in self.files.items() if not file["damage"]}


# --- reading ------------------------------------------------------------------------------------


def page(catalog: Catalog, after: int) -> list[RecordingRows]:
    """The next recordings in the order of their IDs. Raises `CatalogError`, as all here."""
    sql = f"SELECT * FROM recording WHERE id > ? ORDER BY id LIMIT {PAGE}"  # noqa: S608
    rows = _named(catalog, "recording", catalog.rows(sql, (after,)))
    if not rows:
        return []
    between = "SELECT * FROM file WHERE recording BETWEEN ? AND ?"
    files = _named(catalog, "file", catalog.rows(between, (rows[0]["id"], rows[-1]["id"])))
    return list(_entries(rows, files).values())


def entries_of(catalog: Catalog, ids: Sequence[int]) -> dict[int, RecordingRows]:
    """What the catalogue holds of `ids`."""
    rows = catalog.among("SELECT * FROM recording WHERE id IN ({ids})", ids)
    files = catalog.among("SELECT * FROM file WHERE recording IN ({ids})", ids)
    return _entries(_named(catalog, "recording", rows), _named(catalog, "file", files))


def past_files(catalog: Catalog, ids: Iterable[int]) -> list[dict[str, Any]]:
    """What is left of the files of removed recordings."""
    sql = "SELECT * FROM past_file WHERE why = 'removed' AND recording IN ({ids})"
    return _named(catalog, "past_file", catalog.among(sql, ids))


def _named(catalog: Catalog, table: str, rows: Iterable[Any]) -> list[dict[str, Any]]:
    names = columns(catalog, table)
    return [dict(zip(names, row, strict=True)) for row in rows]


def columns(catalog: Catalog, table: str) -> list[str]:
    """The names of a table's columns."""
    return [row[1] for row in catalog.rows(f"PRAGMA table_info({table})")]


def _entries(
    rows: Iterable[dict[str, Any]], files: Iterable[dict[str, Any]]
) -> dict[int, RecordingRows]:
    found = {row["id"]: RecordingRows(row) for row in rows}
    for file in files:
        if (entry := found.get(file["recording"])) is not None:
            entry.files[FileKind(file["kind"])] = file
    return found


# --- deciding: no catalogue, no disk -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MergePlan:
    """What is to become of one recording of a source.

    `take`: kinds of file that the target lacks, `lacks`: that the source itself knows to be
    damaged, and the target lacks. `contradicts` says how the two differ (by kind, None for the
    whole recording): then nothing is done. `kept_out`: the target has removed it for good.
    """

    take: tuple[FileKind, ...] = ()
    lacks: tuple[FileKind, ...] = ()
    contradicts: Mapping[FileKind | None, str] = field(default_factory=dict)
    kept_out: bool = False


def decide(source: RecordingRows, target: RecordingRows | None) -> MergePlan:
    """What to do with a recording of the source, of which the target has `target`."""
    if target is not None and target.state is State.REMOVED:
        return MergePlan(kept_out=source.state is not State.REMOVED)
    if source.state is State.REMOVED:
        if target is not None and target.files:
            return MergePlan(contradicts={None: "removed there, and archived here"})
        return MergePlan()
    there = source.whole()
    here = target.whole() if target is not None else {}
    differ: dict[FileKind | None, str] = {
        kind: "other bytes than here"
        for kind in there
        if kind in here and _content(there[kind]) != _content(here[kind])
    }
    if differ:
        return MergePlan(contradicts=differ)
    return MergePlan(
        take=tuple(kind for kind in there if kind not in here),
        lacks=tuple(kind for kind in source.files if kind not in there and kind not in here),
    )


def _content(file: Mapping[str, Any]) -> tuple[int, str]:
    return file["size"], file["sha256"]


def merged(
    source: RecordingRows,
    target: RecordingRows | None,
    *,
    placed: Mapping[FileKind, dict[str, Any]],
    missed: Mapping[FileKind, str],
    directory: str | None,
    now: str,
) -> RecordingRows:
    """The recording as the target is to have it: what either knows.

    `placed` are the rows of files that have come to the target; `missed` are kinds that it
    should have got from the source and did not, and why; `directory` is where its files are.
    """
    files = dict(target.files) if target is not None else {}
    files |= placed
    row = dict(source.row)
    if target is not None:
        for name, value in target.row.items():
            row[name] = _either(name, value, row.get(name))
    row["directory"] = directory
    tomb = target if target is not None and target.state is State.REMOVED else source
    if tomb.state is State.REMOVED:  # of two tombstones this archive's own stays
        row |= {name: tomb.row[name] for name in _OF_A_REMOVED}
        return RecordingRows(row, files)
    _settle(row, source, target, files)
    _judge(row, source, target, missed, now)
    return RecordingRows(row, files)


def _either(name: str, here: Any, there: Any) -> Any:
    """Of what the target and the source have in one column, what is to stay."""
    if here is None or there is None:
        return here if there is None else there
    if name in _EARLIER:
        return min(here, there)
    return max(here, there) if name in _LATER else here


def _settle(
    row: dict[str, Any],
    source: RecordingRows,
    target: RecordingRows | None,
    files: Mapping[FileKind, Mapping[str, Any]],
) -> None:
    """Which kinds of file are settled, wanted, absent."""
    rows = [source.row, *([target.row] if target is not None else [])]
    have = kinds_mask([kind for kind, file in files.items() if not file["damage"]])
    row["absent"] = _any(rows, "absent") & ~have
    row["kinds"] = have | row["absent"]
    row["wanted"] = _any(rows, "wanted") | _any(rows, "kinds") | row["kinds"]
    row["unoffered"] = _any(rows, "unoffered") & ~row["kinds"]
    if not row["unoffered"]:
        row["unoffered_since"] = None


def _any(rows: Iterable[Mapping[str, Any]], name: str) -> int:
    found = 0
    for row in rows:
        found |= row[name]
    return found


def _judge(
    row: dict[str, Any],
    source: RecordingRows,
    target: RecordingRows | None,
    missed: Mapping[FileKind, str],
    now: str,
) -> None:
    """The state: archived where either is, and nothing that was asked for is still missing; or
    where nothing is missing."""
    both = [source] if target is None else [target, source]
    known = row["kinds"] | row["unoffered"]
    open_ = row["wanted"] & ~known
    # What each lacked may have been what the other had.
    if known == _ALL or (not open_ and any(one.state is State.ARCHIVED for one in both)):
        row |= {"state": State.ARCHIVED.value, "reason": None, "owed_since": None}
        row["archived_at"] = row["archived_at"] or now
        return
    owing = [one for one in both if one.state not in _DONE]
    if owing:  # the one that was tried last knows best
        last = max(owing, key=lambda one: (one.row["last_try"] or "", one is target))
        row |= {"state": last.row["state"], "reason": last.row["reason"]}
        return
    row["state"] = State.DAMAGED.value
    row["reason"] = "; ".join(f"{kind}: {why}" for kind, why in missed.items())
    row["owed_since"] = row["owed_since"] or now


# --- writing ------------------------------------------------------------------------------------

_RECORDING_KEY = ("id",)
_FILE_KEY = ("recording", "kind")


def file_row(
    file: StoredFile, old: Mapping[str, Any], *, checked: bool, now: str
) -> dict[str, Any]:
    """The row of a file that has come to the target; `old` is its row in the source.

    `checked`: it is the very file that the source has checked, not a copy.
    """
    row = {
        "recording": file.recording,
        "kind": file.kind.value,
        "path": file.path,
        "size": file.size,
        "sha256": file.sha256,
        "archived_at": now,
        "checked_at": old["checked_at"] if checked else None,
        "damage": None,
    }
    return {**old, **row}


def write(
    catalog: Catalog,
    entries: Sequence[RecordingRows],
    files: Sequence[Mapping[str, Any]],
    removed: Collection[int],
    past: Sequence[Mapping[str, Any]],
) -> None:
    """Record recordings, and those of their files that have come.

    `removed` are those of which a tombstone has come, `past` what is left of their files. All in
    one transaction. The caller has flushed the files and their directories before.
    """
    stale = sorted({str(file["path"]).rpartition("/")[0] for file in files})
    with catalog.transaction() as db:
        here = {"revision": revisions.upcoming(db)}
        _put(db, catalog, "recording", _RECORDING_KEY, [entry.row for entry in entries])
        _put(db, catalog, "file", _FILE_KEY, [{**file, **here} for file in files])
        # They never were in a SHA256SUMS of this archive: from a revision on, and not even in it.
        here["until"] = here["revision"]
        names = [name for name in columns(catalog, "past_file") if name != "id"]
        _insert(db, "past_file", names, [{**file, **here} for file in past])
        steps = ((id_, MERGED) for id_ in removed)
        insert(db, "INSERT OR IGNORE INTO removal VALUES {rows}", steps)
        insert(db, STALE, ((directory,) for directory in stale))


def _put(
    db: sqlite3.Connection,
    catalog: Catalog,
    table: str,
    key: tuple[str, ...],
    rows: Sequence[Mapping[str, Any]],
) -> None:
    names = columns(catalog, table)
    changes = [f"{name} = excluded.{name}" for name in names if name not in (*key, "revision")]
    if "revision" in names:
        changes.append(f"revision = {revisions.LISTED_SINCE}")
    update = f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {', '.join(changes)}"
    _insert(db, table, names, rows, update)


def _insert(
    db: sqlite3.Connection,
    table: str,
    names: Sequence[str],
    rows: Iterable[Mapping[str, Any]],
    more: str = "",
) -> None:
    sql = f"INSERT INTO {table} ({', '.join(names)}) VALUES {{rows}} {more}"  # noqa: S608
    insert(db, sql, ([row[name] for name in names] for row in rows))


def forget(catalog: Catalog, ids: Sequence[int]) -> None:
    """Take recordings, whose files are gone, out of a source; what they were stays known."""
    marks = ",".join("?" * len(ids))
    mine = f"recording IN ({marks})"
    with catalog.transaction() as db:
        db.execute(
            "INSERT OR IGNORE INTO stale_directory SELECT DISTINCT directory FROM recording "  # noqa: S608
            f"WHERE directory IS NOT NULL AND id IN ({marks})",
            ids,
        )
        listed = f"revision < {revisions.upcoming(db)} AND {mine}"
        revisions.remember(db, listed, ids)
        db.execute(f"DELETE FROM file WHERE {mine}", ids)  # noqa: S608
        db.execute(f"DELETE FROM recording WHERE id IN ({marks})", ids)  # noqa: S608


@dataclass(frozen=True, slots=True)
class Scans:
    """How far `sync` has looked, by scope, and the seconds that it looks at again."""

    until: Sequence[tuple[str, str]]
    gaps: Sequence[tuple[str, str]]

    @classmethod
    def of(cls, catalog: Catalog) -> Scans:
        """What a catalogue says."""
        return cls(
            catalog.rows("SELECT scope, complete_until FROM scan"),
            catalog.rows("SELECT scope, second FROM scan_gap"),
        )


def merge_scans(target: Catalog, scans: Scans) -> None:
    """Take along how far `sync` has looked: what it has found is in the target by now.

    Where all shards of a query have come together, that is how far the whole was looked at.
    """
    if not scans.until and not scans.gaps:
        return
    with target.transaction() as db:
        db.executemany(_SCANNED, scans.until)
        db.executemany("INSERT OR IGNORE INTO scan_gap VALUES (?, ?)", scans.gaps)
        parts: dict[tuple[str, int], dict[int, str]] = {}
        for name, until in db.execute("SELECT scope, complete_until FROM scan").fetchall():
            scope, shard = Shard.parse_scope(name)
            if shard is not None:
                parts.setdefault((scope, shard.count), {})[shard.number] = until
        for (scope, count), found in parts.items():
            if len(found) == count:
                db.execute(_SCANNED, (scope, min(found.values())))
                for number in found:
                    db.execute(
                        "INSERT OR IGNORE INTO scan_gap SELECT ?, second FROM scan_gap "
                        "WHERE scope = ?",
                        (scope, Shard(number, count).scope(scope)),
                    )


_SCANNED = """
INSERT INTO scan VALUES (?, ?) ON CONFLICT (scope) DO UPDATE SET
    complete_until = max(complete_until, excluded.complete_until)
"""
