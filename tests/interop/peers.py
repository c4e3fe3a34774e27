"""Those who fetch the same files: g2a-archive itself, curl, and a script with requests."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from support import archive_files, clean_environment, download_args, run_cli

from g2a_archive.demo import SimulatedService

LATE = 120.0
"""Seconds after which a process counts as hung."""


@dataclass(frozen=True)
class Errand:
    """What all of them get: links by file name, an environment, a folder of their own."""

    service: SimulatedService
    ids: Sequence[int]
    links: Mapping[str, str]
    env: Mapping[str, str]
    folder: Path
    options: Sequence[str] = ()
    attempts: int = 1
    pause: float = 0.0


@dataclass
class Outcome:
    """What one of them has: the SHA-256 of each file that it takes for whole, and why no others."""

    digests: dict[str, str] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    proxied: bool = False
    linked: bool = True
    """Whether it had any link to fetch."""
    complaint: str = ""
    """What is wrong beyond the files."""

    def right(self, expected: Mapping[str, str]) -> set[str]:
        """The files that it has byte for byte."""
        return {name for name, digest in self.digests.items() if expected[name] == digest}

    def wrong(self, expected: Mapping[str, str]) -> set[str]:
        """The files that it takes for whole, and are not what the host has."""
        return set(self.digests) - self.right(expected)

    def reason(self) -> str:
        """The most frequent reason."""
        return self.reasons.most_common(1)[0][0] if self.reasons else ""


def _run(args: Sequence[str], errand: Errand, text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        args,
        env=clean_environment(errand.env),
        cwd=errand.folder,
        input=text,
        capture_output=True,
        text=True,
        timeout=LATE,
        check=False,
    )


_PATIENT = "from g2a_archive.service import pace\npace._LONGEST_WAIT = 30.0"
"""The tests' processes hardly wait before a retry; here real hosts are not to be overrun."""


def ours(errand: Errand) -> Outcome:
    """`g2a-archive download`, which asks the simulated service for the links."""
    root = errand.folder / "archive"
    args = download_args(root, "--timeout", "5", *errand.options, *errand.ids)
    env = {**errand.env, **errand.service.environment()}
    done = run_cli(args, env, before=_PATIENT, cwd=errand.folder, timeout=LATE)
    found = Outcome()
    for path in archive_files(root).values():
        found.digests[path.name] = _digest(path)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        report = {"failed": []}
    for failed in report["failed"]:
        found.reasons[failed["reason"]] += 1
    if done.returncode and not found.reasons:
        found.reasons[(done.stderr.strip().splitlines() or ["no word"])[-1]] += 1
    if done.returncode == 0 and set(found.digests) != set(errand.links):
        found.complaint = "exit 0, and not all files are there"
    if "Traceback" in done.stderr:
        found.complaint = done.stderr.strip().splitlines()[-1]
    return found


def curl(errand: Errand) -> Outcome:
    """`curl`, in one process; what failed is tried again from where it stopped."""
    found = Outcome()
    failed = dict(errand.links)
    for _ in range(errand.attempts):
        told = "%{exitcode}\t%{filename_effective}\t%{errormsg}\n"
        lines = [f'url = "{url}"\noutput = "{name}"' for name, url in failed.items()]
        args = ["curl", "--disable", "--silent", "--fail", "--location", "--compressed"]
        args += ["--connect-timeout", "5", "--max-time", "30", "--max-redirs", "10"]
        args += ["--proxy-cacert", errand.env["CURL_CA_BUNDLE"]]
        args += ["--write-out", told, "--globoff"]
        args += ["--continue-at", "-"] if errand.attempts > 1 else []
        done = _run([*args, "--config", "-"], errand, "\n".join(lines))
        found.reasons.clear()
        for line in done.stdout.splitlines():
            code, name, why = [*line.split("\t"), "", ""][:3]
            if code == "0":
                found.digests[name] = _digest(errand.folder / name)
                failed.pop(name, None)
            else:
                found.reasons[f"{code}: {why}"] += 1
                if code == "33":  # no ranges here
                    (errand.folder / name).unlink(missing_ok=True)
        if not failed:
            break
        time.sleep(0.5 if errand.attempts > 1 else 0)
    return found


def with_requests(errand: Errand) -> Outcome:
    """`plain_requests.py`."""
    task = {
        "urls": {str(errand.folder / name): url for name, url in errand.links.items()},
        "attempts": errand.attempts,
        "pause": errand.pause,
    }
    script = Path(__file__).with_name("plain_requests.py")
    done = _run([sys.executable, str(script)], errand, json.dumps(task))
    found = Outcome()
    if done.returncode:
        found.reasons[done.stderr.strip().splitlines()[-1]] += 1
        return found
    for path, reason in json.loads(done.stdout).items():
        if reason:
            found.reasons[reason] += 1
        else:
            found.digests[Path(path).name] = _digest(Path(path))
    return found


def _digest(path: Path) -> str:
    """Its SHA-256; of no file at all, that of no bytes."""
    return hashlib.sha256(path.read_bytes() if path.exists() else b"").hexdigest()


PEERS: Mapping[str, Callable[[Errand], Outcome]] = {
    "ours": ours,
    "curl": curl,
    "requests": with_requests,
}
"""By their heading in the table."""
