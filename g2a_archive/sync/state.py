"""What `sync` keeps in the catalogue: found, scanned, asked for, marked, given up.

A `scope` is the query of a list call (`windows.Query.scope`): what one account's `sync` found is
its own business, even where two share an archive.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

from g2a_archive.archive.database.catalog import IS_OWED, Catalog
from g2a_archive.archive.database.lookup import known
from g2a_archive.models import ALL_KINDS, FileKind, IdSet, Shard, State, iso, kinds_mask, parse_iso
from g2a_archive.service.clock import MAX_SKEW, Clock
from g2a_archive.sync.listing import WindowResult

WAITING = "waiting to be transcoded"
"""The reason of a recording that the service lists as ready for transcoding."""

_ALL = kinds_mask(ALL_KINDS)

# The larger list_order is the better one: it comes from the narrower window.
_FOUND = """
INSERT INTO recording (id, state, reason, owed_since, scope, list_order) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET
    scope = excluded.scope,
    list_order = max(coalesce(recording.list_order, 0), excluded.list_order),
    state = CASE WHEN {changes} THEN excluded.state ELSE recording.state END,
    reason = CASE WHEN {changes} THEN excluded.reason ELSE recording.reason END
WHERE {changes} OR recording.scope IS NOT excluded.scope
    OR recording.list_order IS NULL OR recording.list_order < excluded.list_order
"""
# What was given up, and is ready now, is worth another try.
_READY = _FOUND.format(changes="recording.state = 'lost'")
_WAITING = _FOUND.format(changes="recording.state = 'queued'")


@dataclass(frozen=True, slots=True)
class OwedRecording:
    """A recording that the archive owes; `transcode_at` is when its transcoding was asked for."""

    id: int
    state: State
    rank: int
    transcode_at: str | None


@dataclass(frozen=True, slots=True)
class Unmarked:
    """A recording that is archived with all of its files: their paths and sizes."""

    id: int
    files: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A recording that is owed no longer, and why it never came."""

    id: int
    since: str
    tries: int
    reason: str


class SyncState:
    """One run's view of the catalogue; one that is only read stays as it is.

    Every method may raise `CatalogError`.
    """

    def __init__(
        self,
        catalog: Catalog,
        scopes: Sequence[str],
        clock: Clock,
        shard: Shard | None = None,
        kinds: Sequence[FileKind] = ALL_KINDS,
    ) -> None:
        self._catalog = catalog
        self._clock = clock
        self._shard = shard
        self._only = "" if set(kinds) == set(ALL_KINDS) else f" only {','.join(kinds)}"
        self._scopes = list(scopes)
        self._mine = f"scope IN ({','.join('?' * len(self._scopes))})"

    def _in_shard(self, recording: int) -> bool:
        return self._shard is None or recording in self._shard

    def _scan_scope(self, scope: str) -> str:
        """The name under which is kept how far this run has looked.

        What a run of one shard, or of one kind of file, has looked at, one of another has not;
        what a whole run has, all.
        """
        scope += self._only
        return scope if self._shard is None else self._shard.scope(scope)

    # --- what was found ---------------------------------------------------------------------

    def complete_until(self, scope: str) -> int | None:
        """Until when (Unix time) all recordings of a scope have been found; None: not known.

        What a clock that was ahead has written is ignored.
        """
        sql = "SELECT max(complete_until) FROM scan WHERE scope IN (?, ?) AND complete_until <= ?"
        text = self._catalog.scalar(sql, scope, self._scan_scope(scope), self._latest_credible())
        return None if text is None else parse_iso(text)

    def ever_scanned(self, scope: str) -> bool:
        """Whether a scope needed windows, so that it is remembered how far they came."""
        sql = "SELECT count(*) FROM scan WHERE scope IN (?, ?)"
        return bool(self._catalog.scalar(sql, scope, self._scan_scope(scope)))

    def _latest_credible(self) -> str:
        """No honest clock has written a later time."""
        return iso(int(self._clock.best()) + MAX_SKEW)

    def reset_future_times(self) -> None:
        """Correct what a clock that was ahead has written of what is owed: as of now.

        Or it would be asked for, tried and given up only when that time has come.
        """
        if self._catalog.readonly:
            return
        now, future = self._clock.text(), self._latest_credible()
        with self._catalog.transaction() as db:
            for column, instead in (("owed_since", now), ("last_try", now), ("transcode_at", None)):
                db.execute(
                    f"UPDATE recording SET {column} = ? "  # noqa: S608
                    f"WHERE state <> 'archived' AND {column} > ?",
                    (instead, future),
                )

    def gaps(self, scope: str) -> list[int]:
        """The seconds (Unix time) in which more recordings started than the service told."""
        sql = "SELECT DISTINCT second FROM scan_gap WHERE scope IN (?, ?) ORDER BY second"
        return [
            parse_iso(row[0]) for row in self._catalog.rows(sql, (scope, self._scan_scope(scope)))
        ]

    def record_window(self, one: WindowResult, *, scanned: int | None = None) -> None:
        """Remember the recordings of one answer, and how far the listing has come, together.

        `complete_until` is Unix time, None to leave it as it is. A second that overflows is
        remembered until it does so no longer.
        """
        if self._catalog.readonly:
            return
        scope, now = one.query.scope, self._clock.text()
        looked = self._scan_scope(scope)
        with self._catalog.transaction() as db:
            for sql, state, reason, ids in (
                (_WAITING, State.UNAVAILABLE, WAITING, one.ready.transcode),
                (_READY, State.QUEUED, None, one.ready.download),
            ):
                db.executemany(
                    sql,
                    (
                        (id_, state, reason, now, scope, one.rank + place)
                        for place, id_ in enumerate(ids)
                    ),
                )
            if scanned is not None:
                db.execute(
                    "INSERT INTO scan VALUES (?, ?) ON CONFLICT (scope) DO UPDATE SET "
                    "complete_until = CASE WHEN complete_until > ? THEN excluded.complete_until "
                    "ELSE max(complete_until, excluded.complete_until) END",
                    (looked, iso(scanned), self._latest_credible()),
                )
            if one.window.begin is not None and one.window.is_second:
                second = looked, iso(one.window.begin)
                if one.overflows:
                    db.execute("INSERT OR IGNORE INTO scan_gap VALUES (?, ?)", second)
                elif one.window.include_begin:
                    db.execute("DELETE FROM scan_gap WHERE scope = ? AND second = ?", second)

    def owed(self) -> Iterator[OwedRecording]:
        """What this archive owes of these scopes, and of no known one; in start order."""
        sql = (
            "SELECT id, state, coalesce(list_order, 0), transcode_at FROM recording "  # noqa: S608
            f"WHERE {IS_OWED} AND (scope IS NULL OR {self._mine}) "
            "ORDER BY list_order, owed_since, id"
        )
        for id_, state, rank, asked in self._catalog.stream(sql, self._scopes):
            if self._in_shard(id_):
                yield OwedRecording(id_, State(state), rank, asked)

    def unoffered(self) -> Iterator[tuple[int, int]]:
        """Archived recordings of these scopes of which a file was not offered, which is not
        believed yet: (ID, rank).
        """
        sql = (
            "SELECT id, coalesce(list_order, 0) FROM recording "  # noqa: S608
            f"WHERE unoffered <> 0 AND state = 'archived' AND {self._mine}"
        )
        for row in self._catalog.stream(sql, self._scopes):
            if self._in_shard(row[0]):
                yield row

    # --- what was asked for -----------------------------------------------------------------

    def not_wanted(self, ids: Collection[int]) -> IdSet:
        """Those of `ids` that are archived, were given up, or were removed."""
        done = (State.ARCHIVED, State.LOST, State.REMOVED)
        return IdSet(one.id for one in known(self._catalog, ids) if one.state in done)

    def asked_for_transcoding(self, ids: Iterable[int]) -> None:
        """Remember that the transcoding of `ids` was asked for now; it counts as a try."""
        now = self._clock.text()
        with self._catalog.transaction() as db:
            db.executemany(
                "UPDATE recording SET transcode_at = ?, last_try = ?, tries = tries + 1 "
                "WHERE id = ?",
                ((now, now, id_) for id_ in ids),
            )

    # --- what was marked --------------------------------------------------------------------

    def unmarked(self, also: Iterable[int] = ()) -> Iterator[Unmarked]:
        """Recordings of these scopes, and of `also`, that are archived whole but not marked yet.

        Whole: each kind of file is in the catalogue, or is known not to exist. What was archived
        and then removed here still counts, without files.
        """
        more = IdSet(also)
        sql = (
            f"SELECT id, {self._mine} FROM recording "  # noqa: S608
            f"WHERE marked_at IS NULL AND (state = 'archived' AND kinds = {_ALL} "
            "OR state = 'removed' AND archived_at IS NOT NULL) ORDER BY list_order, id"
        )
        rows = self._catalog.stream(sql, self._scopes)
        ids = array("q", (i for i, mine in rows if (mine or i in more) and self._in_shard(i)))
        sql = (
            "SELECT r.id, CASE r.state WHEN 'removed' THEN -1 ELSE r.kinds & ~r.absent END, "
            "f.path, f.size FROM recording r "
            "LEFT JOIN file f ON f.recording = r.id AND f.damage IS NULL "
            "WHERE r.id IN ({ids}) ORDER BY r.list_order, r.id"
        )
        # Some at a time: who looks at the files holds no lock meanwhile.
        for (id_, bits), its in groupby(self._catalog.among(sql, ids), key=itemgetter(0, 1)):
            files = tuple((path, size) for *_, path, size in its if path is not None)
            if bits < 0 or len(files) == bits.bit_count():
                yield Unmarked(id_, files)

    def record_marked(self, ids: Iterable[int]) -> None:
        """Remember that the service has marked `ids` as archived."""
        now = self._clock.text()
        with self._catalog.transaction() as db:
            db.executemany(
                "UPDATE recording SET marked_at = ? WHERE id = ?", ((now, id_) for id_ in ids)
            )

    # --- what was given up ------------------------------------------------------------------

    def give_up(self, before: float) -> list[GivenUp]:
        """Call lost what is owed since before `before` (Unix time); returns what that is.

        What was found long ago and not tried since, or once only, is not given up: on a first
        run of weeks it has waited for its turn.
        """
        where = (
            f"{IS_OWED} AND state <> 'queued' AND tries <> 1 "
            f"AND owed_since < ? AND (scope IS NULL OR {self._mine})"
        )
        values = (iso(int(before)), *self._scopes)
        sql = (
            "SELECT id, owed_since, tries, coalesce(reason, state) FROM recording "  # noqa: S608
            f"WHERE {where} ORDER BY id"
        )
        rows = self._catalog.stream(sql, values)
        lost = [GivenUp(*row) for row in rows if self._in_shard(row[0])]
        if lost and not self._catalog.readonly:
            with self._catalog.transaction() as db:
                change = "UPDATE recording SET state = 'lost' WHERE id = ?"
                db.executemany(change, ((one.id,) for one in lost))
        return lost
