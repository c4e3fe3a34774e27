"""Those who are measured: g2a-archive and the downloaders that somebody would script instead."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

from .corpus import Corpus
from .process import Measured, run
from .servers import Site, find

OURS = "g2a-archive"
BARE = "urllib3"
"""Not a downloader, but what ours is made of: see `bare`."""
ROOT = Path(__file__).parents[2]
CHUNK = 500


@dataclass(frozen=True)
class Job:
    """One download of a whole corpus, by anybody."""

    site: Site
    corpus: Corpus
    parallel: int
    split: bool
    """Whether one large file should come over several connections."""
    scratch: Path
    timeout: float

    @property
    def out(self) -> Path:
        """Where the files shall be."""
        return self.scratch / "out"

    def run(self, command: Sequence[str], **extra: str) -> Measured:
        """Run and measure a command of this job."""
        return run(
            command, env=environment(self.scratch, **extra), cwd=self.scratch, timeout=self.timeout
        )


@dataclass(frozen=True)
class Contender:
    """A program, and how it does a job."""

    name: str
    program: str
    act: Callable[[Job], Measured] = field(repr=False)
    checks_content: bool = False
    needs_links: bool = False

    @property
    def missing(self) -> str:
        """Why it can't take part, or nothing."""
        if self.name == OURS and not (ROOT / "g2a_archive").is_dir():
            return f"{OURS} is not in this checkout: left out"
        if not find(self.program):
            return f"{self.program} is not installed: left out"
        if self.needs_links and not find("curl"):
            return f"{self.program} is left out: curl, which asks for its links, is not installed"
        return ""


def environment(home: Path, **extra: str) -> dict[str, str]:
    """The environment of every command: nobody's settings, proxies or home directory."""
    kept = ("PATH", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
    env = {name: os.environ[name] for name in kept if name in os.environ}
    return {**env, "HOME": str(home), "LANG": "C.UTF-8", "TZ": "UTC", **extra}


def our_environment(api_url: str) -> Mapping[str, str]:
    """What g2a-archive needs to find the simulated service, and itself."""
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "G2A_ARCHIVE_API_URL": f"{api_url}/G2A/rest/v1",
        "G2A_ARCHIVE_TOKEN": "benchmark",
    }


def ours(*arguments: str) -> list[str]:
    """The command line of g2a-archive, from this checkout."""
    return [sys.executable, "-m", "g2a_archive", *arguments]


def write_ids(path: Path, ids: Sequence[int]) -> Path:
    """An ID file for `-f`."""
    path.write_text("".join(f"{recording}\n" for recording in ids))
    return path


def _g2a_archive(job: Job) -> Measured:
    ids = write_ids(job.scratch / "ids.txt", job.corpus.ids)
    command = ours("download", "-f", str(ids), "-d", str(job.out), "-j", str(job.parallel))
    trust = {}
    if job.site.certificate:
        trust = dict.fromkeys(("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"), str(job.site.certificate))
    return job.run([*command, "--json"], **our_environment(job.site.links_url), **trust)


def _links(job: Job) -> tuple[Measured, dict[str, str]]:
    """Ask for the links with curl, all calls in parallel; the link of each file by its name."""
    lines, answers = [], []
    ids = job.corpus.ids
    for start in range(0, len(ids), CHUNK):
        query = urlencode([("recordingIds", recording) for recording in ids[start : start + CHUNK]])
        answers.append(job.scratch / f"links-{start}.json")
        url = f"{job.site.links_url}/G2A/rest/v1/archive/recordings/urls?{query}"
        lines.append(f'url = "{url}"\noutput = "{answers[-1]}"\n')
    measured = job.run(_curl_command(job, "links", lines))
    links: dict[str, str] = {}
    for answer in answers if not measured.exit_code else ():
        for item in json.loads(answer.read_text()):
            for kind in ("recordingUrl", "eventsUrl", "thumbnailUrl"):
                if kind in item:
                    links[item[kind].rpartition("/")[2].partition("?")[0]] = item[kind]
    return measured, links


def _curl_command(job: Job, name: str, lines: Sequence[str]) -> list[str]:
    config = job.scratch / f"{name}.curl"
    config.write_text("".join(lines))
    command = ["curl", "--disable", "--fail", "--silent", "--show-error", "--parallel"]
    command += ["--parallel-max", str(job.parallel), "--config", str(config)]
    if job.site.certificate:
        command += ["--cacert", str(job.site.certificate)]
    return command


def _curl(job: Job) -> Measured:
    asked, links = _links(job)
    lines = [f'url = "{link}"\noutput = "{job.out / name}"\n' for name, link in links.items()]
    return asked.then(job.run(_curl_command(job, "files", lines)))


def _aria2(job: Job) -> Measured:
    asked, links = _links(job)
    listed = job.scratch / "files.aria2"
    listed.write_text("".join(f"{link}\n out={name}\n" for name, link in links.items()))
    streams = "8" if job.split else "1"
    command = ["aria2c", "--no-conf", "--quiet", "--download-result=hide", "-d", str(job.out)]
    command += ["--file-allocation=none", "-j", str(job.parallel), "-x", streams, "-s", streams]
    command += ["-i", str(listed)]
    if job.site.certificate:
        command.append(f"--ca-certificate={job.site.certificate}")
    return asked.then(job.run(command))


def _wget2(job: Job) -> Measured:
    asked, links = _links(job)
    listed = job.scratch / "files.wget2"
    listed.write_text("".join(f"{link}\n" for link in links.values()))
    command = ["wget2", "--no-config", "--quiet", "--no-hsts", "--no-directories"]
    command += ["--cut-file-get-vars", f"--max-threads={job.parallel}"]
    command += [f"--directory-prefix={job.out}", f"--input-file={listed}"]
    if job.site.certificate:
        command.append(f"--ca-certificate={job.site.certificate}")
    return asked.then(job.run(command))


def _rclone(job: Job) -> Measured:
    # rclone copies from a listing, which takes as long as a link call; it has no list of links.
    command = ["rclone", "copy", ":http:", str(job.out), "--http-url", f"{job.site.files_url}/"]
    command += ["--config", "", "--transfers", str(job.parallel), "--checkers", str(job.parallel)]
    if job.split:
        command += ["--multi-thread-streams", "8"]
    elif job.site.paced:
        # No HEAD request a file, which a distant host makes dear; but without a size, no splitting.
        command.append("--http-no-head")
    if job.site.certificate:
        command += ["--ca-cert", str(job.site.certificate)]
    return job.run(command)


def _bare(job: Job) -> Measured:
    asked, links = _links(job)
    listed = job.scratch / "files.bare"
    listed.write_text("".join(f"{link} {name}\n" for name, link in links.items()))
    command = [sys.executable, "-m", "tests.benchmarks.bare", str(listed), str(job.out)]
    trust = {"SSL_CERT_FILE": str(job.site.certificate)} if job.site.certificate else {}
    return asked.then(job.run([*command, str(job.parallel)], PYTHONPATH=str(ROOT), **trust))


CONTENDERS = (
    Contender(OURS, sys.executable, _g2a_archive, checks_content=True),
    Contender(BARE, sys.executable, _bare, needs_links=True),
    Contender("curl", "curl", _curl, needs_links=True),
    Contender("aria2c", "aria2c", _aria2, needs_links=True),
    Contender("wget2", "wget2", _wget2, needs_links=True),
    Contender("rclone", "rclone", _rclone),
)
