"""Holding an archive against a fingerprint of it that was kept elsewhere.

Three steps, each of which leans on the one before. The digests of all `SHA256SUMS`, as the
catalogue knows them of that revision, must make the fingerprint. What the catalogue says of the
files at that revision must make these `SHA256SUMS`, byte for byte. And the files must be what it
says, which `verify` reads. So nobody who changed a file, its sum and the catalogue goes
unseen: the line, which is not here, would have to change, too.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from g2a_archive.archive import checksums
from g2a_archive.archive.database import revisions
from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.archive.database.revisions import Fingerprint
from g2a_archive.archive.disk.hashing import hash_file
from g2a_archive.archive.layout import parse_name
from g2a_archive.errors import ArchiverError, InputError, Interrupted
from g2a_archive.fixity.check import Finding
from g2a_archive.models import utc_now

_SHOWN = 20
_THEN = f"SELECT * FROM ({revisions.SUMS_AT_REVISION}) WHERE sha256 IS NOT NULL "  # noqa: S608

# What the catalogue said of a directory then, by name; `why` tells what became of it.
_LINES = f"""
SELECT substr(f.path, :start) AS name, f.sha256, '' AS why, f.recording
{checksums.OF_DIRECTORY} AND f.revision <= :revision
UNION ALL
SELECT substr(path, :start), sha256, why, recording FROM past_file
WHERE path > :directory || '/' AND path < :directory || '0'
  AND revision <= :revision AND until > :revision AND instr(substr(path, :start), '/') = 0
ORDER BY name
"""  # noqa: S608 - no word in it comes from outside
_OTHERS = """
SELECT after, line FROM other_line
WHERE directory = ? AND revision <= ? AND (until IS NULL OR until > ?) ORDER BY id
"""
# Neither in the catalogue then, nor listed as a file of one that was lost.
_CAME_SINCE = """
SELECT 1 FROM file WHERE recording = :id AND kind = :kind AND revision > :revision AND NOT EXISTS
    (SELECT 1 FROM other_line WHERE directory = :directory AND revision <= :revision
     AND (until IS NULL OR until > :revision) AND instr(line, :name))
"""
_SUM = "SELECT sha256 FROM sums WHERE directory = ? ORDER BY revision DESC LIMIT 1"


@dataclass(slots=True)
class Proof:
    """What became of the files that a fingerprint tells of.

    `files` were there; of them some were `removed` by `remove` or `replaced` (fetched again)
    since; `later` ones came since. `recordings` are the first of those removed and replaced, with
    what became of them. `findings` are what is wrong before any file is read; `wrong_since` are
    the paths of files that are wrong, and came after the fingerprint's `revision`.
    """

    fingerprint: Fingerprint
    revision: int
    files: int = 0
    removed: int = 0
    replaced: int = 0
    later: int = 0
    recordings: dict[int, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    wrong_since: set[str] = field(default_factory=set)

    @property
    def unchanged(self) -> int:
        """Files that must be here today as they were then."""
        return self.files - self.removed - self.replaced


def parse(text: str) -> Fingerprint:
    """The fingerprint in `text`; `InputError` for what is none."""
    try:
        return Fingerprint.parse(text)
    except ValueError as error:
        raise InputError(
            f"this is no fingerprint: {error}",
            hint="it is the whole line that `status --fingerprint` printed",
        ) from None


def prove(
    catalog: Catalog,
    root: Path,
    fingerprint: Fingerprint,
    *,
    stop: Callable[[], bool] = lambda: False,
) -> Proof:
    """Hold the catalogue against the fingerprint, and the `SHA256SUMS` against the catalogue.

    Raises `InputError` for a fingerprint of the future, unless it is one that the catalogue knows,
    given while the clock was wrong; `ArchiverError` (exit code 1) where it is not one of this
    archive, as the catalogue tells its past; `StorageError`, and `Interrupted`.
    """
    revision = _revision(catalog, fingerprint)
    then = catalog.rows(f"{_THEN} {revisions.IN_ORDER}", {"revision": revision})
    files = sum(row[2] for row in then)
    if (files, revisions.digest(row[:2] for row in then)) != (
        fingerprint.files,
        fingerprint.digest,
    ):
        raise ArchiverError(
            f"the catalogue no longer says of {fingerprint.time} what it said then: its sums of "
            "the SHA256SUMS files do not make this fingerprint",
            hint="somebody has changed the catalogue; compare it with a copy",
        )
    proof = Proof(fingerprint, revision, files)
    proof.later = catalog.scalar("SELECT count(*) FROM file WHERE revision > ?", revision)
    for directory, sha256, _ in then:
        if stop():
            raise Interrupted
        _directory(catalog, root, proof, directory, sha256, revision)
    proof.findings += _sums_of_today(catalog, root, stop)
    return proof


def mark_later(catalog: Catalog, proof: Proof, findings: Iterable[Finding]) -> None:
    """Note which `findings` of a check are of files that came since: they disprove nothing."""
    for one in findings:
        directory, _, name = one.path.rpartition("/")
        values = {"id": one.recording, "kind": one.kind, "revision": proof.revision}
        if one.kind and catalog.rows(
            _CAME_SINCE, {**values, "directory": directory, "name": name.encode()}
        ):
            proof.wrong_since.add(one.path)


def _revision(catalog: Catalog, fingerprint: Fingerprint) -> int:
    """The number of the revision that the fingerprint is of."""
    one = fingerprint
    known = "SELECT 1 FROM revision WHERE digest = ? AND files = ? AND time = ?"
    if one.time > utc_now() and not catalog.rows(known, (one.digest, one.files, one.time)):
        raise InputError(
            f"the fingerprint is of the future: {one.time}", hint="is this machine's clock right?"
        )
    same = "digest = ? AND files = ? ORDER BY time = ? DESC, id DESC LIMIT 1"
    found = catalog.scalar(
        f"SELECT id FROM revision WHERE {same}",  # noqa: S608
        one.digest,
        one.files,
        one.time,
    )
    if found is not None:
        return int(found)
    rows = catalog.rows("SELECT time FROM revision ORDER BY id LIMIT 1")
    since = f"it tells the past since {rows[0][0]}" if rows else "it knows no fingerprint yet"
    raise ArchiverError(
        f"as its catalogue tells it, this archive never had the fingerprint of {one.time}; {since}",
        hint="it is another archive's, or somebody has rewritten the catalogue",
    )


def _directory(
    catalog: Catalog, root: Path, proof: Proof, directory: str, sha256: str, revision: int
) -> None:
    """Make a directory's `SHA256SUMS` at that revision; note what became of its files since."""
    values = {"directory": directory, "start": len(directory) + 2, "revision": revision}
    others = catalog.rows(_OTHERS, (directory, revision, revision))
    became: Counter[str] = Counter()
    first: dict[int, str] = {}

    def ours() -> Iterator[bytes]:
        for name, its, why, recording in catalog.stream(_LINES, values):
            if why:
                became[why] += 1
                if len(first) < _SHOWN:
                    first.setdefault(recording, why)
            yield revisions.line_of(name, its)

    again = hashlib.sha256()
    for line in revisions.lines_of(ours(), others):
        again.update(line)
    if again.hexdigest() != sha256:
        what = f"changed: the catalogue does not say of {proof.fingerprint.time} what it said then"
        proof.findings.append(Finding(None, None, f"{directory}/{checksums.NAME}", what, False))
        return
    proof.removed += became["removed"]
    proof.replaced += became["replaced"]
    for recording, why in first.items():
        if len(proof.recordings) < _SHOWN:
            proof.recordings.setdefault(recording, why)
    for _, line in others:
        proof.findings += _other(catalog, root, directory, line)


def _other(catalog: Catalog, root: Path, directory: str, line: bytes) -> Iterator[Finding]:
    """Check a file that was listed, but in no catalogue: from before the catalogue was lost."""
    text = line.decode("utf-8", "surrogateescape").rstrip("\r\n")
    sha256, name = text[:64].lower(), text[66:].removeprefix("./")
    key = parse_name(name)
    if key is None:
        return
    path = f"{directory}/{name}"
    sql = "SELECT 1 FROM past_file WHERE path = ? AND sha256 = ? UNION ALL "
    sql += "SELECT 1 FROM file WHERE recording = ? AND kind = ? AND path = ? AND sha256 = ?"
    if catalog.scalar(sql, path, sha256, *key, path, sha256):
        return  # told, or read, as one of the catalogue's own
    try:
        problem = "" if hash_file(root / path)[1] == sha256 else "changed: not what was listed"
    except OSError as error:
        problem = f"unreadable: {error.strerror}" if os.path.lexists(root / path) else "missing"
    if problem:
        yield Finding(*key, path, problem, False)


def _sums_of_today(catalog: Catalog, root: Path, stop: Callable[[], bool]) -> Iterator[Finding]:
    """The `SHA256SUMS` that are not what the program wrote last."""
    for directory, sha256, _ in catalog.rows(revisions.CURRENT_SUMS):
        if stop():
            raise Interrupted
        problem = _sums_problem(root, directory, sha256)
        # A run may have written it meanwhile: it says so before that, and what it is afterwards.
        while problem and directory not in catalog.stale_directories():
            now = catalog.scalar(_SUM, directory)
            if now == sha256:
                yield Finding(None, None, f"{directory}/{checksums.NAME}", problem, False)
                break
            sha256 = now
            problem = _sums_problem(root, directory, sha256)


def _sums_problem(root: Path, directory: str, sha256: str | None) -> str:
    """What is wrong with a directory's `SHA256SUMS`, which should have this sum; "" if nothing."""
    if sha256 is None:
        return ""
    path = root / directory / checksums.NAME
    try:
        return "" if hash_file(path)[1] == sha256 else "changed: not what was written last"
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"unreadable: {error.strerror}"
