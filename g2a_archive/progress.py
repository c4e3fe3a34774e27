"""What a person sees while a run goes on: bars on a terminal, lines elsewhere, or nothing.

The run is looked at from outside, a few times a second: nothing in it knows of a display.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from g2a_archive.models import duration_text, size_text, utc_now

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

LINE_EVERY = 60.0
"""Seconds between two progress lines where there is no terminal."""


@dataclass(frozen=True, slots=True)
class FileView:
    """A file in flight: bytes here, and bytes in all where the host announced them."""

    name: str
    done: int
    total: int | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A look at a run. `bytes` are those received; `bytes_total` is a guess, or None."""

    what: str
    done: int
    total: int
    bytes: int
    bytes_total: int | None = None
    failed: int = 0
    files: tuple[FileView, ...] = ()
    unit: str = "recordings"


class Display(Protocol):
    """Shows a run while the block lasts, and log lines without spoiling the bars."""

    def watch(self, look: Callable[[], Snapshot]) -> Any: ...

    def line(self, text: str) -> None: ...


class _Quiet:
    """A stream whose reader may go away: a closed terminal must not end a run."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Nothing:
    """Shows log lines only."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = _Quiet(stream or sys.stderr)

    @contextmanager
    def watch(self, look: Callable[[], Snapshot]) -> Iterator[None]:
        """Show nothing."""
        yield

    def line(self, text: str) -> None:
        """Write one line."""
        self._stream.write(f"{text}\n")
        self._stream.flush()


class _Speed:
    """Bytes a second, smoothed over some seconds."""

    def __init__(self) -> None:
        self._at = time.monotonic()
        self._bytes = 0
        self.value = 0.0

    def update(self, count: int) -> float:
        now = time.monotonic()
        passed = now - self._at
        if passed >= 0.25:
            fresh = (count - self._bytes) / passed
            weight = min(1.0, passed / 3.0)
            self.value = fresh if self.value == 0 else self.value + weight * (fresh - self.value)
            self._at, self._bytes = now, count
        return self.value


class Lines(Nothing):
    """A progress line a minute, for logs and mails."""

    def __init__(self, stream: TextIO | None = None, every: float = LINE_EVERY) -> None:
        super().__init__(stream)
        self._every = every

    @contextmanager
    def watch(self, look: Callable[[], Snapshot]) -> Iterator[None]:
        """Write a line now and then while the block lasts."""
        over = threading.Event()
        speed = _Speed()

        def work() -> None:
            while not over.wait(self._every):
                view = look()
                rate = speed.update(view.bytes)
                left = time_left(view, rate)
                self.line(
                    f"{utc_now()} INFO {view.what}: {view.done:,} of {view.total:,} {view.unit}, "
                    f"{size_text(view.bytes)}, {size_text(rate)}/s"
                    + (f", {duration_text(left)} left" if left is not None else "")
                    + (f", {view.failed:,} failed" if view.failed else "")
                )

        thread = threading.Thread(target=work, daemon=True, name="progress")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def time_left(view: Snapshot, speed: float) -> float | None:
    """Seconds that the rest may take at this speed; None where that cannot be told."""
    if view.bytes_total is None or speed <= 0:
        return None
    return max(0, view.bytes_total - view.bytes) / speed


class Bars:
    """Rich bars on a terminal: one for the run, one a file in flight."""

    def __init__(self, stream: TextIO | None = None) -> None:
        from rich.console import Console

        self._console: Console = Console(
            file=_Quiet(stream or sys.stderr),  # type: ignore[arg-type]
            force_terminal=True,
            force_interactive=True,
            highlight=False,
        )
        self._speed = _Speed()

    @contextmanager
    def watch(self, look: Callable[[], Snapshot]) -> Iterator[None]:
        """Show the bars while the block lasts; they go away and the cursor comes back."""
        from rich.live import Live

        self._speed = _Speed()
        with Live(
            console=self._console,
            get_renderable=lambda: self._render(look()),
            refresh_per_second=8,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        ):
            yield

    def line(self, text: str) -> None:
        """Write one line above the bars."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _render(self, view: Snapshot) -> RenderableType:
        from rich.console import Group

        speed = self._speed.update(view.bytes)
        width = self._console.width
        rows: list[RenderableType] = [_run_row(view, speed, width)]
        room = max(0, self._console.height - 3)
        rows += [_file_row(file, width) for file in view.files[:room]]
        return Group(*rows)


def _grid(width: int, columns: int) -> Table:
    from rich.table import Table

    grid = Table.grid(padding=(0, 1), expand=False)
    grid.width = width - 1
    for n in range(columns):
        grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1 if n == 1 else None)
    return grid


def _run_row(view: Snapshot, speed: float, width: int) -> Table:
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    facts = [Text(f"{view.done:,}/{view.total:,}", "green")]
    if width >= 50:
        facts.append(Text(size_text(view.bytes), "cyan"))
    if width >= 60:
        facts.append(Text(f"{size_text(speed)}/s", "magenta"))
    left = time_left(view, speed)
    if width >= 70 and left is not None:
        facts.append(Text(f"{duration_text(left)} left", "blue"))
    if view.failed:
        facts.append(Text(f"{view.failed:,} failed", "bold red"))
    grid = _grid(width, 2 + len(facts))
    # Between recordings, the bytes move the bar on.
    part = view.done / view.total if view.total else 0.0
    if view.bytes_total:
        part = max(part, min(1.0, view.bytes / view.bytes_total) * 0.999)
    bar = ProgressBar(total=1.0, completed=part)
    grid.add_row(Text(view.what, "bold"), bar, *facts)
    return grid


def _file_row(file: FileView, width: int) -> Table:
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    grid = _grid(width, 3)
    bar = ProgressBar(total=file.total or None, completed=file.done, pulse=not file.total)
    amount = size_text(file.done)
    if file.total:
        amount = f"{size_text(file.done)} / {size_text(file.total)}"
    grid.add_row(Text(f"  {file.name}"), bar, Text(amount.rjust(21 if width >= 60 else 0), "dim"))
    return grid


def choose_display(*, quiet: bool, stream: TextIO | None = None) -> Display:
    """Bars where stderr is a terminal that can move its cursor; lines elsewhere; or nothing."""
    import os

    target = stream or sys.stderr
    if quiet:
        return Nothing(target)
    try:
        terminal = target.isatty()
    except (OSError, ValueError):
        terminal = False
    if terminal and os.environ.get("TERM", "") not in ("dumb", "unknown", ""):
        return Bars(target)
    return Lines(target)
