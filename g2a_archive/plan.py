"""Which of the recordings asked for are still to be fetched: the catalogue's word, and a look.

A recording that the catalogue calls archived costs no request. That its files are still there
is seen from the names in its directory, one listing for each directory.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from g2a_archive.catalog import Catalog, Known
from g2a_archive.errors import storage_error
from g2a_archive.layout import file_names
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
    plan = Plan([])
    mask = kinds_mask(list(kinds))
    settled: set[int] = set()
    by_directory: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for one in catalog.known(ids):
        if one.state is State.ARCHIVED and one.kinds & mask == mask:
            settled.add(one.id)
            by_directory[one.directory or ""].append((one.id, one.kinds & ~one.absent & mask))
        else:
            plan.known[one.id] = one
    for id_, kind in _missing(root, by_directory):
        settled.discard(id_)
        plan.missing.append((id_, kind, "missing"))
    if plan.missing:
        # The rows again as they are once the damage is recorded.
        lost: dict[int, int] = defaultdict(int)
        for id_, kind, _ in plan.missing:
            lost[id_] |= kind.bit
        for one in catalog.known(list(lost)):
            bits = one.kinds & ~lost[one.id]
            plan.known[one.id] = Known(one.id, State.DAMAGED, bits, one.absent, one.directory)
    plan.already = len(settled)
    plan.todo = [id_ for id_ in ids if id_ not in settled] if settled else list(ids)
    return plan


def _missing(
    root: Path, by_directory: dict[str, list[tuple[int, int]]]
) -> Iterator[tuple[int, FileKind]]:
    for directory, recordings in by_directory.items():
        names: set[str] = set()
        try:
            with suppress(FileNotFoundError, NotADirectoryError):
                names = set(os.listdir(root / directory))
        except OSError as error:
            raise storage_error(error, "read the directory", root / directory) from error
        for id_, bits in recordings:
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
