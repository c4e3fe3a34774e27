"""What a person sees on a real terminal: bars, colours, the cursor; and that a pipe gets none."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyte
import pytest
from support import PATIENCE, run_cli, start_cli
from support.cli import FIRST, Args
from support.service import Serve

from g2a_archive.demo import Request, Response, SimulatedService, sample_recordings
from g2a_archive.demo.messages import FileRange

HIDE, SHOW = b"\x1b[?25l", b"\x1b[?25h"
COLOUR = re.compile(rb"\x1b\[[0-9;]*\b(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])[0-9;]*m")
FORCED = {
    "FORCE_COLOR": "1",
    "CLICOLOR_FORCE": "1",
    "TTY_COMPATIBLE": "1",
    "TTY_INTERACTIVE": "1",
    "TERM": "xterm-256color",
    "COLORTERM": "truecolor",
}

AMOUNT = r"\d+(\.\d)? (B|kB|MB)"
TIME = r"(\d+(\.\d)? s|\d+ min \d\d s|\d+ h \d\d min)"
RUN_WIDE = rf"Archiving \d+ of \d+ recordings, {AMOUNT}, {AMOUNT}/s(, {TIME} left)?"
RUN_NARROW = rf"\d+/\d+ {AMOUNT} {AMOUNT}/s( {TIME} left)?"
BAR = r"[\u2501\u2578\u257a ]+"
FILE_WIDE = rf"  \d+\.(mp4|events|thumbnail|jpg) {BAR} +{AMOUNT} of {AMOUNT}"
FILE_NARROW = rf"  \d+\.(mp4|events|thumbnail|jpg) {BAR} +\d+%"
WHOLE = rf"{BAR} +\d+%"


class Terminal:
    """The program in a pseudo-terminal, and the screen as a person would see it."""

    def __init__(
        self, process: subprocess.Popen[str], master: int, columns: int, rows: int
    ) -> None:
        self.process = process
        self.master = master
        self.screen = pyte.Screen(columns, rows)
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""

    def rows(self) -> list[str]:
        """The rows that are not empty."""
        return [row.rstrip() for row in self.screen.display if row.strip()]

    def bars(self) -> list[str]:
        """The rows from the run's on."""
        rows = self.rows()
        return rows[next((n for n, r in enumerate(rows) if re.match(RUN, r)), len(rows)) :]

    def until(self, seen: Callable[[Terminal], object]) -> None:
        """Read until something is seen on the screen."""
        deadline = time.monotonic() + PATIENCE
        while not seen(self):
            assert time.monotonic() < deadline, "\n".join(self.screen.display)
            assert self._read(), f"it ended:\n{self.raw.decode(errors='replace')}"

    def _read(self) -> bool:
        assert select.select([self.master], [], [], PATIENCE)[0], self.raw
        try:
            piece = os.read(self.master, 65536)
        except OSError:  # as Linux says that nobody has it open any more
            return False
        self.raw += piece
        self.stream.feed(piece)
        return bool(piece)

    def resize(self, columns: int, rows: int = 24) -> None:
        """Change the size, as a person does with a window (SIGWINCH comes with it)."""
        termios.tcsetwinsize(self.master, (rows, columns))
        self.screen.resize(rows, columns)

    def end(self) -> int:
        """Read to the end; the exit code."""
        while self._read():
            pass
        return self.process.wait(PATIENCE)


RUN = rf"{RUN_WIDE}|{RUN_NARROW}"


_CONTROLLED = """
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
"""
"""Makes a process' stdin the terminal that controls it: Ctrl-C is a signal."""


@contextmanager
def terminal(
    args: Args,
    service: SimulatedService,
    cwd: Path,
    *,
    columns: int = 80,
    rows: int = 24,
    env: Mapping[str, str] | None = None,
    before: str = "",
    **streams: int,
) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    termios.tcsetwinsize(master, (rows, columns))
    env = {"TERM": "xterm-256color", **service.environment(), **(env or {})}
    streams = {"stdin": slave, "stdout": slave, "stderr": slave, **streams}
    with start_cli(
        args, env, cwd=cwd, before=_CONTROLLED + before, start_new_session=True, **streams
    ) as process:
        os.close(slave)
        try:
            yield Terminal(process, master, columns, rows)
        finally:
            os.close(master)


@dataclass(frozen=True)
class HeldBack(FileRange):
    """A file whose second half waits until it is let go."""

    go: threading.Event = field(default_factory=threading.Event)

    def chunks(self) -> Iterator[bytes]:
        middle = self.stop // 2
        yield from self.content.chunks(0, middle)
        self.go.wait(60)
        yield from self.content.chunks(middle, self.stop)


@dataclass
class Held:
    """A service whose first four MP4s stay half done while the test looks."""

    service: SimulatedService
    go: threading.Event


@pytest.fixture
def held(serve: Serve) -> Iterator[Held]:
    recordings = sample_recordings(4, mp4_size=200_000, events_size=500, thumbnail_size=3000)
    recordings += sample_recordings(8, first_id=FIRST + 4, mp4_size=3000, events_size=500)
    service, go = serve(recordings, rate_limit=None), threading.Event()

    def hold(request: Request) -> Response | None:
        if request.kind != "mp4" or not FIRST <= (request.recording_id or 0) < FIRST + 4:
            return None
        content = service.recordings[request.recording_id or 0].content("mp4")
        return Response(200, {"ETag": '"x"'}, HeldBack(content, 0, content.size, go))

    service.on_request.append(hold)
    try:
        yield Held(service, go)
    finally:
        go.set()


RUN_ARGS: Args = ["download", "--min-free", "0", "--jobs", "6", *range(FIRST, FIRST + 12)]


def whole(pattern_run: str, pattern_file: str, files: int) -> Callable[[Terminal], bool]:
    """The bars stand there with at least so many files, and every row is as it should be."""

    def seen(one: Terminal) -> bool:
        rows = one.bars()
        return (
            len(rows) >= files + 2
            and re.fullmatch(pattern_run, rows[0]) is not None
            and re.fullmatch(WHOLE, rows[1]) is not None
            and all(re.fullmatch(pattern_file, row) for row in rows[2:])
        )

    return seen


wide = whole(RUN_WIDE, FILE_WIDE, 4)
narrow = whole(RUN_NARROW, FILE_NARROW, 4)


def assert_well_ended(one: Terminal) -> None:
    """The cursor is back, the bars are gone, the summary is there."""
    assert one.raw.rfind(SHOW) > one.raw.rfind(HIDE) > -1
    assert one.bars() == []
    assert one.screen.cursor.hidden is False
    assert any(row.startswith("Archived ") for row in one.rows())


def test_bars_on_eighty_columns(held: Held, tmp_path: Path) -> None:
    with terminal(RUN_ARGS, held.service, tmp_path) as one:
        one.until(wide)
        assert one.screen.cursor.hidden is True
        rows = one.bars()
        assert len({row.index("\u2501") for row in rows[2:]}) == 1, "the bars begin in one column"
        assert len({len(row) for row in rows[2:]}) == 1, "the amounts end in one column"
        assert {len(row) for row in rows[1:]} <= {79, 78}  # rich before 14.3 leaves one
        assert COLOUR.search(one.raw)
        one.until(lambda one: re.search(rf"{AMOUNT}/s, {TIME} left", one.bars()[0]))
        held.go.set()
        assert one.end() == 0
        assert_well_ended(one)
        assert any(row.startswith("Archived 12 of 12 recordings: 36 ") for row in one.rows())


def test_bars_on_forty_columns(held: Held, tmp_path: Path) -> None:
    with terminal(RUN_ARGS, held.service, tmp_path, columns=40) as one:
        one.until(lambda one: narrow(one) and re.search(rf"/s {TIME} left", one.bars()[0]))
        assert max(map(len, one.bars())) <= 39
        held.go.set()
        assert one.end() == 0
        assert_well_ended(one)


@pytest.mark.parametrize("columns", [12, 20, 250])
def test_odd_widths_stay_in_their_rows(held: Held, tmp_path: Path, columns: int) -> None:
    with terminal(RUN_ARGS, held.service, tmp_path, columns=columns) as one:
        one.until(lambda one: "\u2501" in "".join(one.rows()))
        raw = re.sub(rb"\x1b[^A-Za-z]*$", b"", one.raw)  # what is on its way
        painted = re.split(rb"\x1b\[\d+A|\x1b\[J", raw)
        text = [
            re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", frame).decode(errors="ignore")
            for frame in painted
        ]
        lines = [line.strip("\r") for frame in text for line in frame.splitlines()]
        assert max(map(len, lines)) < columns
        held.go.set()
        assert one.end() == 0


def test_a_resize_while_it_runs(held: Held, tmp_path: Path) -> None:
    with terminal(RUN_ARGS, held.service, tmp_path) as one:
        one.until(wide)
        one.resize(40)
        one.until(lambda one: narrow(one) and len(one.rows()) == len(one.bars()))
        one.resize(100)
        one.until(lambda one: wide(one) and len(one.rows()) == len(one.bars()))
        held.go.set()
        assert one.end() == 0
        assert_well_ended(one)


def test_a_low_terminal_shows_what_fits(held: Held, tmp_path: Path) -> None:
    with terminal(RUN_ARGS, held.service, tmp_path, rows=6) as one:
        one.until(whole(RUN_WIDE, FILE_WIDE, 2))
        assert len(one.bars()) == 4
        held.go.set()
        assert one.end() == 0
        assert_well_ended(one)


def test_what_the_environment_says_of_the_width_does_not_count(held: Held, tmp_path: Path) -> None:
    with terminal(RUN_ARGS, held.service, tmp_path, env={"COLUMNS": "20", "LINES": "3"}) as one:
        one.until(wide)
        held.go.set()
        assert one.end() == 0


def test_log_lines_stand_above_the_bars(held: Held, tmp_path: Path) -> None:
    with terminal([*RUN_ARGS, "-v"], held.service, tmp_path, columns=100, rows=60) as one:
        one.until(wide)
        held.go.set()
        assert one.end() == 0
        log = [row for row in one.rows() if " INFO recording " in row]
        assert len(log) == 36
        assert one.rows()[:36] == log
        summary = one.rows()[36:]
        assert summary[0].startswith("Archived ")
        assert "g2a1 " in "".join(summary[1:])  # the fingerprint, which this terminal breaks
        assert len(summary) == 3


@pytest.mark.parametrize("how", ["\x03", "TERM"])
def test_the_cursor_comes_back_when_it_is_stopped(held: Held, tmp_path: Path, how: str) -> None:
    with terminal(RUN_ARGS, held.service, tmp_path) as one:
        one.until(wide)
        if how == "TERM":
            one.process.terminate()
        else:
            os.write(one.master, how.encode())  # Ctrl-C, as the terminal makes a signal of it
        assert one.end() == (143 if how == "TERM" else 130)
        assert_well_ended(one)
        assert any("not finished: " in row for row in one.rows())


def test_no_color(held: Held, tmp_path: Path) -> None:
    with terminal(RUN_ARGS, held.service, tmp_path, env={"NO_COLOR": "1"}) as one:
        one.until(wide)
        held.go.set()
        assert one.end() == 0
        assert not COLOUR.search(one.raw)


@pytest.mark.parametrize("term", ["dumb", "unknown", ""])
def test_a_terminal_that_can_do_nothing(
    service: SimulatedService, tmp_path: Path, term: str
) -> None:
    with terminal(RUN_ARGS[:-6], service, tmp_path, env={"TERM": term}) as one:
        assert one.end() == 0
        assert b"\x1b" not in one.raw
        assert any(row.startswith("Archived ") for row in one.rows())


def test_quiet_on_a_terminal(service: SimulatedService, tmp_path: Path) -> None:
    with terminal(["download", FIRST, "-q", "--min-free", "0"], service, tmp_path) as one:
        assert one.end() == 0
        assert one.raw == b""


# --- pipes -----------------------------------------------------------------------------------


def assert_plain(text: str) -> None:
    assert [c for c in text if not c.isprintable() and c != "\n"] == []


@pytest.mark.parametrize(
    "args",
    [
        [*RUN_ARGS, "-v", "-v"],
        [*RUN_ARGS, "--json"],
        ["download", "x"],
        ["download", "--help"],
        ["--version"],
        ["download", "77", "--min-free", "0"],
    ],
)
def test_a_pipe_gets_no_control_character(
    service: SimulatedService, tmp_path: Path, args: Args
) -> None:
    result = run_cli(args, {**service.environment(), **FORCED}, cwd=tmp_path)
    assert result.stdout + result.stderr
    assert_plain(result.stdout + result.stderr)


_STUCK = """
import sys, threading
from g2a_archive.download.engine import Engine

def stuck(self):
    print("stuck", file=sys.stderr, flush=True)
    threading.Event().wait()

Engine._wind_down = stuck
"""


def test_the_cursor_is_back_after_a_second_sigint(held: Held, tmp_path: Path) -> None:
    with terminal(RUN_ARGS, held.service, tmp_path, before=_STUCK) as one:
        one.until(wide)
        one.process.send_signal(signal.SIGINT)
        one.until(lambda terminal: b"stuck" in terminal.raw)
        one.process.send_signal(signal.SIGINT)
        assert one.end() == 130
    assert one.raw.rfind(SHOW) > one.raw.rfind(HIDE) > -1


def test_stdout_a_pipe_and_stderr_a_terminal(held: Held, tmp_path: Path) -> None:
    with (
        (tmp_path / "out").open("w") as out,
        terminal(RUN_ARGS, held.service, tmp_path, env=FORCED, stdout=out.fileno()) as one,
    ):
        one.until(wide)
        held.go.set()
        assert one.end() == 0
        assert one.raw.rfind(SHOW) > one.raw.rfind(HIDE) > -1
        assert one.rows() == []
    text = (tmp_path / "out").read_text()
    assert text.startswith("Archived 12 of 12 recordings")
    assert_plain(text)


def test_stdout_a_terminal_and_stderr_a_pipe(service: SimulatedService, tmp_path: Path) -> None:
    service.set_state(FIRST, "unavailable")
    with (
        (tmp_path / "err").open("w") as err,
        terminal([*RUN_ARGS, "-v"], service, tmp_path, env=FORCED, stderr=err.fileno()) as one,
    ):
        assert one.end() == 1
        assert HIDE not in one.raw
        assert COLOUR.search(one.raw), "the summary has colours"
        assert any(row.startswith("Archived 7 of 12 ") for row in one.rows())
    text = (tmp_path / "err").read_text()
    assert " INFO recording " in text
    assert_plain(text)
