"""Options: each impossible value with its message and exit code, before anything is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import cli as cli_support
from support import report_of, run_cli
from support.cli import FIRST, Args, environment, refused, tree

from g2a_archive.cli import values
from g2a_archive.demo import SimulatedService

still = cli_support.still

SEE = "; see `g2a-archive download --help`"
ZONE = "use a name such as Europe/Berlin or UTC"
SIZE = "write it like 500K, 10M or 1.5G"
LAYOUT = "use strftime codes and slashes, such as %Y/%m/%d"
PLAIN = (
    "this address cannot be used: plain http:// is accepted to loopback hosts only; use https://"
)

DOT = "a directory name begins with a dot"
EMPTY = "a directory name is empty or begins or ends with a space"
BAD_LAYOUTS = [
    ("%Q", "it has a code that strftime does not know"),
    ("/%Y", "it begins with a slash"),
    ("../%Y", DOT),
    ("%Y/../..", DOT),
    (".g2a-archive", DOT),
    ("%Y//%m", EMPTY),
    ("%Y/", EMPTY),
    (" ", "it is empty"),
    ("%Y%n%m", "it has a character that no directory name should have"),
    ("x" * 300, "it is too long"),
    ("browse/%Y", "`browse` is the name of the pages that g2a-archive writes"),
]

BAD_VALUES: list[tuple[str, str, str]] = [
    ("--timezone", "Mars/Olympus", f"there is no time zone 'Mars/Olympus' ({ZONE})"),
    ("--timezone", "../../etc/localtime", f"there is no time zone '../../etc/localtime' ({ZONE})"),
    ("--timezone", "Mars" * 64, f"there is no time zone '{'Mars' * 64}' ({ZONE})"),
    ("--timezone", "Foo5", f"there is no time zone 'Foo5' ({ZONE})"),
    ("--timezone", "UTC+3", f"there is no time zone 'UTC+3' ({ZONE})"),
    ("--timezone", "EST5", f"there is no time zone 'EST5' ({ZONE})"),
    ("--timezone", "", f"there is no time zone '' ({ZONE})"),
    ("--limit-rate", "fast", f"'fast' is no rate; {SIZE} (bytes a second)"),
    ("--limit-rate", "0", f"'0' is no rate; {SIZE} (bytes a second)"),
    ("--limit-rate", "-1M", f"'-1M' is no rate; {SIZE} (bytes a second)"),
    ("--limit-rate", "0.0001", f"'0.0001' is no rate; {SIZE} (bytes a second)"),
    ("--min-free", "1X", f"'1X' is no size; {SIZE}"),
    ("--min-free", "-1", f"'-1' is no size; {SIZE}"),
    ("--min-free", "99999999T", "'99999999T' is too large"),
    ("--max-duration", "5y", "'5y' is no duration; write it like 45s, 90m, 6h or 2d"),
    ("--max-duration", "-5", "'-5' is no duration; write it like 45s, 90m, 6h or 2d"),
    ("--max-duration", "9999999d", "'9999999d' is too long"),
    ("--only", "mp3", "'mp3' is no kind of file; there are mp4, events and thumbnail"),
    ("--only", "mp4,,events", "'' is no kind of file; there are mp4, events and thumbnail"),
    ("--only", "MP4", "'MP4' is no kind of file; there are mp4, events and thumbnail"),
    ("--jobs", "0", "'0' is not a whole number from 1 to 64"),
    ("--jobs", "65", "'65' is not a whole number from 1 to 64"),
    ("--jobs", "-3", "'-3' is not a whole number from 1 to 64"),
    ("--jobs", "1.5", "'1.5' is not a whole number from 1 to 64"),
    ("--jobs", "1_0", "'1_0' is not a whole number from 1 to 64"),
    ("--jobs", "\uff18", "'\uff18' is not a whole number from 1 to 64"),
    ("--segments", "17", "'17' is not a whole number from 1 to 16"),
    ("--retries", "-1", "'-1' is not a whole number from 0 to 1000"),
    ("--timeout", "0", "'0' is not a number of seconds from 0.1 to 86400"),
    ("--timeout", "nan", "'nan' is not a number of seconds from 0.1 to 86400"),
    ("--timeout", "soon", "'soon' is not a number of seconds from 0.1 to 86400"),
    ("--id-attribute", "a b", "'a b' is no name of a query attribute"),
    ("--id-attribute", "a&b=c", "'a&b=c' is no name of a query attribute"),
    ("--api-url", "http://example.com/rest", PLAIN),
    ("--api-url", "http://127.0.0.1.example.com/", PLAIN),
    ("--dest", "", "it must not be empty"),
    ("--catalog", "", "it must not be empty"),
    ("--log-file", "", "it must not be empty"),
    ("--error-file", "", "it must not be empty"),
    ("--metrics-file", "", "it must not be empty"),
    ("--config", "", "it must not be empty"),
]  # fmt: skip


@pytest.mark.parametrize(("layout", "reason"), BAD_LAYOUTS)
def test_an_impossible_layout(
    still: SimulatedService, tmp_path: Path, layout: str, reason: str
) -> None:
    line = refused(still, tmp_path, ["download", FIRST, f"--layout={layout}"])
    said = f"the layout {layout!r} cannot be used: {reason} ({LAYOUT})"
    assert line == f"g2a-archive: --layout: {said}{SEE}"


@pytest.mark.parametrize(("option", "value", "message"), BAD_VALUES)
def test_an_impossible_value(
    still: SimulatedService, tmp_path: Path, option: str, value: str, message: str
) -> None:
    line = refused(still, tmp_path, ["download", FIRST, f"{option}={value}"])
    assert line == f"g2a-archive: {option}: {message}{SEE}"


@pytest.mark.parametrize(
    "url",
    ["api.getgo.com", "ftp://127.0.0.1/", "https://", "file:///etc/passwd", "https://a:b@c/",
     "http://127.0.0.1:99999/", "https://api.getgo.com/rest?x=1", "https://api.getgo.com/#x",
     "https://api getgo.com/", "https://[::1/"],
)  # fmt: skip
def test_an_address_that_cannot_be_used(still: SimulatedService, tmp_path: Path, url: str) -> None:
    line = refused(still, tmp_path, ["download", FIRST, "--api-url", url])
    assert line.startswith("g2a-archive: --api-url: ")
    assert line.endswith(SEE)


def test_a_plain_token_endpoint_elsewhere(still: SimulatedService, tmp_path: Path) -> None:
    env = {**still.environment(renewable=True), "G2A_ARCHIVE_TOKEN": None}
    env["G2A_ARCHIVE_TOKEN_URL"] = "http://example.com/oauth/token"
    line = refused(still, tmp_path, ["download", FIRST], env)
    assert "the token endpoint's address" in line
    assert "plain http:// is accepted to loopback hosts only" in line


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--quite"], "there is no option --quite (did you mean --quiet?)"),
        (["--log"], "there is no option --log (did you mean --log-file?)"),
        (["--bad"], "there is no option --bad; see"),
        (["--token", "x"], "there is no option --token; see"),
        (["-Z"], "there is no option -Z"),
        (["--dest"], "Option '--dest' requires an argument"),
        (["--json=yes"], "Option '--json' does not take a value"),
    ],
)
def test_an_option_that_is_none(
    still: SimulatedService, tmp_path: Path, args: list[str], message: str
) -> None:
    line = refused(still, tmp_path, ["download", FIRST, *args])
    assert line.startswith(f"g2a-archive: {message}")
    assert line.endswith("--help`")


def test_a_command_that_is_none(still: SimulatedService, tmp_path: Path) -> None:
    line = refused(still, tmp_path, ["downlaod", FIRST])
    assert "there is no command downlaod (did you mean download?); see `g2a-archive --h" in line
    assert "did you mean" not in refused(still, tmp_path, ["fetch", FIRST])


KEY = "--account-key=1000"
CONTRADICTIONS: dict[str, tuple[Args, str]] = {
    "whose": (["list"], "whose recordings? the service wants a key (use --account-key, --user-key"),
    "of a company": (
        ["list", "--company-id", 7, "--session-type", "attended"],
        "a company's recordings are those of unattended sessions alone",
    ),
    "times": (["list", KEY, "--since", "2015-01-01", "--until", "2014-01-01"], "--since is not be"),
    "wait": (["sync", KEY, "--wait", "1h"], "--wait waits for transcodings (use --transcode, too)"),
    "mark": (
        ["sync", KEY, "--mark-archived", "--only", "mp4"],
        "--mark-archived takes recordings that are archived with all of their files",
    ),
    "rebuild": (["verify", "--rebuild", "--sample", "5%"], "--rebuild takes the whole archive: no"),
    "fingerprint": (["status", "--fingerprint", "--json"], "--fingerprint is of the whole archive"),
    "owed of one": (["status", 1, "--owed"], "IDs, --owed and --by each ask for something else"),
    "owed by day": (["status", "--owed", "--by", "day"], "IDs, --owed and --by each ask for somet"),
    "export": (["export"], "export as what? (use --csv or --json)"),
    "merge": (["merge"], "no archive was named that is to be taken in"),
    "remove": (["remove", "--yes"], "no recordings were named (name their IDs, or use -f FILE or "),
    "remove both": (["remove", 1, "--before", "1d"], "--before removes by date, IDs by name: one "),
    "bag": (["bag", "case"], "no recordings were named (name IDs after DIR, or use -f FILE, --si"),
    "sample": (["verify", "--sample", "0%"], "--sample: '0%' is no part of all; write it like 5%"),
    "place": (["sync", KEY, "--ids-in", "head"], "--ids-in: 'head' is no such place; there are p"),
    "key": (["list", "--user-key", "a b"], "--user-key: 'a b' is no key; it is a number, or lett"),
}


@pytest.mark.parametrize(("args", "message"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_what_a_command_cannot_mean(
    still: SimulatedService, tmp_path: Path, args: Args, message: str
) -> None:
    line = refused(still, tmp_path, args, here=True)
    assert line.startswith(f"g2a-archive: {message}")


def test_secrets_are_no_options(still: SimulatedService, tmp_path: Path) -> None:
    """A process list would show them; nor may the message repeat what was given."""
    line = refused(still, tmp_path, ["download", FIRST, "--token=SECRET123"])
    assert "SECRET123" not in line


OTHERS: list[Args] = [
    ["status"],
    ["verify"],
    ["verify", "--rebuild"],
    ["export", "--csv"],
    ["browse"],
    ["bag", "case", FIRST],
    ["remove", FIRST, "--yes"],
]


@pytest.mark.parametrize("dest", ["here", "here/below/it"])
def test_a_destination_that_is_a_file(still: SimulatedService, tmp_path: Path, dest: str) -> None:
    (tmp_path / "here").write_text("mine")
    line = refused(still, tmp_path, ["download", FIRST, "--dest", dest])
    where = "" if dest == "here" else f" cannot be a directory: {tmp_path}/here"
    said = f"the destination {tmp_path}/{dest}{where} is a file (choose another --dest)"
    assert line == f"g2a-archive: {said}"
    assert (tmp_path / "here").read_text() == "mine"
    assert refused(still, tmp_path, ["download", FIRST, "--dest", dest, "--dry-run"]) == line
    for args in OTHERS:
        assert refused(still, tmp_path, [*args, "--dest", dest], here=True) == line, args


def failed(
    service: SimulatedService, cwd: Path, args: Args, env: dict[str, str | None], code: int
) -> str:
    """The one line on stderr of a run that ended before its first request, and wrote nothing."""
    before, asked = tree(cwd), service.requests.count
    result = run_cli(args, environment(service, env), cwd=cwd)
    assert result.returncode == code, result.stderr
    assert (tree(cwd), service.requests.count) == (before, asked)
    assert report_of(result)["archived"] == 0
    (line,) = result.stderr.splitlines()
    return line[len("2026-11-23T02:00:05Z ") :]


INCOMPLETE: dict[str, tuple[dict[str, str | None], str]] = {
    "none": (
        {},
        "ERROR there are no credentials (set G2A_ARCHIVE_TOKEN or G2A_ARCHIVE_TOKEN_FILE; or, ",
    ),
    "an empty token": ({"G2A_ARCHIVE_TOKEN": ""}, "ERROR there are no credentials ("),
    "no grant": (
        {"G2A_ARCHIVE_CLIENT_ID": "c", "G2A_ARCHIVE_CLIENT_SECRET": "s"},
        "ERROR the credentials are incomplete (set a personal access token (",
    ),
    "no secret": (
        {"G2A_ARCHIVE_CLIENT_ID": "c", "G2A_ARCHIVE_PAT": "p"},
        "ERROR the credentials are incomplete (set the client secret (",
    ),
    "no client": (
        {"G2A_ARCHIVE_PAT": "p"},
        "ERROR the credentials are incomplete (set the client ID (G2A_ARCHIVE_CLIENT_ID) and "
        "the client secret (G2A_ARCHIVE_CLIENT_SECRET or _CLIENT_SECRET_FILE))",
    ),
    "no file": (
        {"G2A_ARCHIVE_TOKEN_FILE": "/nowhere/token"},
        "ERROR cannot read the access token in /nowhere/token: No such file or directory",
    ),
    "the token in its file's place": (
        {"G2A_ARCHIVE_TOKEN_FILE": "eyJhbGciOiJSUzUxMiJ9"},
        "ERROR cannot read the access token in … (20 characters): No such file or directory "
        "(is that the secret itself? Name a file that holds it)",
    ),
    "a long one": (
        {"G2A_ARCHIVE_TOKEN_FILE": "eyJh" * 250},
        "ERROR cannot read the access token in … (1,000 characters): File name too long (is th",
    ),
}


@pytest.mark.parametrize(("env", "message"), INCOMPLETE.values(), ids=INCOMPLETE)
@pytest.mark.parametrize("more", [[], ["--dry-run"]], ids=["", "dry"])
def test_without_credentials_nothing_is_created(
    still: SimulatedService,
    tmp_path: Path,
    env: dict[str, str | None],
    message: str,
    more: list[str],
) -> None:
    env = {"G2A_ARCHIVE_TOKEN": None, **env}
    args: Args = ["download", FIRST, "--dest", "a/b", "--json", *more]
    assert failed(still, tmp_path, args, env, 4).startswith(message)


def test_an_unknown_scheme(still: SimulatedService, tmp_path: Path) -> None:
    env: dict[str, str | None] = {"G2A_ARCHIVE_AUTH_SCHEME": "basic"}
    assert refused(still, tmp_path, ["download", FIRST], env) == (
        "g2a-archive: the authorization scheme 'basic' (environment) is not known "
        "(use bearer or oauth)"
    )


@pytest.mark.parametrize("made", [False, True], ids=["absent", "an empty mount point"])
def test_no_create(still: SimulatedService, tmp_path: Path, made: bool) -> None:
    if made:
        (tmp_path / "drive").mkdir()
    args: Args = ["download", FIRST, "--dest", "drive", "--no-create", "--json"]
    assert failed(still, tmp_path, args, {}, 6) == (
        f"ERROR {tmp_path}/drive is not an archive yet, and --no-create is set (is the drive "
        "mounted? For a new archive, run once without --no-create)"
    )


def test_no_create_goes_on_in_an_archive(service: SimulatedService, tmp_path: Path) -> None:
    for more in ([], ["--no-create"]):
        args: Args = ["download", FIRST + len(more), "--min-free", "0", "--json", *more]
        assert report_of(run_cli(args, service.environment(), cwd=tmp_path))["archived"] == 1


SIZES = {
    "0": 0, "1": 1, "500": 500, "1k": 1024, "500K": 512000, "10M": 10 << 20, "1.5G": 3 << 29,
    "1T": 1 << 40, "2 MB": 2 << 20, "2MiB": 2 << 20, "10M/s": 10 << 20, " 7 ": 7,
}  # fmt: skip


@pytest.mark.parametrize(("text", "count"), SIZES.items())
def test_sizes(text: str, count: int) -> None:
    assert values.parse_size(text) == count


@pytest.mark.parametrize(
    "text", ["", "K", "1KK", "1e9", "1,5G", "\u0661", "-1", "1.G", ".5G", "inf", "1 0", "0x1"]
)
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        values.parse_size(text)


DURATIONS = {
    "45s": 45,
    "90m": 5400,
    "6h": 21600,
    "2d": 172800,
    "1w": 604800,
    "30": 30,
    "1.5h": 5400,
}


@pytest.mark.parametrize(("text", "seconds"), DURATIONS.items())
def test_durations(text: str, seconds: float) -> None:
    assert values.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "1h30m", "-1s", "1y", "1e3", "inf", "nan", "\u0661s"])
def test_durations_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        values.parse_duration(text)


@pytest.mark.parametrize("command", ["download", "sync", "list", "login"])
@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_certificates_that_cannot_be_read(
    still: SimulatedService, tmp_path: Path, command: str, name: str
) -> None:
    more: dict[str, Args] = {"download": [FIRST], "login": []}
    args = more.get(command, ["--account-key", 1])
    env = {**still.environment(renewable=True), name: "/no/where.pem"}
    line = refused(still, tmp_path, [command, *args], env)
    assert line.startswith(f"g2a-archive: {name} names '/no/where.pem', which cannot be used: No")


@pytest.mark.parametrize("title", ["caf\udce9", "two\nlines", " ", "\x1b[31m"])
def test_a_title_that_is_not_some_words(
    still: SimulatedService, tmp_path: Path, title: str
) -> None:
    said = refused(still, tmp_path, ["browse", "--title", title])
    assert said == (
        "g2a-archive: --title: it must be some words on one line; see `g2a-archive browse --help`"
    )
