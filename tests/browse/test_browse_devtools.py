"""Drives a headless Chromium over its DevTools pipe with nothing but the standard library."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MACOS = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--mute-audio",
)
# Chromium reads commands from descriptor 3 and answers on 4; the parent's may be any.
LAUNCH = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(n), fcntl.F_DUPFD, 10) for n in sys.argv[1:3]]
for want, have in zip((3, 4), ends):
    os.dup2(have, want)
os.execv(sys.argv[3], sys.argv[3:])
"""
PATIENCE = 30.0


def find_chromium() -> str | None:
    """A Chromium on this machine, or None."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    return found or next((path for path in MACOS if os.access(path, os.X_OK)), None)


class Pipe:
    """The commands to a browser and what it answers, each ended by a zero byte."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands = commands
        self._answers = answers
        self._number = 0
        self._rest = b""

    def send(self, method: str, parameters: dict[str, Any], session: str | None) -> int:
        """Send a command, to the browser or to a session of it; its number."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        return self._number

    def receive(self, deadline: float) -> dict[str, Any]:
        """The next answer or event."""
        while b"\0" not in self._rest:
            patience = max(0, deadline - time.monotonic())
            if not select.select([self._answers], [], [], patience)[0]:
                raise TimeoutError("Chromium does not answer")
            received = os.read(self._answers, 1 << 16)
            if not received:
                raise EOFError("Chromium has gone")
            self._rest += received
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message


class Tab:
    """One tab: commands to it, and all the events that came from it."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        self._target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=self._target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        """Close the tab."""
        self._session = None
        self.call("Target.closeTarget", targetId=self._target)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        number = self._pipe.send(method, parameters, self._session)
        deadline = time.monotonic() + PATIENCE
        while True:
            answer = self._pipe.receive(deadline)
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
            self._keep(answer)

    def _keep(self, event: dict[str, Any]) -> None:
        if event.get("sessionId") == self._session and "method" in event:
            self.events.append(event)

    def wait(self, since: int, fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first event after number `since` that fits, when it comes."""
        deadline = time.monotonic() + PATIENCE
        while True:
            for event in self.events[since:]:
                if fits(event):
                    return event
            since = len(self.events)
            self._keep(self._pipe.receive(deadline))

    def navigating(self, act: Callable[[], object]) -> None:
        """Do something that leads to another page, and wait until that has loaded."""
        since = len(self.events)
        act()
        self.wait(since, lambda event: event["method"] == "Page.loadEventFired")

    def open(self, url: str) -> None:
        """Go to an address and wait until the page has loaded."""
        self.navigating(lambda: self.call("Page.navigate", url=url))

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression, awaited where it is a promise."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def until(self, condition: str) -> Any:
        """Wait, frame by frame, until a JavaScript expression is true; its value."""
        return self.run(
            f"""new Promise((resolve, reject) => {{
              const end = performance.now() + 60000;
              const look = () => {{
                const value = {condition};
                if (value) resolve(value);
                else if (performance.now() > end) reject(new Error("in vain"));
                else requestAnimationFrame(look);
              }};
              look();
            }})"""
        )

    def click(self, selector: str) -> None:
        """Click, with the mouse, in the middle of the element."""
        found = json.dumps(selector)
        script = f"""(() => {{
          const element = document.querySelector({found});
          element.scrollIntoView({{block: "center"}});
          const {{x, y, width, height}} = element.getBoundingClientRect();
          const at = {{x: x + width / 2, y: y + height / 2}};
          const top = document.elementFromPoint(at.x, at.y);
          const seen = picture => {{
            const place = picture.getBoundingClientRect();
            return place.bottom > 0 && place.top < innerHeight;
          }};
          const still = [...document.images].every(one => one.complete || !seen(one));
          const free = element.contains(top) || top.contains(element);
          return {{box: free ? at : null, still}};
        }})()"""
        box, same = None, 0
        # Pictures that load lazily move what is below them: wait until it stands still.
        for _ in range(500):
            look = self.run(script)
            same = same + 1 if look["still"] and look["box"] == box else 0
            box = look["box"]
            if same >= 5:
                break
        assert box, f"{selector} is covered"
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **box)

    def type(self, text: str) -> None:
        """Type into whatever has the focus."""
        self.call("Input.insertText", text=text)

    def key(self, key: str) -> None:
        """Press and release one key by its name."""
        code = {"Enter": 13, "Escape": 27, "Tab": 9, "ArrowDown": 40}.get(key, 0)
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                text=text if kind == "keyDown" else "",
                windowsVirtualKeyCode=code,
            )

    def complaints(self) -> list[dict[str, Any]]:
        """What the console, the log or a script complained of."""
        loud = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [event["params"] for event in self.events if event["method"] in loud]

    def requests(self) -> list[str]:
        """The addresses of everything that was requested."""
        return [
            event["params"]["request"]["url"]
            for event in self.events
            if event["method"] == "Network.requestWillBeSent"
        ]


@contextmanager
def chromium(profile: Path, *flags: str) -> Iterator[Pipe]:
    """The pipe to a new headless Chromium; the test is skipped where none is installed."""
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium on this machine: the pages were not opened in a browser")
    command_in, command_out = os.pipe()
    answer_in, answer_out = os.pipe()
    launch = [sys.executable, "-c", LAUNCH, str(command_in), str(answer_out), program]
    with subprocess.Popen(
        [*launch, *FLAGS, f"--user-data-dir={profile}", *flags],
        pass_fds=(command_in, answer_out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        os.close(command_in)
        os.close(answer_out)
        try:
            yield Pipe(command_out, answer_in)
        finally:
            # Without its pipe Chromium ends by itself, and takes its children along.
            os.close(command_out)
            os.close(answer_in)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
