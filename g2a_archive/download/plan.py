"""Which of the recordings asked for are still to be fetched: the catalogue's word, and a look.

A recording that the catalogue calls archived costs no request. That its files are still there
is seen from the names in its directory, one listing for each directory.
"""

from __future__ import annotations

import os
from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from g2a_archive.archive.catalog import Catalog, Known
from g2a_archive.archive.layout import file_names
from g2a_archive.errors import storage_error
from g2a_archive.models import ALL_KINDS, FileKind, State, kinds_mask


@dataclass(slots=True)
class Plan:
    """`todo` keeps the order asked for; `known` has what the catalogue holds of those in it."""

    todo: list[int]
    already: int = 0
    known: dict[int, Known] = field(default_factory=dict)
    missing: list[tuple[int, FileKind, str]] = field(default_factory=list)


def make_plan(
    catalog: Catalog | None, root: Path, ids: Sequence[int], kinds: Sequence[FileKind]
) -> Plan:
    """Sort out what is archived already. `root` is the archive. Raises `StorageError`."""
    if catalog is None:
        return Plan(list(ids))
    mask = kinds_mask(list(kinds))
    pending = dict.fromkeys(ids)
    plan = Plan([])
    # Plain arrays: a million recordings should not take more memory than their IDs do.
    there: dict[tuple[str, int], array[int]] = {}
    for id_, bits, directory in catalog.archived(pending.keys(), mask):
        place = directory, bits & mask
        if place not in there:
            there[place] = array("q")
        there[place].append(id_)
    for some in there.values():
        for id_ in some:
            del pending[id_]
    lost: dict[int, int] = defaultdict(int)
    for id_, kind in _missing(root, there):
        lost[id_] |= kind.bit
        plan.missing.append((id_, kind, "missing"))
    for one in catalog.known(pending.keys(), mask):
        plan.known[one.id] = one
    for one in catalog.known(lost.keys()):  # as it is once the damage is recorded
        bits = one.kinds & ~lost[one.id]
        plan.known[one.id] = Known(one.id, State.DAMAGED, bits, one.absent, one.directory)
        pending[one.id] = None
    plan.todo = [id_ for id_ in ids if id_ in pending] if lost else list(pending)
    plan.already = len(ids) - len(plan.todo)
    return plan


def _missing(
    root: Path, there: dict[tuple[str, int], array[int]]
) -> Iterator[tuple[int, FileKind]]:
    """The files that ought to be there, by (directory, kinds), and are not."""
    for (directory, bits), recordings in there.items():
        names: set[str] = set()
        try:
            with suppress(FileNotFoundError, NotADirectoryError):
                names = set(os.listdir(root / directory))
        except OSError as error:
            raise storage_error(error, "read the directory", root / directory) from error
        for id_ in recordings:
            if (
                bits == 7
                and f"{id_}.mp4" in names
                and f"{id_}.events" in names
                and f"{id_}.jpg" in names
            ):
                continue  # the usual case, quickly
            for kind in ALL_KINDS:
                if bits & kind.bit and names.isdisjoint(file_names(id_, kind)):
                    yield id_, kind
