"""How fast is g2a-archive, beside the best downloaders on the same machine?

    python -m tests.benchmarks                    every workload, three runs each (half an hour)
    python -m tests.benchmarks --quick            small sizes, one run: does it all work? (a minute)
    python -m tests.benchmarks small tail         some of the workloads
    python -m tests.benchmarks --markdown         tables for the README
    python -m tests.benchmarks --peers curl,aria2c large

Run it in a checkout, with an interpreter that has g2a-archive's requirements. The files come
over loopback from a private nginx, or from the benchmark's own server where a distant host is
simulated. Peers that are installed (curl, aria2c, wget2, rclone) do the same work in alternating
runs; figures are medians. A peer's time includes asking for the links with curl, all calls in
parallel; rclone, which can't take links, reads a listing instead. After each run of g2a-archive
every byte of its archive is compared with the original; peers' files by count and size.

g2a-archive hashes, checks, flushes and records every file in the time that is shown. Of the peers
aria2c alone flushes; the others leave their files in the page cache: "then flush" is the time
that a flush took after each run. `urllib3` is no downloader, but what ours is made of, with
nothing around it: what it takes is the library's. `--workdir` on a memory file system leaves the
disk out. Leave five minutes between two invocations with small files: ext4 without a journal looks
at each inode that was deleted in that time before it makes a new file, which takes as long again.

The exit code is 1 if anything that was measured did not do its work whole, else 0. A goal that
was missed is shown, and no error: a machine that does other work at the same time misses some.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from .bench import Bench, say
from .contenders import CONTENDERS, OURS
from .results import Table
from .servers import ServerError, find
from .workloads import WORKLOADS

_SPACE = {False: 12 << 30, True: 1 << 30}


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    listed = "\n".join(f"  {name:<10} {act.__doc__}" for name, act in WORKLOADS.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=__doc__,
        epilog=f"workloads:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    peers = [contender.name for contender in CONTENDERS if contender.name != OURS]
    parser.add_argument("workload", nargs="*", metavar="WORKLOAD", help="default: all of them")
    parser.add_argument("--runs", type=int, help="runs of each contender (3; 1 with --quick)")
    parser.add_argument("--quick", action="store_true", help="small sizes; goals mean little then")
    parser.add_argument("--peers", default=",".join(peers), help="who else (default: %(default)s)")
    parser.add_argument("--without-ours", action="store_true", help="only the peers")
    parser.add_argument("--workdir", type=Path, help="where to make the temporary directory")
    parser.add_argument("--counts", default="", help="sizes for scale, such as 10000,100000")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="one JSON object on stdout")
    shape.add_argument("--markdown", action="store_true", help="tables in Markdown")
    options = parser.parse_args(argv)
    for name in options.workload:
        if name not in WORKLOADS:
            parser.error(f"there is no workload {name!r}; choose from {', '.join(WORKLOADS)}")
    options.counts = [int(count) for count in options.counts.split(",") if count]
    options.peers = [name for name in options.peers.split(",") if name]
    for name in options.peers:
        if name not in peers:
            parser.error(f"there is no peer {name!r}; choose from {', '.join(peers)}")
    options.runs = max(0, options.runs or 0) or (1 if options.quick else 3)
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the workloads that were asked for, and print their tables."""
    options = _arguments(argv)
    signal.signal(signal.SIGTERM, _terminate)
    work = Path(tempfile.mkdtemp(prefix="g2a-archive-bench-", dir=options.workdir))
    try:
        if shutil.disk_usage(work).free < _SPACE[options.quick]:
            say(f"{work} has little space: up to {_SPACE[options.quick] >> 30} GiB are needed")
        names = [*([] if options.without_ours else [OURS]), *options.peers]
        tables = _measure(Bench(work, options.runs, options.quick, names, options.counts), options)
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return int(any(score.problems for table in tables for score in table.scores))


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _measure(bench: Bench, options: argparse.Namespace) -> list[Table]:
    machine = _machine(bench)
    if not options.json:
        print(machine, end="\n\n")
    tables: list[Table] = []
    for name in options.workload or WORKLOADS:
        say(f"{name}: {WORKLOADS[name].__doc__}")
        try:
            table = WORKLOADS[name](bench)
        except ServerError as error:
            bench.notes.append(f"{name} was left out: {error}")
            say(bench.notes[-1])
            continue
        tables.append(table)
        if not options.json:
            print(table.text(markdown=options.markdown), flush=True)
    if options.json:
        report = {"machine": machine, "runs": bench.runs, "quick": bench.quick}
        report |= {"workloads": [table.as_json() for table in tables], "notes": bench.notes}
        print(json.dumps(report, indent=2))
    else:
        print("\n".join(bench.notes))
    return tables


def _machine(bench: Bench) -> str:
    """What it runs on, and against which versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    parts = [
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB",
        f"Python {platform.python_version()}",
    ]
    programs = {c.program: "--version" for c in CONTENDERS if c.name in bench.names}
    programs.pop(sys.executable, None)
    for program, option in {**programs, "nginx": "-v"}.items():
        if path := find(program):
            parts.append(_version(path, option))
    size = "; quick" if bench.quick else ""
    return f"{'; '.join(parts)}; medians of {bench.runs}{size}"


def _version(path: str, option: str) -> str:
    done = subprocess.run([path, option], capture_output=True, text=True, timeout=30, check=False)
    first = (done.stdout + done.stderr).strip().partition("\n")[0]
    numbers = [word for word in first.replace("/", " ").split() if "." in word]
    return f"{Path(path).name} {numbers[0].strip(',') if numbers else '?'}"


if __name__ == "__main__":
    sys.exit(main())
