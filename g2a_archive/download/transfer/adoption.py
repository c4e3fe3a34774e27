"""Files that are under their final names already: taken as ours where they fit, not fetched.

A lost catalogue, or an archive that was copied without it, leaves them.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress

from g2a_archive.archive import content
from g2a_archive.archive.disk.domains import Operation, domain_of, local_error
from g2a_archive.archive.disk.flushing import flush_file
from g2a_archive.archive.disk.hashing import hash_file
from g2a_archive.archive.layout import file_names
from g2a_archive.archive.storage import Storage
from g2a_archive.download.transfer.results import Stored, Transfer
from g2a_archive.errors import Domain
from g2a_archive.models import StoredFile

log = logging.getLogger("g2a_archive")


def adopt(
    transfer: Transfer, storage: Storage, sums: Callable[[str], dict[str, str]]
) -> Stored | None:
    """Take a file under its final name as ours, if it fits; None if it must be fetched.

    It fits where its sum is listed, or where it is an MP4 of `recordingSize` that adds up. Another
    one is a candidate, until the host tells the length. `sums` are those of a directory's
    `SHA256SUMS`, by name. Raises `LocalError` where it is more than this file that cannot be read.
    """
    transfer.candidate = None
    names = file_names(transfer.recording, transfer.kind)
    path = transfer.found = storage.find(transfer.directory, names)
    if path is None or os.path.islink(path) or not os.path.isfile(path):
        return None  # a link may lead out of the archive, as `verify` would say
    listed = transfer.known_sha256 or sums(transfer.directory).get(os.path.basename(path))
    try:
        if listed is None:
            right_size = transfer.expected in (None, os.path.getsize(path))
            if not right_size or content.integrity_problem(path, transfer.kind):
                return None
            if transfer.expected is None:
                transfer.candidate = path
                return None
        return _taken(transfer, path, listed)
    except OSError as error:
        if domain_of(error, Operation.READ) is not Domain.FILE:
            raise local_error(error, Operation.READ, path) from error
        log.warning(
            "recording %d: %s: the file that is there cannot be read (%s)",
            transfer.recording,
            transfer.kind,
            error.strerror,
        )
        return None


def adopt_candidate(
    transfer: Transfer, length: int | None, told: Mapping[str, bytes]
) -> Stored | None:
    """The candidate, where the host's word for the file's length is its own, and for its digests.

    `told`: digests of the whole file, by hashlib's names. Raises `OSError`.
    """
    path = transfer.candidate
    if path is None or length != os.path.getsize(path):
        return None
    for name, digest in told.items():
        blank = hashlib.new(name, usedforsecurity=False)
        with open(path, "rb") as file:
            if hashlib.file_digest(file, blank.copy).digest() != digest:
                return None
    return _taken(transfer, path, None)


def adopt_identical(transfer: Transfer, path: str, size: int, sha256: str) -> Stored | None:
    """The very file that came, where it is there already; nobody told its length before."""
    with suppress(OSError):
        if os.lstat(path).st_size == size:
            return _taken(transfer, path, sha256)
    return None


def _taken(transfer: Transfer, path: str, listed: str | None) -> Stored | None:
    """The file as an archived one, flushed; None where its sum is not the one listed."""
    size, digest = hash_file(path)
    if listed not in (None, digest):
        return None
    with open(path, "rb") as file:
        flush_file(file.fileno())
    relative = f"{transfer.directory}/{os.path.basename(path)}"
    stored = StoredFile(transfer.recording, transfer.kind, relative, size, digest)
    return Stored(stored, adopted=True)
