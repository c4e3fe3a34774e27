"""What a run leaves behind for people and programs: stdout, the error file, the metrics."""

from __future__ import annotations

import json
import os
import select
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cache
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

from g2a_archive.archive.disk import strictpath
from g2a_archive.archive.disk.domains import retry_transient
from g2a_archive.archive.disk.flushing import flush_file
from g2a_archive.archive.disk.renaming import is_mount, recover, replace
from g2a_archive.console.logs import redact
from g2a_archive.console.progress import can_paint
from g2a_archive.console.report import Report
from g2a_archive.errors import ExitCode, StorageError, storage_error
from g2a_archive.models import printable


def print_lines(*lines: str) -> None:
    """Write lines to stdout, in each what would steer a terminal, or end it, written out.

    Raises `StorageError`: a full disk, a closed pipe.
    """
    write("".join(f"{printable(line)}\n" for line in lines))


def write(text: str) -> None:
    """Write text to stdout as it is. Raises `StorageError`."""
    with checked_stdout() as out:
        out.write(text)


def show(report: Report) -> None:
    """Print the closing summary to stdout: with colours on a terminal, plain elsewhere.

    Raises `StorageError`.
    """
    lines = report.summary()
    if not can_paint(sys.stdout):
        print_lines(*(line for _, line in lines))
        return
    from rich.console import Console
    from rich.text import Text

    with checked_stdout() as out:
        console = Console(file=out, force_terminal=True, highlight=False)
        for style, line in lines:
            console.print(Text(printable(line), style), soft_wrap=True)


def on_terminal() -> bool:
    """Whether a person reads standard output."""
    return sys.stdout is not None and sys.stdout.isatty()


@contextmanager
def checked_stdout() -> Iterator[TextIO]:
    """Standard output, flushed at the end. Raises `StorageError` where it fails, or is closed."""
    try:
        if sys.stdout is None:  # closed, as `>&-` does
            raise ValueError
        yield sys.stdout
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        _abandon(1)
        code = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(code) if code else "closed"
        raise StorageError(f"cannot write to standard output: {reason}") from None


@contextmanager
def streamed() -> Iterator[TextIO]:
    """Standard output for much text, in UTF-8 and with lines that end as they are written.

    Raises `StorageError`: a full disk, a closed pipe.
    """
    with checked_stdout() as out:
        if isinstance(out, TextIOWrapper):
            out.reconfigure(encoding="utf-8", newline="")
        yield out


def print_error(what: object, *, patience: float | None = None) -> None:
    """Write one line of this program to stderr; there is nobody left to tell if that fails.

    Where stderr takes nothing for `patience` seconds (Ctrl-S), the line is left out.
    """
    line = printable(f"g2a-archive: {what}")
    with suppress(OSError, ValueError, AttributeError):
        if patience is not None and not select.select([], [sys.stderr], [], patience)[1]:
            return
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def reserve_standard_streams() -> None:
    """Where one of them is closed, no file that is opened later may get its number.

    A pipe's end takes it: not every chroot has a /dev/null that everybody may open.
    """
    end, other = os.pipe()
    os.close(other)
    while end <= 2:
        end = os.dup(end)
    os.close(end)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the end
    if isinstance(sys.stdout, TextIOWrapper):  # not every terminal has every character
        sys.stdout.reconfigure(errors="replace")


def flush_standard_streams() -> None:
    """What a closed stderr or stdout did not take must not fail once more when Python ends.

    Its own last flush would turn any exit code into 120.
    """
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            _abandon(number)


def _abandon(number: int) -> None:
    """Point a standard stream at nothing, so that the interpreter's last flush doesn't fail."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, number)
    os.close(null)


def say_json(value: object) -> None:
    """Write one JSON object to stdout, piece by piece. Raises `StorageError`."""
    with checked_stdout() as out:
        out.writelines(_json(value, "\n"))
        out.write("\n")


def _json(value: object, margin: str) -> Iterator[str]:
    """What `json.dumps(value, indent=2)` returns; also of what can be gone through but once."""
    items: Iterable[tuple[str, object]]
    if isinstance(value, Mapping):
        ends, items = "{}", ((f"{json.dumps(key)}: ", one) for key, one in value.items())
    elif isinstance(value, Iterable) and not isinstance(value, str):
        ends, items = "[]", (("", one) for one in value)
    else:
        yield json.dumps(value)
        return
    before = ends[0]
    for head, one in items:
        yield f"{before}{margin}  {head}"
        yield from _json(one, f"{margin}  ")
        before = ","
    yield ends if before == ends[0] else f"{margin}{ends[1]}"


_STREAMS = ("/dev/stdout", "/dev/stderr", "/dev/fd/", "/proc/")
"""Names of what is open here: it may well be a regular file, and is not to be replaced."""


def is_replaced(path: str) -> bool:
    """Whether `atomic_write` would put a new file there: it is a regular one, or none yet."""
    target = Path(os.path.realpath(path))
    return not path.startswith(_STREAMS) and not strictpath.is_not_file(target)


@contextmanager
def atomic_write(path: str, *, option: str) -> Iterator[TextIO]:
    """Replace a file whole, or write to what is no regular file. Raises `StorageError`.

    A file that cannot be replaced (a mount of its own, as containers have them; in a directory
    that is not to be written to) is written over where it is. `option` is what named it.
    """
    target = Path(os.path.realpath(path))  # a symbolic link stays one
    try:
        if not is_replaced(path):
            with open(path, "a", encoding="utf-8", newline="") as device:
                yield device
            return
        aside = target.with_name(f".{target.name}.{os.getpid()}.new")
        with _made_beside(aside, target) as out:
            yield out
        if out.name == str(aside):
            _put(aside, target)
    except OSError as error:
        raise storage_error(error, "write", path, option=option) from error


@contextmanager
def _made_beside(aside: Path, target: Path) -> Iterator[TextIO]:
    """A new file `aside`, which does not outlive a failure; `target` where it may not be made.

    It has the owner and the mode of what it is to replace: others may be meant to read it.
    """
    recover(target)
    try:
        out = retry_transient(_written, aside)
    except PermissionError:
        if not strictpath.is_file(target):
            raise
        out = _written(target)
    try:
        with out:
            with suppress(OSError):  # none yet; or a share that knows neither
                old, new = target.stat(), os.fstat(out.fileno())
                if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
                    os.fchown(out.fileno(), old.st_uid, old.st_gid)
                os.fchmod(out.fileno(), stat.S_IMODE(old.st_mode))
            yield out
            out.flush()
            flush_file(out.fileno())
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def _written(path: Path) -> TextIO:
    return open(path, "w", encoding="utf-8", newline="")


def _put(aside: Path, target: Path) -> None:
    """Let `aside` take the place of `target`, or at least what is in it."""
    try:
        if is_mount(target):
            import shutil

            shutil.copyfile(aside, target)
        else:
            replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)


def write_error_file(path: str, report: Report) -> None:
    """The IDs that did not get archived, one a line, the reason as a comment."""
    clean = cache(redact)  # of a million, most have the same one
    lines = (f"{id_}  # {clean(reason)}\n" for id_, reason in report.not_archived())
    with atomic_write(path, option="--error-file") as out:
        out.writelines(lines)


def write_metrics(path: str, report: Report, *, owed: int | None, success: float | None) -> None:
    """The run in Prometheus' text format; `success` is when a run last ended with 0 (Unix time)."""
    with atomic_write(path, option="--metrics-file") as out:
        out.write(metrics_text(report, owed=owed, success=success))


def metrics_text(report: Report, *, owed: int | None, success: float | None) -> str:
    """The text of the metrics file; values that are not known are left out."""
    end = datetime.fromisoformat(report.finished_at).timestamp()
    outcomes = {
        "archived": report.archived,
        "already_archived": report.already_archived,
        "unavailable": len(report.unavailable),
        "refused": len(report.refused),
        "failed": report.failed_recordings,
        "not_tried": len(report.unfinished),
    }
    if report.exit_code is ExitCode.OK:
        success = end
    by_outcome = {f'{{outcome="{name}"}}': count for name, count in outcomes.items()}
    fingerprint = {}
    if one := report.fingerprint:
        labels = f'{{time="{one.time}",files="{one.files}",digest="{one.digest}"}}'
        fingerprint = {labels: 1}
    gauges: tuple[tuple[str, str, Mapping[str, float | None]], ...] = (
        ("last_run_end_timestamp_seconds", "When the last run ended.", {"": end}),
        ("last_run_exit_code", "Exit code of the last run.", {"": int(report.exit_code)}),
        (
            "last_run_duration_seconds",
            "How long the last run took.",
            {"": round(report.seconds, 3)},
        ),
        ("last_run_recordings", "Recordings of the last run by outcome.", by_outcome),
        ("last_run_received_bytes", "Bytes that the last run received.", {"": report.bytes}),
        ("owed_recordings", "Recordings that the archive owes.", {"": owed}),
        (
            "last_success_timestamp_seconds",
            "When a run last ended with exit code 0.",
            {"": success},
        ),
        ("fingerprint_info", "The archive's fingerprint.", fingerprint),
    )
    lines = []
    for name, text, values in gauges:
        full = f"g2a_archive_{name}"
        known = [f"{full}{labels} {value}" for labels, value in values.items() if value is not None]
        if known:
            lines += [f"# HELP {full} {text}", f"# TYPE {full} gauge", *known]
    return "\n".join(lines) + "\n"


def version_lines(*, verbose: bool) -> list[str]:
    """The program's version; `verbose`: Python's, the packages' and SQLite's, too."""
    from g2a_archive import __version__

    lines = [f"g2a-archive {__version__}"]
    if verbose:
        import platform
        import sqlite3
        from importlib.metadata import version

        lines.append(f"Python {platform.python_version()} on {platform.platform()}")
        packages = ("click", "requests", "urllib3", "rich", "python-dateutil")
        lines += [f"{name} {version(name)}" for name in packages]
        lines.append(f"SQLite {sqlite3.sqlite_version}")
    return lines
