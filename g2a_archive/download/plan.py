"""Which of the recordings asked for are still to be fetched: the catalogue's word, and a look.

A recording that the catalogue calls archived costs no request. That its files are still there
is seen from the names in its directory, one listing for each directory; a few are looked for by
their names, as a directory may have a hundred thousand others.
"""

from __future__ import annotations

import os
import stat
from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.archive.database.lookup import KnownRecording, archived, begun, failures, known
from g2a_archive.archive.disk.domains import Operation, local_error, retry_transient
from g2a_archive.archive.disk.mounts import MissingPart, missing_date, require_some_mounted
from g2a_archive.archive.layout import file_names
from g2a_archive.models import ALL_KINDS, Failure, FileKind, IdSet, Rows, State, kinds_mask

_ONLY_BEGUN = (State.QUEUED, State.UNAVAILABLE, State.REFUSED)
"""States of recordings of which a run that was killed may have named files, and not told."""

_LOOKED_FOR = 8
"""Recordings of a directory up to which it is not listed, if they are there: the names of 50,000
take 0.1 s and 16 MB."""


@dataclass(slots=True)
class Plan:
    """`todo` keeps the order asked for, but for what failed often, which comes last; `known` has
    those of it of which the catalogue has more to say than that they are owed.

    `missing` are files that are gone. `unmounted` are parts of the archive that are not mounted,
    and `on_unmounted` the recordings asked for that are archived there: they are left alone.
    `removed` are those that `remove` took out.
    `failed` are those whose directory cannot be read, with the reason.
    """

    todo: array[int]
    already: int = 0
    known: dict[int, KnownRecording] = field(default_factory=dict)
    missing: list[tuple[int, FileKind, str]] = field(default_factory=list)
    unmounted: list[MissingPart] = field(default_factory=list)
    on_unmounted: array[int] = field(default_factory=lambda: array("q"))
    failed: Rows[Failure] = field(default_factory=lambda: Rows(Failure))
    removed: array[int] = field(default_factory=lambda: array("q"))


def make_plan(
    catalog: Catalog,
    root: Path,
    ids: Sequence[int],
    kinds: Sequence[FileKind],
    *,
    again: bool = False,
) -> Plan:
    """Sort out what of `ids`, each once, is archived already.

    `root` is the archive; `again`: also what was removed. Raises `StorageError` where the whole
    archive is not mounted, and `CatalogError`.
    """
    mask = kinds_mask(kinds)
    plan = Plan(array("q"), unmounted=require_some_mounted(catalog, root))
    look = _DirectoryListings(catalog, root, plan)
    done, lost = _check_present(look, archived(catalog, ids, mask), mask)
    plan.todo = _without(ids, done)
    for one in begun(catalog, plan.todo, mask):
        if one.state is State.REMOVED and not again:
            plan.removed.append(one.id)
        else:
            plan.known[one.id] = one
    _reset_directories(catalog, root, plan)
    # What came of a recording before is called archived with what comes now: is it still there?
    said = len(plan.on_unmounted), len(plan.failed)
    parts = ((one.id, one.kinds & ~one.absent, one.directory or "") for one in plan.known.values())
    lost |= _check_present(look, parts, mask)[1]
    aside = plan.removed + plan.on_unmounted[said[0] :] + plan.failed.ids[said[1] :]
    plan.todo = _failures_last(catalog, _without(plan.todo, aside))
    for one in known(catalog, lost.keys()):  # as it is once the damage is recorded
        bits = one.kinds & ~lost[one.id]
        plan.known[one.id] = KnownRecording(one.id, State.DAMAGED, bits, one.absent, one.directory)
    left = len(plan.on_unmounted) + len(plan.failed) + len(plan.removed)
    plan.already = len(ids) - len(plan.todo) - left
    return plan


def _reset_directories(catalog: Catalog, root: Path, plan: Plan) -> None:
    """What another run had only begun, and named nothing of, goes where this one's layout says."""
    begun = [
        one
        for one in plan.known.values()
        if one.directory and not one.kinds and one.state in _ONLY_BEGUN
    ]
    held = {file.recording for file in catalog.files(one.id for one in begun)}
    for one in begun:
        names = chain.from_iterable(file_names(one.id, kind) for kind in ALL_KINDS)
        named = any(_is_file(f"{root}/{one.directory}/{name}") for name in names)
        if one.id not in held and not named:
            plan.known[one.id] = replace(one, directory=None)


def _failures_last(catalog: Catalog, todo: array[int]) -> array[int]:
    """`todo` in its order, but for what failed before: the more often, the later."""
    failed, counts = array("q"), array("q")
    for id_, count in failures(catalog, todo):
        failed.append(id_)
        counts.append(count)
    if not failed:
        return todo
    by_count: dict[int, array[int]] = defaultdict(lambda: array("q"))
    for id_ in todo:
        at = bisect_left(failed, id_)
        by_count[counts[at] if at < len(failed) and failed[at] == id_ else 0].append(id_)
    return array("q", chain.from_iterable(by_count[count] for count in sorted(by_count)))


def _check_present(
    look: _DirectoryListings, recordings: Iterable[tuple[int, int, str]], mask: int
) -> tuple[array[int], dict[int, int]]:
    """Of `recordings`, as (ID, bits of its files, directory): those that are all there as far as
    can be told, and the bits of the files that are gone of others.

    Plain arrays: a million recordings should not take more memory than their IDs do.
    """
    there: dict[tuple[str, int], array[int]] = {}
    for id_, bits, directory in recordings:
        place = directory, bits & mask
        if place not in there:
            there[place] = array("q")
        there[place].append(id_)
    lost: dict[int, int] = defaultdict(int)
    for id_, kind in look.missing(there):
        lost[id_] |= kind.bit
    return array("q", (i for some in there.values() for i in some if i not in lost)), lost


def _without(ids: Sequence[int], some: array[int]) -> array[int]:
    """`ids`, in their order, without `some` of them."""
    if len(some) == len(ids):
        return array("q")
    if not some:
        return ids if isinstance(ids, array) else array("q", ids)
    among = IdSet(some)
    return array("q", (id_ for id_ in ids if id_ not in among))


class _DirectoryListings:
    """One look at each directory, beside the catalogue's word; the plan hears of what is odd."""

    def __init__(self, catalog: Catalog, root: Path, plan: Plan) -> None:
        self._catalog = catalog
        self._root = root
        self._plan = plan

    def missing(self, there: dict[tuple[str, int], array[int]]) -> Iterator[tuple[int, FileKind]]:
        """The files that ought to be there, by (directory, kinds), and are not."""
        for (directory, bits), recordings in there.items():
            names = self._names(directory, bits, recordings) if bits else None
            if names is None:
                continue
            place = f"{self._root}/{directory}"
            for id_ in recordings:
                if f"{id_}.mp4" in names and f"{id_}.events" in names and f"{id_}.jpg" in names:
                    continue  # the usual case, quickly
                for kind in ALL_KINDS:
                    if bits & kind.bit and not any(
                        _is_named(name, names, place) for name in file_names(id_, kind)
                    ):
                        self._plan.missing.append((id_, kind, "missing"))
                        yield id_, kind

    def _names(self, directory: str, bits: int, recordings: array[int]) -> set[str] | None:
        """What a directory holds, or all that is wanted of it.

        None where that says nothing of what is archived there.
        """
        plan = self._plan
        if any(part.holds(directory) for part in plan.unmounted):
            plan.on_unmounted.extend(recordings)
            return None
        path = self._root / directory
        if len(recordings) <= _LOOKED_FOR and (names := _wanted(path, bits, recordings)):
            return names
        names = set()
        try:
            names = retry_transient(_files_in, path)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            reason = str(local_error(error, Operation.LIST, path))
            plan.failed.extend(Failure(id_, None, reason) for id_ in recordings)
            return None
        part = missing_date(self._catalog, self._root, directory)
        if part is not None and part.recordings:
            plan.unmounted.append(part)
            plan.on_unmounted.extend(recordings)
            return None
        return names


def _is_named(name: str, there: set[str], directory: str) -> bool:
    """Whether `name` is among the names of a directory, also where a share shows `NAME`.

    Some shares tell all names in one case, and open them by any.
    """
    if name in there:
        return True
    return name.upper() in there and os.path.lexists(f"{directory}/{name}")


def _wanted(path: Path, bits: int, recordings: array[int]) -> set[str]:
    """The names of all files that ought to be in a directory; empty where one is not there."""
    found = set()
    for id_ in recordings:
        for kind in ALL_KINDS:
            if bits & kind.bit:
                names = (n for n in file_names(id_, kind) if _is_file(f"{path}/{n}"))
                if (name := next(names, None)) is None:
                    return set()
                found.add(name)
    return found


def _is_file(path: str) -> bool:
    """Whether there is anything but a directory, which is no file of ours."""
    with suppress(OSError):
        return not stat.S_ISDIR(os.lstat(path).st_mode)
    return False


def _files_in(path: Path) -> set[str]:
    """What is in a directory, but for directories; mostly it has none, as its links tell."""
    if os.stat(path).st_nlink == 2:
        return {*os.listdir(path)}
    with os.scandir(path) as entries:
        return {entry.name for entry in entries if not entry.is_dir(follow_symlinks=False)}
