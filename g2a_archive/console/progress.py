"""What a person sees while a run goes on: bars on a terminal, lines elsewhere, or nothing.

The run is looked at from outside, a few times a second: nothing in it knows of a display.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO, TextIOWrapper
from typing import TYPE_CHECKING, TextIO

from g2a_archive.console.outlet import PATIENCE, BackgroundWriter
from g2a_archive.models import duration_text, pluralize, size_text, utc_now
from g2a_archive.threads import spawn

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

LINE_EVERY = 60.0
"""Seconds between two progress lines where there is no terminal."""

_LONGEST_LEFT = 30 * 86400.0
_FRAME = 0.125
_HIDE_CURSOR, _SHOW_CURSOR, _ERASE = "\x1b[?25l", "\x1b[?25h", "\x1b[J"
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class FileView:
    """A file in flight: bytes here, and bytes in all where the host announced them."""

    name: str
    done: int
    total: int | None


@dataclass(slots=True)
class Snapshot:
    """A look at a run, or how far a job is that counts on one. `bytes` are those received, None
    where it isn't about bytes; `bytes_total` is a guess, or None.
    """

    what: str
    done: int
    total: int
    bytes: int | None
    bytes_total: int | None = None
    failed: int = 0
    files: tuple[FileView, ...] = ()
    unit: str = "recording"

    def advance(self, count: int = 1) -> None:
        """So many more are done."""
        self.done += count

    def more_bytes(self, count: int) -> None:
        """So many more bytes are."""
        self.bytes = (self.bytes or 0) + count


def _part(view: Snapshot) -> str:
    return f"{view.done:,} of {pluralize(view.total, view.unit)}"


class Display:
    """Shows log lines only; those derived from it also show how a run goes."""

    def __init__(
        self, stream: TextIO | None = None, stopping: Callable[[], bool] = lambda: False
    ) -> None:
        self._stream = stream or sys.stderr
        self._out = BackgroundWriter(self._stream, stopping)
        self.flush, self.close = self._out.flush, self._out.close

    @contextmanager
    def watch(self, get_snapshot: Callable[[], Snapshot]) -> Iterator[None]:
        """Show nothing of it while the block lasts."""
        yield

    def line(self, text: str) -> None:
        """Write one line."""
        self._out.write(f"{text}\n")


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


class Lines(Display):
    """A progress line a minute, for logs and mails."""

    def __init__(
        self,
        stream: TextIO | None = None,
        stopping: Callable[[], bool] = lambda: False,
        every: float = LINE_EVERY,
    ) -> None:
        super().__init__(stream, stopping)
        self._every = every

    @contextmanager
    def watch(self, get_snapshot: Callable[[], Snapshot]) -> Iterator[None]:
        """Write a line now and then while the block lasts."""
        over = threading.Event()
        speed = _Speed()

        def work() -> None:
            while not over.wait(self._every):
                view = get_snapshot()
                facts = [*_facts(view, speed.update(view.bytes or 0)), *_failed(view)]
                told = [f"{view.what}: {_part(view)}", *(text for text, _ in facts)]
                self.line(f"{utc_now()} INFO {', '.join(told)}")

        with _in_thread(work, over):
            yield


@contextmanager
def _in_thread(work: Callable[[], None], over: threading.Event) -> Iterator[None]:
    """Have a thread show how it goes while the block lasts; without one, nothing is shown."""
    thread = spawn(work)
    try:
        yield
    finally:
        over.set()
        if thread is not None:
            thread.join()


def time_left(view: Snapshot, speed: float) -> float | None:
    """Seconds that the rest may take at this speed; None where that cannot be told."""
    if view.bytes_total is None or speed <= 0:
        return None
    left = max(0, view.bytes_total - (view.bytes or 0)) / speed
    return left if left < _LONGEST_LEFT else None  # it stands still, rather


def _facts(view: Snapshot, speed: float) -> list[tuple[str, str]]:
    """What is to be said of bytes and time, each with rich's style for it."""
    facts = []
    if view.bytes is not None:
        facts += [(size_text(view.bytes), "cyan"), (f"{size_text(speed)}/s", "magenta")]
    if (left := time_left(view, speed)) is not None:
        facts.append((f"{duration_text(left)} left", "blue"))
    return facts


def _failed(view: Snapshot) -> list[tuple[str, str]]:
    return [(f"{view.failed:,} failed", "bold red")] if view.failed else []


class Bars(Display):
    """Rich bars on a terminal: one for the run, one a file in flight.

    They are painted by a thread of their own, in place, eight times a second. rich draws the rows;
    its `Live` is not used, as it leaves pieces behind in terminals that reflow when they are made
    narrower, and takes another stream's width.
    """

    def __init__(
        self, stream: TextIO | None = None, stopping: Callable[[], bool] = lambda: False
    ) -> None:
        super().__init__(stream, stopping)
        self._lock = threading.Lock()
        self._speed = _Speed()
        self._slots = _Slots()
        self._console: Console | None = None
        self._rows: list[str] = []
        self._painted = False

    @contextmanager
    def watch(self, get_snapshot: Callable[[], Snapshot]) -> Iterator[None]:
        """Show the bars while the block lasts; they go away and the cursor comes back."""
        over = threading.Event()

        def work() -> None:
            while not over.wait(_FRAME):
                if self._out.idle:  # a terminal that takes nothing now needs no more frames
                    self._paint(get_snapshot())

        self._begin()
        try:
            with _in_thread(work, over):
                yield
        finally:
            self._end()

    def line(self, text: str) -> None:
        """Write one line above the bars."""
        with self._lock:
            again = self._redrawn(self._rows) if self._painted else ""
            self._out.write(f"{self._home()}{_ERASE}{self._coloured(text)}\n{again}")

    def _begin(self) -> None:
        from rich.console import Console

        self._speed, self._slots, self._rows = _Speed(), _Slots(), []
        # Its own idea of the size is not used: it is that of another stream, or of COLUMNS. Nor is
        # what it writes, as it flushes even what was captured: the terminal may have gone away.
        paper = TextIOWrapper(BytesIO(), getattr(self._stream, "encoding", None) or "utf-8")
        self._console = Console(file=paper, force_terminal=True, highlight=False)
        with self._lock:
            self._painted = True
            self._out.write(_HIDE_CURSOR)

    def _end(self) -> None:
        with self._lock:
            self._out.write(self._home() + _ERASE + _SHOW_CURSOR)
            self._painted = False
            self._rows = []
        # What is said next may be said elsewhere, and a process that ends here takes along what
        # its thread has not written: the terminal would be left without a cursor.
        self._out.flush(PATIENCE)

    def _paint(self, view: Snapshot) -> None:
        width, height = self._size()
        speed = self._speed.update(view.bytes or 0)
        files = self._slots.arranged(view.files, max(0, height - 4))
        assert self._console is not None
        self._console.size = (width, height)
        with self._console.capture() as drawn:
            self._console.print(_run_rows(view, speed, width - 1), end="")
            if files:
                self._console.print(_file_rows(files, width - 1), end="")
        rows = drawn.get().rstrip("\n").split("\n")
        with self._lock:
            self._out.write(self._home() + self._redrawn(rows))
            self._rows = rows

    def _home(self) -> str:
        """Go to where the first row begins."""
        width, _ = self._size()
        # A terminal that was made narrower since has broken the rows into pieces.
        up = sum(-(-(len(_COLOURS.sub("", row)) or 1) // width) for row in self._rows[:-1])
        return f"\r\x1b[{up}A" if up else "\r"

    @staticmethod
    def _redrawn(rows: Sequence[str]) -> str:
        # Written over and not erased before, nothing flickers. The cursor waits where the `^C`
        # that the terminal echoes does no harm: at the end of a row it would begin another.
        return "\n".join(f"{row}\x1b[K" for row in rows) + (f"{_ERASE}\r" if rows else "")

    def _coloured(self, text: str) -> str:
        level = text.split(" ", 2)[1:2]
        style = {"WARNING": "yellow", "ERROR": "bold red"}.get(level[0]) if level else None
        if self._console is None or style is None:
            return text
        from rich.text import Text

        with self._console.capture() as drawn:
            self._console.print(Text(text, style), end="", soft_wrap=True)
        return drawn.get()

    def _size(self) -> tuple[int, int]:
        try:
            size = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            size = os.terminal_size((0, 0))
        return max(10, size.columns or 80), size.lines or 24


class _Slots:
    """Keeps a file in the same row while it is in flight, so that nothing jumps."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._seen: set[str] = set()
        self._empty_since: dict[int, float] = {}

    def arranged(self, files: Sequence[FileView], room: int) -> Sequence[FileView | None]:
        """The files as they are to be shown, at most `room` rows; None is an empty row."""
        now = time.monotonic()
        # What is there for a moment only is not worth a row.
        views = {file.name: file for file in files if file.name in self._seen}
        self._seen = {file.name for file in files}
        waiting = [name for name in views if name not in self._names]
        kept = []
        for number, name in enumerate(self._names):
            if name in views:
                kept.append(name)
            elif waiting:
                kept.append(waiting.pop(0))
            elif now - self._empty_since.setdefault(number, now) < 1.0:
                kept.append("")
        if len(kept) != len(self._names) or all(kept):
            self._empty_since.clear()
        self._names = kept + waiting
        rows = [views.get(name) for name in self._names]
        return rows if len(rows) <= room else [*filter(None, rows)][:room]


def _run_rows(view: Snapshot, speed: float, width: int) -> RenderableType:
    """What the run has done, in words as many as fit, and a bar of the whole width."""
    from rich.console import Group
    from rich.text import Text

    facts, failed = _facts(view, speed), _failed(view)
    count = (f"{view.done:,}/{view.total:,}", "bold")
    long = (f"{view.what} {_part(view)}", "bold")
    for gap, words in (
        (", ", [long, *facts, *failed]),
        (" ", [count, *facts, *failed]),
        (" ", [count, *facts[:2], *failed]),
        (" ", [count, *failed]),
    ):
        text = Text(gap).join(Text(*word) for word in words)
        if text.cell_len <= width:
            break
    text.truncate(width)
    # Between recordings, the bytes move the bar on.
    part = view.done / view.total if view.total else 0.0
    if view.bytes_total and view.bytes:
        part = max(part, min(1.0, view.bytes / view.bytes_total) * 0.999)
    grid = _grid(width, 2, wide=0)
    grid.add_row(_bar(part, "green"), Text(f"{int(part * 100):3d}%", "bold"))
    return Group(text, grid)


def _file_rows(files: Sequence[FileView | None], width: int) -> RenderableType:
    """A row for each file: its name, a bar, and how much of it is here."""
    from rich.text import Text

    grid = _grid(width, 3, wide=1)
    for file in files:
        if file is None:
            grid.add_row("", "", "")
            continue
        if width < 60:
            amount = f"{min(100, file.done * 100 // file.total):3d}%" if file.total else ""
        else:
            whole = size_text(file.total) if file.total else "?"
            amount = f"{size_text(file.done)} of {whole}".rjust(22)
        part = min(1.0, file.done / file.total) if file.total else 0.0
        grid.add_row(Text(f"  {file.name}"), _bar(part, "cyan"), Text(amount, "dim"))
    return grid


def _bar(part: float, style: str) -> RenderableType:
    from rich.progress_bar import ProgressBar

    return ProgressBar(total=1.0, completed=part, complete_style=style, finished_style="green")


def _grid(width: int, columns: int, *, wide: int) -> Table:
    """A table without lines, of which one column takes the room that is left."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 1), expand=False)
    grid.width = width
    for number in range(columns):
        ratio = 1 if number == wide else None
        grid.add_column(no_wrap=True, overflow="crop", ratio=ratio, min_width=4)
    return grid


def choose_display(
    *, quiet: bool, stream: TextIO | None = None, stopping: Callable[[], bool] = lambda: False
) -> Display:
    """Bars where stderr is a terminal that can move its cursor; lines elsewhere; or nothing.

    Once `stopping` says that the run is to stop, a reader that takes nothing is not waited for.
    """
    target = stream or sys.stderr
    if quiet:
        return Display(target, stopping)
    return (Bars if can_paint(target) else Lines)(target, stopping)


def can_paint(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal that can move its cursor, and has colours."""
    try:
        terminal = stream is not None and stream.isatty()
    except (OSError, ValueError):
        return False
    return terminal and os.environ.get("TERM", "") not in ("dumb", "unknown", "")
