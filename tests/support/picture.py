"""Draws `examples/progress.svg` from a real run: `python -m support.picture` in `tests/`."""

from __future__ import annotations

import sys
import tempfile
import threading
from pathlib import Path

from rich.console import Console

from g2a_archive.auth.credentials import AuthSettings, credentials_from
from g2a_archive.console import progress
from g2a_archive.console.progress import Display, Snapshot
from g2a_archive.console.report import Report
from g2a_archive.demo import Behaviour, SimulatedService, sample_recordings
from g2a_archive.download.run import Download
from g2a_archive.download.stopping import StopSwitch
from g2a_archive.models import RunSettings

WIDTH = 80


def snapshot_of_a_run(dest: str) -> tuple[Snapshot, Report]:
    """Archive from the simulated service; returns a look at the run in its middle, and its end."""
    recordings = sample_recordings(60, mp4_size=(400_000, 4_000_000))
    looks: list[Snapshot] = []

    class Looking(Display):
        """Looks at the run when a third of it is done."""

        def watch(self, look):  # type: ignore[no-untyped-def]
            def work() -> None:
                while not looks:
                    view = look()
                    if view.done >= 20 and len(view.files) >= 6:
                        looks.append(view)
                    threading.Event().wait(0.01)

            threading.Thread(target=work, daemon=True).start()
            return super().watch(look)

    with SimulatedService(recordings, Behaviour(rate=1_500_000)) as service:
        switch = StopSwitch()
        auth = AuthSettings(token=service.token)
        run = Download(
            RunSettings(api_url=service.api_url, dest=dest),
            command="download",
            credentials=lambda: credentials_from(auth, warn=print, wait=switch.event.wait),
            switch=switch,
            display=Looking(),
        )
        report = run.archive(service.recordings)
    return looks[0], report


def main(target: Path) -> None:
    """Write the picture."""
    with tempfile.TemporaryDirectory() as dest:
        view, report = snapshot_of_a_run(dest)
    console = Console(record=True, width=WIDTH, force_terminal=True, file=sys.stderr)
    console.print("[bold]$[/] g2a-archive download -f ids.txt -d /mnt/nas/recordings")
    console.print(progress._run_rows(view, 11.2 * 2**20, WIDTH - 1), end="")
    console.print(progress._file_rows(list(view.files), WIDTH - 1), end="")
    console.print()
    for style, line in report.summary():
        console.print(line, style=style, highlight=False)
    console.save_svg(str(target), title="g2a-archive")


if __name__ == "__main__":
    main(Path(__file__).parents[2] / "examples" / "progress.svg")
