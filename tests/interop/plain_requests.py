"""What somebody would write with `requests`: reads a task from stdin, tells what came of it.

It resumes with `Range` and `If-Range`, and believes whatever `requests` takes for a whole body.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import requests


def fetch(session: requests.Session, url: str, path: Path, validators: dict[Path, str]) -> str:
    """Fetch one file, or the rest of it; why that did not work, or nothing."""
    here = path.stat().st_size if path.exists() else 0
    headers = {"Range": f"bytes={here}-"} if here else {}
    if here and path in validators:
        headers["If-Range"] = validators[path]
    try:
        with session.get(url, headers=headers, stream=True, timeout=10) as response:
            if response.status_code == 416:
                path.unlink()
            response.raise_for_status()
            validator = response.headers.get("ETag", "")
            validators[path] = validator or response.headers.get("Last-Modified", "")
            if not validators[path] or validators[path].startswith("W/"):
                del validators[path]
            with path.open("ab" if response.status_code == 206 else "wb") as file:
                for part in response.iter_content(65536):
                    file.write(part)
    except (requests.RequestException, OSError, ValueError) as error:
        inner = getattr(error.args[0], "reason", error) if error.args else error
        return f"{type(error).__name__}: {str(inner).rpartition('url: ')[0] or inner}"
    return ""


def main() -> int:
    """Fetch the files of the task: `urls` by path, so many `attempts`, a `pause` after each."""
    task = json.load(sys.stdin)
    reasons = dict.fromkeys(task["urls"], "not tried")
    validators: dict[Path, str] = {}
    with requests.Session() as session:
        for attempt in range(task["attempts"]):
            for path in [path for path, reason in reasons.items() if reason]:
                reasons[path] = fetch(session, task["urls"][path], Path(path), validators)
                time.sleep(task["pause"])
            if not any(reasons.values()):
                break
            time.sleep(0.5 if attempt + 1 < task["attempts"] else 0)
    json.dump(reasons, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
