"""The display without a process: rows that reflow, rows that stay, lines, and which is chosen."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import termios
import threading
from contextlib import suppress

import pyte
import pytest

from g2a_archive.console.progress import (
    Bars,
    Display,
    FileView,
    Lines,
    Snapshot,
    _Slots,
    choose_display,
    time_left,
)


class Tty(io.StringIO):
    """A stream that is (or is not) a terminal."""

    def __init__(self, terminal: bool = True) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    def fileno(self) -> int:
        return 2


def files(*names: str) -> tuple[FileView, ...]:
    return tuple(FileView(name, 400_000, 900_000) for name in names)


def view(*names: str, failed: int = 0) -> Snapshot:
    return Snapshot("Archiving", 7, 40, 10_000_000, 90_000_000, failed, files(*names))


def reflowed(screen: pyte.Screen, columns: int) -> tuple[pyte.Screen, pyte.Stream]:
    """The screen as a terminal that breaks long rows shows it when it is made narrower."""
    narrower = pyte.Screen(columns, screen.lines)
    stream = pyte.Stream(narrower)
    last = 0
    for number in range(screen.cursor.y + 1):
        text = screen.display[number].rstrip()
        pieces = [text[at : at + columns] for at in range(0, len(text), columns)] or [""]
        last = len(pieces)
        stream.feed(("\r\n" if number else "") + "\r\n".join(pieces))
    # The cursor stays with the character that it stood on, the first of the last row.
    narrower.cursor.y -= last - 1
    narrower.cursor.x = 0
    return narrower, stream


@pytest.mark.parametrize("columns", [79, 60, 41, 27])
def test_a_terminal_that_reflows_keeps_nothing_of_the_old_bars(
    monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    size = [80]
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((size[0], 50)))
    stream = Tty()
    bars = Bars(stream)
    screen = pyte.Screen(80, 50)
    pyte_stream = pyte.Stream(screen)

    def painted() -> str:
        text = stream.getvalue().replace("\n", "\r\n")
        stream.seek(0)
        stream.truncate()
        return text

    names = [f"{1_400_000_000 + n}.mp4" for n in range(8)]
    stream.write("one\ntwo\n")
    bars._begin()
    bars._paint(view(*names))
    bars._paint(view(*names))
    pyte_stream.feed(painted())
    before = [row.rstrip() for row in screen.display]
    assert before[2].startswith("Archiving 7 of 40 recordings, 9.5 MB, ")
    screen, pyte_stream = reflowed(screen, columns)
    size[0] = columns
    bars._paint(view(*names))
    pyte_stream.feed(painted())
    after = [row.rstrip() for row in screen.display]
    assert after[:2] == ["one", "two"]
    assert "7" in after[2]
    assert "%" in after[3]
    assert [row.split()[0] for row in after[4:12]] == names
    assert after[12:] == [""] * 38
    bars.line("three")
    bars._end()
    pyte_stream.feed(painted())
    assert [row.rstrip() for row in screen.display if row.strip()] == ["one", "two", "three"]


def names_of(rows: object) -> list[str | None]:
    assert isinstance(rows, list)
    return [row.name if row else None for row in rows]


def test_a_file_keeps_its_row() -> None:
    slots = _Slots()
    slots.arranged(files("a", "b", "c"), 9)
    assert names_of(slots.arranged(files("c", "b", "a"), 9)) == ["c", "b", "a"]
    # What is seen for the first time may be gone at the next look: it gets no row yet.
    assert names_of(slots.arranged(files("d", "a", "c"), 9)) == ["c", None, "a"]
    assert names_of(slots.arranged(files("e", "a", "d", "c"), 9)) == ["c", "d", "a"]
    assert names_of(slots.arranged(files("e", "d", "c"), 9)) == ["c", "d", "e"]


def test_where_there_is_little_room_empty_rows_go_first() -> None:
    slots = _Slots()
    for _ in range(2):
        slots.arranged(files("a", "b", "c", "d"), 9)
    assert names_of(slots.arranged(files("a", "c", "d"), 2)) == ["a", "c"]
    assert names_of(slots.arranged(files("a", "c", "d"), 0)) == []


def test_time_left() -> None:
    assert time_left(view(), 8_000_000) == 10
    assert time_left(view(), 0) is None
    assert time_left(view(), 0.001) is None
    assert time_left(Snapshot("x", 0, 1, 0), 5) is None


def test_a_progress_line_now_and_then() -> None:
    written = threading.Event()

    class Stream(Tty):
        def write(self, text: str) -> int:
            written.set()
            return super().write(text)

    stream = Stream(terminal=False)
    with Lines(stream, every=0.3).watch(lambda: view("a.mp4", failed=2)):
        assert written.wait(20)
    line = stream.getvalue().splitlines()[0]
    told = r"\S+Z INFO Archiving: 7 of 40 recordings, 9\.5 MB, \S+ [kM]B/s, [\w. ]+ left, 2 failed"
    assert re.fullmatch(told, line)
    assert "\x1b" not in line


@pytest.mark.parametrize(
    ("terminal", "term", "quiet", "kind"),
    [
        (True, "xterm-256color", False, Bars),
        (True, "linux", False, Bars),
        (True, "dumb", False, Lines),
        (True, "unknown", False, Lines),
        (True, "", False, Lines),
        (False, "xterm-256color", False, Lines),
        (True, "xterm-256color", True, Display),
        (False, "xterm-256color", True, Display),
    ],
)
def test_the_display_that_is_chosen(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, term: str, quiet: bool, kind: type
) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    assert type(choose_display(quiet=quiet, stream=Tty(terminal))) is kind


def test_a_terminal_that_goes_away_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(Tty):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    bars = Bars(Gone())
    bars.line("2026-11-23T02:00:05Z WARNING before there are any bars")
    with bars.watch(lambda: view("a.mp4")):
        bars.line("said to nobody")
    monkeypatch.setenv("TERM", "dumb")
    choose_display(quiet=False, stream=Gone()).line("said to nobody")


_BARS = """
import os, sys
from g2a_archive.console.progress import Bars, Snapshot
with Bars(sys.stderr).watch(lambda: Snapshot("Pages", 0, 0, None)):
    os.write(1, b".")
"""


def test_the_cursor_is_back_when_the_bars_are_over() -> None:
    """A process that ends right then, as `browse` does, takes its writing thread along."""
    master, slave = os.openpty()
    termios.tcflow(slave, termios.TCOOFF)  # nothing is written before somebody waits for it
    with subprocess.Popen(
        [sys.executable, "-c", _BARS], stdout=subprocess.PIPE, stderr=slave
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"."
        with suppress(subprocess.TimeoutExpired):  # who does not wait is gone by then
            process.wait(timeout=0.2)
        termios.tcflow(slave, termios.TCOON)
        os.close(slave)
    shown = b""
    with suppress(OSError):  # which is the end
        while piece := os.read(master, 4096):
            shown += piece
    os.close(master)
    assert shown.endswith(b"\x1b[?25h")
