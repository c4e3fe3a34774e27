"""No token, link, client secret or personal access token is found in anything that a run leaves."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from support import run_cli, start_cli
from support.cli import FIRST, Args
from support.service import Serve

from g2a_archive.cli.main import run
from g2a_archive.console.logs import redact
from g2a_archive.demo import Response, SimulatedService
from g2a_archive.demo.faults import Fault, close, html, redirect, reset, status
from g2a_archive.demo.messages import Call

EVERYTHING: Args = [
    "--min-free", "0", "-v", "-v", "--log-file", "run.log", "--error-file", "errors",
    "--metrics-file", "metrics", "--timeout", "5", "--retries", "1",
]  # fmt: skip


def secrets_of(service: SimulatedService) -> set[str]:
    """All that must not be seen: credentials, and the random number of each link."""
    behaviour = service.behaviour
    found = {service.token, behaviour.client_secret, behaviour.pat}
    for entry in service.requests.all:
        found |= {value for name, value in entry.query if name in ("key", "token", "sig")}
        found |= set(re.findall(r"/files/([0-9a-f]{40,})/", entry.target))
        header = entry.headers.get("authorization", "")
        found |= {header.split("=", 1)[-1].split(" ")[-1]} if header else set()
    return {secret for secret in found if len(secret) > 5}


def what_is_left(cwd: Path, *outputs: str) -> dict[str, bytes]:
    """Every file below, and the outputs, under the names of partial files too."""
    found = {f"output {n}": text.encode() for n, text in enumerate(outputs)}
    for path in cwd.rglob("*"):
        if path.is_file():
            found[str(path)] = str(path).encode() + b"\n" + path.read_bytes()
    return found


def assert_kept_secret(secrets: Iterable[str], left: dict[str, bytes]) -> None:
    for secret in secrets:
        for name, content in left.items():
            assert secret.encode() not in content, f"{secret} is in {name}"
            assert secret.encode().hex().encode() not in content


FILES: dict[str, Fault] = {
    "resets": reset(0),
    "closed early": close(0),
    "404": status(404),
    "403 with a page": html(403),
    "500": status(500),
    "a page": html(),
    "redirect": redirect("/elsewhere?token=REDIRECT-SECRET"),
}
CALLS: dict[str, tuple[Fault | Response, Call]] = {
    "redirect of calls": (redirect("https://example.com/?token=REDIRECT-SECRET"), "links"),
    "broken JSON": (Response(200, {}, b'[{"recordingUrl": "http://h/?key=BODY-SECRET"'), "links"),
    "an error's text": (Response(500, {}, b"token BODY-SECRET"), "links"),
    "401": (status(401), "links"),
    "400": (Response(400, {}, b"http://h/?key=BODY-SECRET"), "links"),
    "refused renewal": (Response(400, {}, b'{"error": "BODY-SECRET"}'), "token"),
}


def failing_run(service: SimulatedService, renewable: bool, cwd: Path) -> str:
    """Run it with everything that can be written, find no secret in any of it; its stdout."""
    args: Args = ["download", *service.recordings, *EVERYTHING, "--json"]
    result = run_cli(args, service.environment(renewable=renewable), cwd=cwd)
    assert result.returncode != 0
    left = what_is_left(cwd, result.stdout, result.stderr)
    assert any(name.endswith("run.log") and content.strip() for name, content in left.items())
    secrets = secrets_of(service)
    assert len(secrets) >= 3
    assert_kept_secret(secrets | {"REDIRECT-SECRET", "BODY-SECRET"}, left)
    assert "key=" not in result.stderr
    assert service.requests.leaks == []
    return result.stdout


@pytest.mark.parametrize("renewable", [False, True])
def test_nothing_secret_in_any_output_where_files_fail(
    serve: Serve, tmp_path: Path, renewable: bool
) -> None:
    """Each recording's files in a way of their own."""
    service = serve(len(FILES), rate_limit=None, link_key_in="path" if renewable else "query")
    ways = dict(zip(service.recordings, FILES, strict=True))
    for id_, name in ways.items():
        service.fail_files(FILES[name], recording_id=id_)
    failed = {one["id"] for one in json.loads(failing_run(service, renewable, tmp_path))["failed"]}
    assert [name for id_, name in ways.items() if id_ not in failed] == []


@pytest.mark.parametrize(
    ("name", "renewable"),
    [(name, how) for name, (_, call) in CALLS.items() for how in {call == "token", True}],
)
def test_nothing_secret_in_any_output_where_calls_fail(
    serve: Serve, tmp_path: Path, name: str, renewable: bool
) -> None:
    fault, call = CALLS[name]
    service = serve(3, rate_limit=None, link_key_in="path" if renewable else "query")
    service.fail(fault, call=call)
    failing_run(service, renewable, tmp_path)


def test_a_good_run_keeps_them_too(serve: Serve, tmp_path: Path) -> None:
    service = serve(3, rate_limit=None)
    args: Args = ["download", *service.recordings, *EVERYTHING]
    result = run_cli(args, service.environment(renewable=True), cwd=tmp_path)
    assert result.returncode == 0
    assert service.requests.counts["file"] == 9
    assert_kept_secret(secrets_of(service), what_is_left(tmp_path, result.stdout, result.stderr))


def test_a_partial_file_that_stays_holds_no_link(serve: Serve, tmp_path: Path) -> None:
    service = serve(2, rate_limit=None, rate=4000.0)
    args: Args = ["download", *service.recordings, *EVERYTHING]
    with start_cli(args, service.environment(), cwd=tmp_path) as process:
        assert service.requests.wait_for(lambda log: log.file_bytes_sent > 8000)
        process.terminate()
        out, err = process.communicate(timeout=60)
    assert process.returncode == 143
    left = what_is_left(tmp_path, out, err)
    assert any("/partial/" in name for name in left)
    assert_kept_secret(secrets_of(service), left)


@pytest.mark.parametrize(
    "place",
    [
        "g2a_archive.cli.run.choose_display",
        "g2a_archive.download.run.make_plan",
        "g2a_archive.service.client.urlencode",
        "g2a_archive.download.engine.make_task",
        "g2a_archive.download.engine.Engine._linked",
    ],
)
def test_a_bug_shows_no_secret(
    serve: Serve,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    place: str,
) -> None:
    """Even where an exception's own text, or a frame's variables, hold one."""
    service = serve(2, rate_limit=None)

    def break_down(*args: object, **more: object) -> None:
        link = service.link(FIRST)
        raise RuntimeError(f"{service.token} {link} {service.behaviour.pat} {args} {more}")

    for name, value in service.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(place, break_down)
    code = run(["download", str(FIRST), *map(str, EVERYTHING)])
    out, err = capfd.readouterr()
    assert code == 1
    assert "unexpected RuntimeError at " in err
    assert "this is a bug, please report it" in err
    assert "Traceback" not in err
    left = what_is_left(tmp_path, out, err)
    keys = {service.link(FIRST).partition("key=")[2][:40]}
    assert_kept_secret(secrets_of(service) | keys, left)
    assert "key=" not in err


@pytest.mark.parametrize("how", ["HOME", "NETRC"])
def test_a_netrc_is_not_for_us(serve: Serve, tmp_path: Path, how: str) -> None:
    service = serve(3, rate_limit=None)
    netrc = tmp_path / (".netrc" if how == "HOME" else "other")
    netrc.write_text(
        "machine 127.0.0.1 login NETRC-USER password NETRC-SECRET\n"
        "machine localhost login NETRC-USER password NETRC-SECRET\n"
        "default login NETRC-USER password NETRC-SECRET\n"
    )
    netrc.chmod(0o600)
    # A redirect to another name of the host is one more occasion to send it.
    service.fail_files(
        redirect(service.link(FIRST, "mp4").replace("127.0.0.1", "localhost")),
        kind="mp4",
        recording_id=FIRST,
        times=1,
    )
    env = {**service.environment(renewable=True), "HOME": str(tmp_path)}
    if how == "NETRC":
        env |= {"HOME": str(tmp_path / "none"), "NETRC": str(netrc)}
    args: Args = ["download", *service.recordings, "--min-free", "0", "-d", tmp_path / "archive"]
    result = run_cli(args, env, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert service.requests.leaks == []
    for entry in service.requests.all:
        header = entry.headers.get("authorization", "")
        kind = {"file": "", "token": "Basic ", "links": "Bearer "}[entry.call]
        assert header.startswith(kind)
        assert bool(header) == bool(kind)
        assert "TkVUUkM" not in header, "NETRC… in base64"


def test_a_proxy_of_the_environment_sees_no_header_of_loopback(
    serve: Serve, tmp_path: Path
) -> None:
    """Loopback is talked to without a proxy; what is said must not go elsewhere."""
    service, proxy = serve(1, rate_limit=None), serve(0)
    env = {**service.environment(), "http_proxy": proxy.base_url, "NO_PROXY": "127.0.0.1"}
    result = run_cli(["download", FIRST, "--min-free", "0"], env, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert proxy.requests.count == 0


REDACTED = [
    ("at https://h.example/files/1.mp4?key=abc&x=1 it broke", "at https://h.example/… it broke"),
    ("'http://h/secret/path'", "'http://h/…'"),
    ("Bearer abc.def", "Bearer …"),
    ("Authorization: bearer abc", "Authorization: bearer …"),
    ("OAuth oauth_token=abc", "OAuth oauth_token=…"),
    ("it is hunter22 they say", "it is … they say"),
    ("plain words", "plain words"),
    (
        "plain http:// is refused; use https://, retry",
        "plain http:// is refused; use https://, retry",
    ),
    ("bell \x07 escape \x1b[2J newline \n end", r"bell \x07 escape \x1b[2J newline \n end"),
]


@pytest.mark.parametrize(("text", "clean"), REDACTED)
def test_the_last_line_of_defence(text: str, clean: str) -> None:
    assert redact(text, ["hunter22", "", "abc"]) == clean
