"""The archives that are taken in: how they are named, and what concerns one of them alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from g2a_archive.archive.storage import catalog_path
from g2a_archive.errors import ArchiverError, InputError, StorageError


class SourceError(StorageError):
    """One source can be had no further, which is no reason to leave out the others."""


@contextmanager
def source_errors() -> Iterator[None]:
    """What fails within concerns the source whose catalogue or disk it is: `SourceError`."""
    try:
        yield
    except ArchiverError as error:
        raise SourceError(error.message, hint=error.hint) from error


@dataclass(frozen=True, slots=True)
class SourceArchive:
    """An archive that is to be taken in; `elsewhere` is its catalogue, where that lies apart."""

    name: str
    root: Path
    elsewhere: str | None = None

    @classmethod
    def parse(cls, text: str) -> SourceArchive:
        """Read `ARCHIVE` or `ARCHIVE=CATALOG`; what is there under the whole name is that.

        Raises `InputError` for an empty name, as of a variable that a script forgot to set.
        """
        if not text.strip() or "\0" in text:
            raise InputError("the name of an archive must not be empty")
        archive, _, catalog = text.rpartition("=")
        if archive and catalog and not os.path.lexists(text):
            return cls(archive, Path(archive).absolute(), catalog)
        return cls(text, Path(text).absolute())

    @property
    def catalog(self) -> Path:
        """Where its catalogue is."""
        return catalog_path(self.root, self.elsewhere)
