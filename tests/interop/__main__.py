"""Does g2a-archive do as curl and requests do, with servers and proxies that others wrote?

    python -m tests.interop                       every case (a quarter of an hour)
    python -m tests.interop squid 'closed early'  those whose names hold one of these words
    python -m tests.interop --list                only their names

nginx, Apache, squid, tinyproxy and microsocks run on loopback, each with a configuration of its
own in a temporary directory; what is not installed is left out, and said. For each case
`g2a-archive download` fetches some recordings' files, whose links point at that server; curl and a
script with requests fetch the same links with the same environment. What each has is compared by
SHA-256 with what the server has.

The exit code is 1 if g2a-archive stored a wrong byte, failed where both of the others were right,
or went by a proxy where requests did not, or the other way round; else 0. Where a site or a proxy
makes them differ, a line says why.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from benchmarks.servers import find

from .cases import CASES, Case
from .results import Row
from .world import World


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.interop",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", metavar="WORD", help="default: every case")
    parser.add_argument("--list", action="store_true", help="name the cases, and do nothing")
    parser.add_argument("--keep", action="store_true", help="keep what the servers logged")
    parser.add_argument("-v", "--verbose", action="store_true", help="every reason that was told")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the cases that were asked for, and print their table."""
    options = _arguments(argv)
    cases = [case for case in CASES if _wanted(case, options.words)]
    if options.list:
        print("\n".join(case.name for case in cases))
        return 0
    if find("curl") is None:
        print("curl is not installed, and without it there is nothing to compare", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _terminate)
    work = Path(tempfile.mkdtemp(prefix="g2a-archive-interop-"))
    try:
        rows = _run(work, cases, verbose=options.verbose)
    finally:
        if options.keep:
            print(f"kept: {work}", file=sys.stderr)
        else:
            shutil.rmtree(work, ignore_errors=True)
    problems = [f"{row.case.name}: {problem}" for row in rows for problem in row.problems]
    print(f"{len(rows)} cases, {len(problems)} problems", *problems, sep="\n  ")
    return int(bool(problems))


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _wanted(case: Case, words: Sequence[str]) -> bool:
    return not words or any(word in case.name for word in words)


def _run(work: Path, cases: Sequence[Case], *, verbose: bool) -> list[Row]:
    rows = []
    with World.start(work) as world:
        for missing in world.missing:
            print(f"left out: {missing}", file=sys.stderr)
        possible = [case for case in cases if world.can(case)]
        width = max((len(case.name) for case in possible), default=0)
        print(Row.head(width))
        for case in possible:
            rows.append(world.run(case))
            print(rows[-1].line(width), flush=True)
            if verbose:
                print(*rows[-1].reasons(), sep="\n")
    return rows


if __name__ == "__main__":
    sys.exit(main())
