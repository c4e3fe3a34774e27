"""The recordings of a run that are under way: their transfers, and what has become of each."""

from __future__ import annotations

from dataclasses import dataclass, field

from g2a_archive.archive.database.catalog import Catalog, RecordingResult
from g2a_archive.archive.database.lookup import KnownRecording
from g2a_archive.archive.layout import directory_for, zone
from g2a_archive.download.transfer.results import Transfer
from g2a_archive.models import FileKind, Recording, RunSettings, State, StoredFile, kinds_mask


@dataclass(slots=True)
class RecordingTask:
    """One recording between the service's answer and its result."""

    recording: Recording
    directory: str
    waiting: set[FileKind]
    unoffered: int = 0
    archived_before: bool = False
    dropped: bool = False
    files: list[StoredFile] = field(default_factory=list)
    failures: dict[FileKind, str] = field(default_factory=dict)
    troubles: dict[FileKind, str] = field(default_factory=dict)  # what was to be tried again

    def result(self) -> RecordingResult:
        """What the catalogue should record of this recording now."""
        state = State.QUEUED if self.dropped else State.ARCHIVED
        if self.failures:
            state = State.FAILED
        told = self.failures or (self.troubles if self.dropped else {})
        reason = "; ".join(f"{kind}: {why}" for kind, why in told.items())
        return RecordingResult(
            id=self.recording.id,
            state=state,
            kinds=kinds_mask(file.kind for file in self.files),
            unoffered=self.unoffered,
            start_time=self.recording.start_text,
            directory=self.directory,
            reason=reason or None,
            files=self.files,
        )


def make_task(
    recording: Recording,
    known: KnownRecording | None,
    settings: RunSettings,
    catalog: Catalog,
) -> tuple[RecordingTask, list[Transfer]]:
    """The task of a recording and the transfers that it still needs, the MP4 first.

    A recording of which the archive already has files keeps its directory. Raises `ValueError`
    where the recording cannot be archived, with the reason.
    """
    if FileKind.MP4 not in recording.links and FileKind.MP4 not in recording.link_problems:
        raise ValueError("the service gave no link to its MP4")
    directory = known.directory if known is not None else None
    if directory is None:
        directory = directory_for(recording.start, settings.layout, zone(settings.timezone))
    expected = None if settings.ignore_size else recording.size
    old_files = catalog.files_of(recording.id) if known is not None else {}
    have = known.kinds if known is not None else 0
    before = known is not None and known.state is State.ARCHIVED
    task = RecordingTask(recording, directory, set(), archived_before=before)
    transfers = []
    for kind in settings.kinds:
        if have & kind.bit:
            continue
        if kind in recording.link_problems:
            task.failures[kind] = recording.link_problems[kind]
        elif kind not in recording.links and kind in old_files:
            task.failures[kind] = "its file is damaged or gone, and the service gives no link to it"
        elif kind not in recording.links:
            task.unoffered |= kind.bit
        else:
            task.waiting.add(kind)
            old = old_files.get(kind)
            transfers.append(
                Transfer(
                    recording=recording.id,
                    kind=kind,
                    directory=directory,
                    start=recording.start,
                    link=recording.links[kind],
                    expected=expected if kind is FileKind.MP4 else None,
                    known_sha256=old.sha256 if old else None,
                    retries=settings.retries,
                )
            )
    return task, transfers
