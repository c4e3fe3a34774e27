"""A fingerprint under a time stamp: the page's own lines, against an authority on loopback.

The authority is openssl's own, behind a few lines of HTTP.
"""

from __future__ import annotations

import http.server
import re
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import clean_environment, run_cli, run_here

import g2a_archive
from g2a_archive.demo import SimulatedService

PAGE = Path(g2a_archive.__file__).with_name("curation") / "EVIDENCE.md"

pytestmark = pytest.mark.skipif(
    not (shutil.which("openssl") and shutil.which("curl")), reason="no openssl, or no curl, here"
)

CONFIG = """
[req]
distinguished_name = name
x509_extensions = tsa
prompt = no
[name]
CN = An authority on loopback
[tsa]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = critical, timeStamping
[authority]
serial = {0}/serial
signer_cert = {0}/tsa.pem
signer_key = {0}/key.pem
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
accuracy = secs:1
ess_cert_id_alg = sha256
"""


def openssl(*args: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["openssl", *map(str, args)], cwd=cwd, capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a time-stamp authority, and its certificate."""
    home = tmp_path / "tsa"
    home.mkdir()
    (home / "tsa.cnf").write_text(CONFIG.format(home))
    (home / "serial").write_text("01\n")
    made = openssl(
        *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-config", "tsa.cnf"),
        *("-keyout", "key.pem", "-out", "tsa.pem"),
        cwd=home,
    )
    assert made.returncode == 0, made.stderr

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.headers["Content-Type"] == "application/timestamp-query"
            query = self.rfile.read(int(self.headers["Content-Length"]))
            (home / "query.tsq").write_bytes(query)
            signed = openssl(
                *("ts", "-reply", "-config", "tsa.cnf", "-section", "authority"),
                *("-queryfile", "query.tsq", "-out", "reply.tsr"),
                cwd=home,
            )
            assert signed.returncode == 0, signed.stderr
            reply = (home / "reply.tsr").read_bytes()
            self.send_response(200)
            self.send_header("Content-Type", "application/timestamp-reply")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", home / "tsa.pem"
        finally:
            server.shutdown()
            thread.join()


def test_the_page_s_lines_stamp_a_fingerprint_and_prove_it(
    service: SimulatedService, root: Path, tmp_path: Path, authority: tuple[str, Path]
) -> None:
    address, certificate = authority
    assert run_here(service, root, service.recordings).exit_code == 0
    here = tmp_path / "here"
    here.mkdir()
    shutil.copy(certificate, here / "tsa.pem")
    program = here / "g2a-archive"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m g2a_archive "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    block = re.search(r"```sh\n(g2a-archive status --fingerprint > .*?)```", PAGE.read_text(), re.S)
    assert block
    env = clean_environment({"G2A_ARCHIVE_DEST": str(root), "TSA": address})
    env["PATH"] = f"{here}:{env['PATH']}"
    done = subprocess.run(
        ["sh", "-e", "-c", block[1]], cwd=here, env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "Verification: OK" in done.stdout + done.stderr

    line = (here / "line.txt").read_text()
    assert run_cli(["verify", "-d", root, "--fingerprint", line.strip()]).returncode == 0
    # A line that somebody made later is not what was signed.
    (here / "line.txt").write_text(line.replace("g2a1 2", "g2a1 1"))
    check = ("ts", "-verify", "-data", "line.txt", "-in", "line.tsr", "-CAfile", "tsa.pem")
    assert openssl(*check, cwd=here).returncode != 0
