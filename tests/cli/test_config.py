"""Where a setting comes from: option, environment, configuration file, default."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import pytest
from support import clean_environment, cli_here, report_of, run_cli
from support import cli as cli_support
from support.cli import FIRST, Args, environment, refused

from g2a_archive.cli import values
from g2a_archive.cli.config import AUTH_KEYS, Config, auth_values
from g2a_archive.cli.options import option_names, run_options
from g2a_archive.cli.settings import ConfiguredCommand, Settings, settings_of
from g2a_archive.demo import SimulatedService
from g2a_archive.errors import ExitCode
from g2a_archive.models import ALL_KINDS, FileKind

still = cli_support.still

URL = "http://127.0.0.1:1/{}"
MP4, EVENTS = FileKind.MP4, FileKind.EVENTS

# Option, its name in the settings, default, and three values as they are given and as they are
# read: in the file, in the environment (its variable first, or None), as an option.
Row = tuple[str, str, Any, tuple[str, Any], tuple[str, str, Any] | None, tuple[str, Any]]
SOURCES: list[Row] = [
    ("dest", "dest", "recordings", ("'f'", "f"), ("DEST", "e", "e"), ("o", "o")),
    ("jobs", "jobs", 8, ("3", 3), ("JOBS", "4", 4), ("5", 5)),
    ("segments", "segments", 8, ("3", 3), None, ("5", 5)),
    ("only", "kinds", ALL_KINDS, ("'mp4'", (MP4,)), None, ("events, mp4", (MP4, EVENTS))),
    ("layout", "layout", "%Y/%m/%d", ("'%Y'", "%Y"), ("LAYOUT", "%m", "%m"), ("%d", "%d")),
    ("timezone", "timezone", None, ("'UTC'", "UTC"), ("TIMEZONE", "Asia/Tokyo", "Asia/Tokyo"),
     ("Europe/Berlin", "Europe/Berlin")),
    ("limit_rate", "limit_rate", None, ("'1K'", 1024), ("LIMIT_RATE", "2K", 2048), ("3K", 3072)),
    ("retries", "retries", 5, ("1", 1), None, ("3", 3)),
    ("timeout", "timeout", 60.0, ("1.5", 1.5), ("TIMEOUT", "2", 2.0), ("3.5", 3.5)),
    ("max_duration", "max_duration", None, ("'1h'", 3600.0), None, ("2m", 120.0)),
    ("min_free", "min_free", 1 << 30, ("0", 0), None, ("1M", 1 << 20)),
    ("shard", "shard", None, ("'1/2'", {"number": 1, "count": 2}),
     ("SHARD", "1/3", {"number": 1, "count": 3}), ("4/4", {"number": 4, "count": 4})),
    ("catalog", "catalog", None, ("'f'", "f"), ("CATALOG", "e", "e"), ("o", "o")),
    ("api_url", "api_url", "https://api.getgo.com/G2A/rest/v1",
     (f"'{URL.format('f')}'", URL.format("f")),
     ("API_URL", URL.format("e"), URL.format("e")), (URL.format("o"), URL.format("o"))),
    ("id_attribute", "id_attribute", "recordingIds", ("'f'", "f"), None, ("o", "o")),
    ("error_file", "error_file", None, ("'f'", "f"), None, ("o", "o")),
    ("metrics_file", "metrics_file", None, ("'f'", "f"), None, ("o", "o")),
    ("log_file", "log_file", None, ("'f'", "f"), None, ("o", "o")),
]  # fmt: skip

FLAGS = ["dry_run", "no_create", "set_mtime", "ignore_size", "json", "quiet"]


def parsed(
    args: list[str], env: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """The settings of a run with these arguments, in this environment and no other."""
    found: list[Settings] = []

    @click.command(cls=ConfiguredCommand)
    @run_options
    @click.pass_context
    def probe(ctx: click.Context, /, **_: Any) -> None:
        found.append(settings_of(ctx))

    with monkeypatch.context() as patch:
        for name in ("DEST", "JOBS", "LAYOUT", "TIMEZONE", "LIMIT_RATE", "TIMEOUT", "CATALOG"):
            patch.delenv(f"G2A_ARCHIVE_{name}", raising=False)
        for name, value in {**clean_environment(), **env}.items():
            patch.setenv(name, value)
        probe.main(args, standalone_mode=False)
    (settings,) = found
    values = asdict(settings)
    return {**values, **values.pop("run")}


@pytest.mark.parametrize("row", SOURCES, ids=[row[0] for row in SOURCES])
def test_option_beats_environment_beats_file_beats_default(
    row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, field, default, (in_file, from_file), variable, (given, from_option) = row
    config = tmp_path / "config.toml"
    config.write_text(f"{name} = {in_file}\n")
    file = ["--config", str(config)]
    env: dict[str, str] = {}
    assert parsed([], env, monkeypatch)[field] == default
    assert parsed(file, env, monkeypatch)[field] == from_file
    if variable is not None:
        env[f"G2A_ARCHIVE_{variable[0]}"] = variable[1]
        assert parsed(file, env, monkeypatch)[field] == variable[2]
    option = f"--{name.replace('_', '-')}={given}"
    assert parsed([*file, option], env, monkeypatch)[field] == from_option
    assert len({str(v) for v in (default, from_file, from_option)}) == 3


@pytest.mark.parametrize("flag", FLAGS)
def test_flags(flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f"{flag} = true\n")
    assert parsed([], {}, monkeypatch)[flag] is False
    assert parsed(["--config", str(config)], {}, monkeypatch)[flag] is True
    assert parsed([f"--{flag.replace('_', '-')}"], {}, monkeypatch)[flag] is True


def test_verbosity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config.toml"
    config.write_text("verbose = 2\n")
    assert parsed([], {}, monkeypatch)["verbosity"] == 0
    assert parsed(["--config", str(config)], {}, monkeypatch)["verbosity"] == 2
    assert parsed(["--config", str(config), "-v"], {}, monkeypatch)["verbosity"] == 1
    config.write_text("verbose = true\n")
    assert parsed(["--config", str(config)], {}, monkeypatch)["verbosity"] == 1
    assert parsed(["-vv"], {}, monkeypatch)["verbosity"] == 2


def test_every_option_is_in_a_table() -> None:
    """An option that comes later cannot be forgotten here; the variables are the design's."""

    @run_options
    def probe() -> None: ...

    known = option_names()
    options = {p.name: p for p in click.command(probe).params if p.name in known}
    assert set(options) == {row[0] for row in SOURCES} | {*FLAGS, "verbose"}
    variables = {name: option.envvar for name, option in options.items() if option.envvar}
    assert variables == {row[0]: f"G2A_ARCHIVE_{row[4][0]}" for row in SOURCES if row[4]}


def test_owed_in_the_file_is_a_run_s_alone(service: SimulatedService, tmp_path: Path) -> None:
    """It makes a run try again what is owed; what `status --owed` shows is another matter."""
    env, args = service.environment(), ["--config", "c.toml", "--dest", "archive"]
    (tmp_path / "c.toml").write_text("owed = true\n")
    service.set_state(FIRST, "transcode")
    assert run_cli(["download", FIRST, *args], env, cwd=tmp_path).returncode == 3
    service.set_state(FIRST, "ready")
    status = run_cli(["status", *args], env, cwd=tmp_path)
    assert "Owed           1 recording" in status.stdout
    assert run_cli(["download", *args], env, cwd=tmp_path).returncode == 0
    assert "Archived       1 recording" in run_cli(["status", *args], env, cwd=tmp_path).stdout


def test_other_toml_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        'only = ["thumbnail", "mp4"]\njobs = "7"\nlimit_rate = 5000\nmin_free = "1K"\n'
    )
    values = parsed(["--config", str(config)], {}, monkeypatch)
    assert values["kinds"] == (FileKind.MP4, FileKind.THUMBNAIL)
    assert (values["jobs"], values["limit_rate"], values["min_free"]) == (7, 5000, 1024)


@pytest.mark.parametrize(
    ("args", "quiet"), [([], True), (["-v"], False), (["-v", "-q"], True), (["-q"], True)]
)
def test_an_option_beats_a_file_that_says_the_opposite(
    args: list[str], quiet: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.toml"
    config.write_text("quiet = true\n")
    assert parsed(["--config", str(config), *args], {}, monkeypatch)["quiet"] is quiet


PROFILES = """
jobs = 2
layout = "%Y"

[auth]
token = "common"

[profiles.acme]
jobs = 3
[profiles.acme.auth]
client_id = "acme"
client_secret = "secret"
pat = "pat"

[profiles.umbrella]
layout = "%m"
"""


def test_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.toml"
    path.write_text(PROFILES)
    base = ["--config", str(path)]

    def seen(args: list[str], env: Mapping[str, str]) -> tuple[Any, ...]:
        values = parsed([*base, *args], env, monkeypatch)
        return values["jobs"], values["layout"], values["config"]["auth"]

    acme = {"client_id": "acme", "client_secret": "secret", "pat": "pat"}
    by_env = {"G2A_ARCHIVE_PROFILE": "umbrella"}
    assert seen([], {}) == (2, "%Y", {"token": "common"})
    assert seen(["--profile", "acme"], {}) == (3, "%Y", acme)
    assert seen([], by_env) == (2, "%m", {"token": "common"})
    assert seen(["--profile", "acme"], by_env) == (3, "%Y", acme)


@pytest.mark.parametrize(
    ("of_profile", "left"),
    [
        ("scheme = 'oauth'", {"client_id", "client_secret", "token_url", "pat", "scheme"}),
        ("pat_file = 'f'", {"client_id", "client_secret", "token_url", "pat_file"}),
        ("client_secret_file = 'f'", {"client_id", "client_secret_file", "token_url", "pat"}),
        ("client_id = 'other'", {"client_id", "token_url"}),
        ("", {"client_id", "client_secret", "token_url", "pat"}),
    ],
)
def test_a_profile_replaces_what_it_names_and_what_belongs_to_that(
    of_profile: str, left: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = "client_id = 'c'\nclient_secret = 's'\ntoken_url = 'u'\npat = 'p'\n"
    path = tmp_path / "config.toml"
    path.write_text(f"[auth]\n{common}[profiles.a.auth]\n{of_profile}\n")
    values = parsed(["--config", str(path), "--profile", "a"], {}, monkeypatch)
    assert values["config"]["auth"].keys() == left


def test_the_usual_place_and_the_variable_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "g2a-archive").mkdir()
    (tmp_path / "g2a-archive" / "config.toml").write_text("jobs = 11\n")
    (tmp_path / "other.toml").write_text("jobs = 12\n")
    (tmp_path / "third.toml").write_text("jobs = 13\n")
    env = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert parsed([], env, monkeypatch)["jobs"] == 11
    env["G2A_ARCHIVE_CONFIG"] = str(tmp_path / "other.toml")
    assert parsed([], env, monkeypatch)["jobs"] == 12
    third = ["--config", str(tmp_path / "third.toml")]
    assert parsed(third, env, monkeypatch)["jobs"] == 13


def test_a_home_directory(
    service: SimulatedService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither cron nor TOML reads `~`, and shells do not behind `--dest=`."""
    (tmp_path / "mine.toml").write_text('dest = "~/there"\n[auth]\ntoken_file = "~/token"\n')
    (tmp_path / "token").write_text(service.token)
    (tmp_path / "token").chmod(0o600)
    env = {name: value for name, value in service.environment().items() if "TOKEN" not in name}
    env |= {"HOME": str(tmp_path), "G2A_ARCHIVE_CONFIG": "~/mine.toml"}
    (tmp_path / "here").mkdir()
    for more in ([], ["--dest=~/elsewhere", "--error-file=~/errors"]):
        result = run_cli(["download", FIRST, *more], env, cwd=tmp_path / "here")
        assert result.returncode == 0, result.stderr
    names = {"here", "there", "elsewhere", "errors", "mine.toml", "token"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert not list((tmp_path / "here").iterdir())


def test_no_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "~")
    with pytest.raises(ValueError, match=r"'~/a': this user has no home directory; write the "):
        values.path("~/a")
    assert values.path("~stranger/a") == "~stranger/a"  # a directory of that name


BROKEN: dict[str, tuple[str, str]] = {
    "no TOML": ("jobs = \n", "the configuration file c.toml is not TOML: Invalid value ("),
    "no text": ("caf\udce9 = 1\n", "the configuration file c.toml is not TOML: 'utf-8' codec"),
    "too long": (f"jobs = {'9' * 5000}", "the configuration file c.toml is not TOML: Exceeds the"),
    "too large": ("#" * (1 << 20) + "\n", "c.toml is too large for a configuration file (check --"),
    "a token as scheme": (
        '[auth]\nscheme = "Bearer S3CRET-0123456789"\n',
        "the authorization scheme … (24 characters) (file c.toml) is not known (use bearer or o",
    ),
    "without end": (f"a = {'[' * 5000}{']' * 5000}", "the configuration file c.toml is not TOML: "),
    "unknown key": ("joobs = 3\n", "c.toml: unknown key `joobs`; did you mean `jobs`?"),
    "dashes": ("error-file = 'x'\n", "c.toml: unknown key `error-file`; did you mean `error_f"),
    "far from all": ("bad = 3\n", "c.toml: unknown key `bad`"),
    "a command's own": ("again = true\n", "c.toml: unknown key `again`"),
    "a table": ("[profile.a]\njobs = 3\n", "c.toml: unknown key `profile`; did you mean `prof"),
    "outside of auth": ("pat = 'S3CRET'\n", "c.toml: unknown key `pat`; did you mean `auth.pat`?"),
    "unknown in auth": (
        "[auth]\ntokn = 'S3CRET'\n", "c.toml: unknown key `auth.tokn`; did you mean `token`?"
    ),
    "unknown in a profile": (
        "[profiles.a]\nlayuot = '%Y'\n",
        "c.toml: unknown key `profiles.a.layuot`; did you mean `layout`?",
    ),
    "unknown in a profile's auth": (
        "[profiles.a.auth]\npta = 'S3CRET'\n",
        "c.toml: unknown key `profiles.a.auth.pta`; did you mean `pat`?",
    ),
    "auth is no table": ("auth = 'S3CRET'\n", "c.toml: `auth` must be a table, [auth]"),
    "auth is no text": ("[auth]\ntoken = 5\n", "c.toml: `auth.token` must be a text in quotes"),
    "profiles is no table": ("profiles = 3\n", "c.toml: `profiles` must be tables such as ["),
    "a profile is no table": ("[profiles]\na = 3\n", "c.toml: `profiles` must be tables such as ["),
    "a number for a path": (
        "dest = 5\n", "--dest: 5 should be a text in quotes (from the configuration file c.toml)"
    ),
    "a list for a path": ("dest = ['a']\n", "--dest: ['a'] should be a text in quotes (from the"),
    "a text for a flag": ("json = 'yes'\n", "--json: 'yes' should be true or false (from the"),
    "a flag for a number": (
        "jobs = true\n", "--jobs: True should be a text in quotes or a whole number (from the"
    ),
    "a table for a number": ("[jobs]\nx = 1\n", "--jobs: {'x': 1} should be a text in quotes or a"),
    "a fraction": ("jobs = 1.5\n", "--jobs: 1.5 should be a text in quotes or a whole number"),
    "out of range": ("jobs = 0\n", "--jobs: '0' is not a whole number from 1 to 64 (from the"),
    "a time": ("max_duration = 2026-01-01\n", "--max-duration: datetime.date(2026, 1, 1) sh"),
    "NUL": ('dest = "a\\u0000b"\n', "--dest: it must not hold a NUL (from the configuration file"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), BROKEN.values(), ids=BROKEN)
def test_a_bad_file(still: SimulatedService, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.toml").write_text(text, errors="surrogateescape")
    line = refused(still, tmp_path, ["download", FIRST, "--config", "c.toml"])
    assert line.startswith(f"g2a-archive: {message}")
    assert ("did you mean" in line) == ("did you mean" in message)
    assert "S3CRET" not in line


ABSENT: dict[str, tuple[Args, dict[str, str | None], str]] = {
    "option": (["--config", "no.toml"], {}, "there is no configuration file no.toml (check --c"),
    "variable": ([], {"G2A_ARCHIVE_CONFIG": "no.toml"}, "there is no configuration file no.toml ("),
    "directory": (["--config", "."], {}, "cannot read the configuration file .: Is a directory ("),
    "endless": (["--config", "/dev/zero"], {}, "/dev/zero is too large for a configuration fi"),
    "profile without file": (["--profile", "x"], {}, "there is no configuration file /"),
    "unknown profile": (
        ["--config", "c.toml", "--profile", "amce"], {},
        "c.toml has no profile 'amce'; did you mean `acme`? (check --profile or G2A_",
    ),
    "unknown profile by variable": (
        ["--config", "c.toml"], {"G2A_ARCHIVE_PROFILE": "zzz"},
        "c.toml has no profile 'zzz' (check --profile or G2A_ARCHIVE_PROFILE)",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("args", "env", "message"), ABSENT.values(), ids=ABSENT)
def test_a_file_or_profile_that_is_not_there(
    still: SimulatedService,
    tmp_path: Path,
    args: Args,
    env: dict[str, str | None],
    message: str,
) -> None:
    (tmp_path / "c.toml").write_text("[profiles.acme]\njobs = 1\n")
    line = refused(still, tmp_path, ["download", FIRST, *args], env)
    assert line.startswith(f"g2a-archive: {message}")


def test_a_bad_variable_is_named(still: SimulatedService, tmp_path: Path) -> None:
    env: dict[str, str | None] = {"G2A_ARCHIVE_JOBS": "many"}
    assert refused(still, tmp_path, ["download", FIRST], env) == (
        "g2a-archive: --jobs: 'many' is not a whole number from 1 to 64 (from the environment "
        "variable G2A_ARCHIVE_JOBS); see `g2a-archive download --help`"
    )


@pytest.mark.parametrize("key", AUTH_KEYS)
def test_every_credential_comes_from_environment_or_file(key: str) -> None:
    name = "AUTH_SCHEME" if key == "scheme" else key.upper()
    config = Config(Path("c.toml"), None, {}, {key: "oauth"})
    assert auth_values(config, {}) == {key: ("oauth", "file c.toml")}
    env = {f"G2A_ARCHIVE_{name}": "bearer"}
    assert auth_values(config, env) == {key: ("bearer", "environment")}
    assert auth_values(Config(), env) == {key: ("bearer", "environment")}
    assert auth_values(config, {f"G2A_ARCHIVE_{name}": ""}) == auth_values(config, {})


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("client_secret_file", "client_secret"), ("client_secret", "client_secret_file")],
)
def test_a_client_secret_in_the_environment_replaces_the_file_s(ours: str, theirs: str) -> None:
    config = Config(Path("c.toml"), None, {}, {"client_id": "c", theirs: "old"})
    values = auth_values(config, {f"G2A_ARCHIVE_{ours.upper()}": "new"})
    assert values == {"client_id": ("c", "file c.toml"), ours: ("new", "environment")}


def test_a_run_with_everything_in_the_file(service: SimulatedService, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(
        f"""
        dest = "archive"
        layout = "%Y"
        only = ["mp4"]
        api_url = "{service.api_url}"
        min_free = 0
        json = true
        [auth]
        token = "{service.token}"
        """
    )
    nothing = dict.fromkeys(service.environment())
    args: Args = ["download", FIRST, "--config", "c.toml"]
    result = run_cli(args, environment(service, nothing), cwd=tmp_path)
    assert report_of(result)["files"] == 1
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.mp4")] == [
        f"archive/2013/{FIRST}.mp4"
    ]


def test_show_masks_what_is_secret(tmp_path: Path) -> None:
    """Of the token endpoint's address, too, where somebody has put one into it."""
    file = tmp_path / "config.toml"
    file.write_text(
        '[auth]\nclient_id = "mine"\nclient_secret = "hidden-1"\npat = "hidden-2"\n'
        'token_url = "https://user:hidden-3@host/token"\n'
    )
    for env in ({}, {"G2A_ARCHIVE_TOKEN_URL": "https://host/?key=hidden-4"}):
        result = cli_here(["config", "show", "--config", file], env)
        assert result.returncode == 0
        assert "hidden" not in result.stdout + result.stderr
        assert result.stdout.count('"********"') == 3
        assert 'client_id = "mine"' in result.stdout
    # A secret where its file should be named; a file is named as it is.
    files = {"G2A_ARCHIVE_PAT_FILE": "hidden-5-0123456789", "G2A_ARCHIVE_CLIENT_SECRET_FILE": "s"}
    shown = cli_here(["config", "show"], files).stdout
    assert 'client_secret_file = "s"' in shown
    assert 'pat_file = "********"' in shown
    result = cli_here(
        ["config", "show"], {"G2A_ARCHIVE_TOKEN": "hidden", "G2A_ARCHIVE_TOKEN_URL": "https://h/t"}
    )
    assert "hidden" not in result.stdout
    assert 'token_url = "https://h/t"  # environment' in result.stdout


def test_show_tells_what_is_in_force_of_every_command(tmp_path: Path) -> None:
    """Of `sync` the variables, too, which beat the file."""
    file = tmp_path / "config.toml"
    file.write_text('account_key = "1"\nuser_key = ["2", "3"]\nwait = "1h"\nverbose = 2\n')
    env = {"G2A_ARCHIVE_ACCOUNT_KEY": "4"}
    lines = cli_here(["config", "show", "--config", file, "--transcode"], env).stdout.splitlines()
    assert {
        'account_key = ["4"]  # environment',
        f'user_key = ["2", "3"]  # file {file}',
        f"wait = 3600.0  # file {file}",
        f"verbose = 2  # file {file}",
        "transcode = true  # option",
        "mark_archived = false  # default",
        "owed = false  # default",
        'ids_in = "path"  # default',
        "# company_id is not set",
    } <= set(lines)


def test_what_show_prints_can_stand_in_a_file(tmp_path: Path) -> None:
    first, second = tmp_path / "first.toml", tmp_path / "second.toml"
    first.write_text(
        'account_key = ["1", "2"]\nsession_type = "attended"\nonly = "mp4,events"\nshard = "2/8"\n'
        'limit_rate = "1.5G"\nmax_duration = "6h"\ntimeout = 9.5\n'
        'dest = "a \\\\ \\" b"\nverbose = 1\n'
    )
    shown = [cli_here(["config", "show", "--config", first]).stdout]
    second.write_text(shown[0])
    shown.append(cli_here(["config", "show", "--config", second]).stdout)
    settings = [[line.partition("  # ")[0] for line in text.splitlines()[1:]] for text in shown]
    assert settings[0] == settings[1]
    assert {'session_type = "attended"', 'only = ["mp4", "events"]'} <= set(settings[0])


@pytest.mark.parametrize("name", ["dest", "layout", "log_file"])
def test_a_name_that_this_locale_cannot_write(
    name: str, service: SimulatedService, tmp_path: Path
) -> None:
    """The file is UTF-8 in every locale; names of files are not."""
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    asked = "import sys; sys.exit(sys.getfilesystemencoding() == 'utf-8')"
    if subprocess.run([sys.executable, "-c", asked], env=ascii_only).returncode:
        pytest.skip("file names are UTF-8 in every locale here")
    (tmp_path / "config.toml").write_text(f'{name} = "Räume"', encoding="utf-8")
    args: Args = ["download", "--config", tmp_path / "config.toml", *service.recordings]
    result = run_cli(args, {**service.environment(), **ascii_only}, cwd=tmp_path)
    assert result.returncode == ExitCode.USAGE
    assert result.stderr.count("\n") == 1
    assert "cannot be written in this locale (ascii); set LC_ALL=C.UTF-8" in result.stderr
    assert service.requests.count == 0
    assert [file.name for file in tmp_path.iterdir()] == ["config.toml"]
