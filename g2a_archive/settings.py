"""Options, environment and configuration file, parsed once into one frozen object.

An option beats the environment, which beats the configuration file, which beats the default.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from g2a_archive import units, values
from g2a_archive.config import ENV, Config, load_config
from g2a_archive.errors import ArchiverError, InputError
from g2a_archive.models import ALL_KINDS, RunSettings, Selection, SyncSettings

_F = TypeVar("_F", bound=Callable[..., Any])
_Option = Callable[[Any], Any]

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:  # generic only in later versions of click
    _ParamType = click.ParamType

NOT_IN_FILE = {"config", "profile", "help", "ids", "files", "owed", "show", "what"}
NOT_IN_FILE |= {"since", "until", "archived", "full"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What one invocation was told. `run` is for the run itself, the rest for what is said."""

    run: RunSettings
    config: Config = field(default_factory=Config)
    json: bool = False
    error_file: str | None = None
    metrics_file: str | None = None
    log_file: str | None = None
    verbosity: int = 0
    quiet: bool = False


def app_dir() -> Path:
    """The directory of the configuration file and of a stored sign-in."""
    return Path(click.get_app_dir("g2a-archive"))


_TOML_TYPES = {
    str: "a text in quotes",
    int: "a whole number",
    float: "a number",
    list: "a list of texts",
}


class _Parsed(_ParamType):
    """A value that a plain function reads; its `ValueError` or `InputError` is the message."""

    def __init__(self, name: str, read: Callable[[str], Any], *also: type) -> None:
        self.name = name
        self._read = read
        self._types = (str, *also)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        # Only a configuration file has anything but text.
        if isinstance(value, bool) or not isinstance(value, self._types):
            wanted = " or ".join(_TOML_TYPES[type_] for type_ in self._types)
            self.fail(f"{value!r} should be {wanted}", param, ctx)
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        try:
            return self._read(text)
        except (ValueError, ArchiverError) as error:
            self.fail(str(error), param, ctx)


class _Flag(click.types.BoolParamType):
    """On or off: true or false in a configuration file."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, bool):
            self.fail(f"{value!r} should be true or false", param, ctx)
        return value


def _option(*names: str, env: str | None = None, **more: Any) -> _Option:
    if env is not None:
        more |= {"envvar": ENV + env, "show_envvar": True}
    if more.get("is_flag"):
        more["type"] = _Flag()
    elif "count" not in more:
        more.setdefault("type", _Parsed("text", values.text))
    return click.option(*names, **more)


_DEST = _option(
    "-d", "--dest", metavar="DIR", env="DEST", help="The archive.  [default: recordings]"
)
_CATALOG = _option(
    "--catalog",
    metavar="FILE",
    env="CATALOG",
    help="Keep the catalogue elsewhere than in the archive, on a local disk for example.",
)
_TIMEZONE = _option(
    "--timezone",
    metavar="NAME",
    env="TIMEZONE",
    type=_Parsed("name", values.zone_name),
    help="Time zone for the date directories.  [default: as written in recordingStartTime]",
)
_CONFIG = [
    _option("--config", metavar="FILE", env="CONFIG", help="Configuration file (TOML)."),
    _option("--profile", metavar="NAME", env="PROFILE", help="A [profiles.NAME] of that file."),
]
_LOG = [
    _option("--log-file", metavar="FILE", help="Append log lines to a file, too."),
    _option(
        "-v",
        "--verbose",
        count=True,
        type=_Parsed("number", values.whole(0, 9), int),
        help="A line for each file; twice: for debugging.",
    ),
    _option("-q", "--quiet", is_flag=True, help="Nothing at all unless something failed."),
]
_SERVICE = [
    _option(
        "--retries",
        metavar="N",
        type=_Parsed("number", values.whole(0, 1000), int),
        help="Retries of a file or a call that brought nothing new.  [default: 5]",
    ),
    _option(
        "--timeout",
        metavar="SECONDS",
        env="TIMEOUT",
        type=_Parsed("seconds", values.timeout, int, float),
        help="To connect, and without a byte.  [default: 60]",
    ),
    _option(
        "--api-url",
        metavar="URL",
        env="API_URL",
        type=_Parsed("url", values.service_url),
        help="Base address of the service.  [default: https://api.getgo.com/G2A/rest/v1]",
    ),
]
_ATTRIBUTE = _option(
    "--id-attribute",
    metavar="NAME",
    type=_Parsed("name", values.attribute),
    help="Name of the link call's query attribute.  [default: recordingIds]",
)
_TIME_LIMIT = _option(
    "--max-duration",
    metavar="TIME",
    type=_Parsed("time", units.parse_duration, int, float),
    help="Stop tidily after 45s, 90m, 6h or 2d (exit 8); the next run goes on.",
)
_JSON = _option("--json", is_flag=True, help="The report on stdout as one JSON object.")
_RUN = [
    _DEST,
    _option(
        "-j",
        "--jobs",
        metavar="N",
        env="JOBS",
        type=_Parsed("number", values.whole(1, 64), int),
        help="Files downloaded at a time, 1 to 64.  [default: 8]",
    ),
    _option(
        "--segments",
        metavar="N",
        type=_Parsed("number", values.whole(1, 16), int),
        help="Connections for one large file when nothing else is left, 1 to 16.  [default: 8]",
    ),
    _option(
        "--only",
        metavar="KINDS",
        type=_Parsed("kinds", values.kinds, list),
        help="Of mp4,events,thumbnail only these.  [default: all three]",
    ),
    _option(
        "--layout",
        metavar="STRFTIME",
        env="LAYOUT",
        type=_Parsed("strftime", values.layout_text),
        help="Directory for a recording's start.  [default: %Y/%m/%d]",
    ),
    _TIMEZONE,
    _option(
        "--limit-rate",
        metavar="RATE",
        env="LIMIT_RATE",
        type=_Parsed("rate", units.parse_rate, int),
        help="Bytes a second of the whole run: 500K, 10M, 1.5G.",
    ),
    _TIME_LIMIT,
    _option(
        "--min-free",
        metavar="SIZE",
        type=_Parsed("size", units.parse_size, int),
        help="Stop before the disk falls below this.  [default: 1G]",
    ),
    _option("--dry-run", is_flag=True, help="Ask for links, say what would be fetched."),
    _option("--no-create", is_flag=True, help="Refuse a destination that is no archive yet."),
    _CATALOG,
    _option("--set-mtime", is_flag=True, help="Give files the recording's start time."),
    _JSON,
    _option(
        "--error-file",
        metavar="FILE",
        help="The IDs that did not get archived, with reasons, ready for -f.",
    ),
    _option("--metrics-file", metavar="FILE", help="Prometheus text format, for node_exporter."),
    *_LOG,
    *_SERVICE,
    _ATTRIBUTE,
    *_CONFIG,
]


_LOGIN = [
    _option(
        "--authorize-url",
        metavar="URL",
        default="https://authentication.logmeininc.com/oauth/authorize",
        type=_Parsed("url", values.service_url),
        help="Where a person signs in.",
    ),
    _option(
        "--redirect-uri",
        metavar="URL",
        default="http://127.0.0.1:47113/",
        show_default=True,
        type=_Parsed("url", values.service_url),
        help="Where the browser comes back to, as registered for the client.",
    ),
    _option("--paste", is_flag=True, help="Paste the address instead: no browser on this machine."),
]
_DEMO = [
    _option(
        "-d", "--dest", metavar="DIR", help="The archive.  [default: a fresh g2a-archive-demo]"
    ),
    _option("--serve", is_flag=True, help="Only run the simulated service, until Ctrl-C."),
    _option("--port", type=click.IntRange(0, 65535), default=0, help="For --serve; 0: any free."),
    _option(
        "--count", type=click.IntRange(1, 100_000), default=40, help="For --serve: recordings."
    ),
    _JSON,
    *_LOG,
]

_ARCHIVE = [_DEST, _CATALOG, *_CONFIG]
_STATUS = [
    _option("--by", type=click.Choice(["year", "month", "day"]), help="Counts for each of these."),
    _option("--owed", is_flag=True, help="A line for each recording that is owed."),
    _option("--json", "form", flag_value="json", help="As JSON."),
    _option("--csv", "form", flag_value="csv", help="As CSV."),
    _option("--text", "form", flag_value="text", default="text", hidden=True),
]
_EXPORT = [
    _option("--csv", "form", flag_value="csv", help="A row a recording; IDs as text."),
    _option("--json", "form", flag_value="json", help="An array of objects; IDs as text."),
    _option("-o", "--output", metavar="FILE", help="Replace this file.  [default: stdout]"),
]
_BROWSE = [
    _option("--title", default="GoToAssist recordings", show_default=True, help="Of the pages."),
    _option("--open", "open_", is_flag=True, help="Open them in a browser, too."),
    _TIMEZONE,
]
_VERIFY = [
    _option(
        "--since",
        metavar="DATE",
        type=_Parsed("date", units.parse_moment),
        help="Only what was recorded or archived since.",
    ),
    _option(
        "--sample",
        metavar="PERCENT",
        type=_Parsed("percent", units.parse_share),
        default="100%",
        help="Only a part, another each day: 5%.",
    ),
    _option("--oldest-first", is_flag=True, help="Begin with what was checked longest ago."),
    _option("--readers", metavar="N", type=click.IntRange(1, 64), help="Files read at a time."),
    _option("--rebuild", is_flag=True, help="Bring a lost catalogue back from the files."),
    _TIME_LIMIT,
    _JSON,
    *_LOG,
]
_SELECTION = [
    *(
        _option(
            f"--{name}",
            metavar="KEY",
            multiple=True,
            env=name.upper().replace("-", "_"),
            type=_Parsed("key", values.key, int),
            help=text,
        )
        for name, text in (
            ("account-key", "The recordings of this account; may be repeated."),
            ("user-key", "Those of this user; may be repeated."),
            ("company-id", "Those of this company; may be repeated."),
        )
    ),
    _option(
        "--session-type",
        metavar="TYPE",
        type=_Parsed("type", values.session_type),
        help="Only attended or unattended sessions.",
    ),
    _option(
        "--since",
        metavar="WHEN",
        type=_Parsed("when", units.parse_when),
        help="Started at or after a date, a time (UTC) or an age such as 30d.",
    ),
    _option(
        "--until",
        metavar="WHEN",
        type=_Parsed("when", units.parse_when),
        help="Started before, likewise.",
    ),
    _option(
        "--archived/--not-archived",
        is_flag=True,
        help="Those that are marked as archived on the service, or those that are not (default).",
    ),
]
_LIST = [
    *_SELECTION,
    _option(
        "--state",
        metavar="STATE",
        default="download",
        type=_Parsed("state", values.list_state),
        help="What is ready for: download (default), transcode, or all.",
    ),
    _option("--json", is_flag=True, help="One JSON object on stdout."),
    *_SERVICE,
    *_LOG,
    *_CONFIG,
]
_SYNC = [
    *_SELECTION,
    _option("--full", is_flag=True, help="Look at all times again, not only where there is news."),
    _option("--transcode", is_flag=True, help="Ask the service to transcode what is to be."),
    _option(
        "--wait",
        metavar="TIME",
        type=_Parsed("time", units.parse_duration, int, float),
        help="With --transcode: wait so long for what becomes ready.",
    ),
    _option(
        "--mark-archived",
        is_flag=True,
        help="Mark on the service what is archived whole; then it is no longer listed.",
    ),
    _option(
        "--give-up-after",
        metavar="TIME",
        type=_Parsed("time", units.parse_duration, int, float),
        help="Call lost what has been owed for longer (exit 1).",
    ),
    *_RUN,
]


def _all(options: Sequence[_Option]) -> Callable[[_F], _F]:
    def decorate(command: _F) -> _F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


run_options = _all(_RUN)
"""Every option of a run: `download` and `sync`."""

status_options = _all([*_STATUS, *_ARCHIVE])
"""For `status`."""

export_options = _all([*_EXPORT, *_ARCHIVE])
"""For `export`."""

browse_options = _all([*_BROWSE, *_ARCHIVE])
"""For `browse`."""

verify_options = _all([*_VERIFY, *_ARCHIVE])
"""For `verify`."""

list_options = _all(_LIST)
"""For `list`."""

sync_options = _all(_SYNC)
"""For `sync`: every option of a run, and its own."""

service_options = _all([*_SERVICE, *_LOG, *_CONFIG])
"""For commands that only talk to the service."""

login_options = _all(_LOGIN)
"""For `login`, beside the service's."""

demo_options = _all(_DEMO)
"""For `demo`."""


def option_names() -> dict[str, click.Option]:
    """Every option that a configuration file may hold, by its name with underscores."""

    @_all(_SYNC)
    def probe() -> None: ...

    command = click.command("probe")(probe)
    return {
        p.name: p
        for p in command.params
        if isinstance(p, click.Option) and p.name and p.name not in NOT_IN_FILE
    }


class ConfiguredCommand(click.Command):
    """A command whose defaults come from the configuration file."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the configuration file that the arguments or the environment name, first."""
        try:
            given, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        except click.UsageError:
            given = {}  # told below, better
        if not (ctx.resilient_parsing or {"help"} & {k for k, v in given.items() if v}):
            config = find_config(given.get("config"), given.get("profile"))
            own = {param.name: getattr(param, "multiple", False) for param in self.params}
            ctx.default_map = {
                k: [v] if own[k] and not isinstance(v, list) else v
                for k, v in config.options.items()
                if k in own
            }
            ctx.obj = config
        return super().parse_args(ctx, args)


def find_config(path: str | None, profile: str | None) -> Config:
    """The configuration in force: an option, the environment, or the usual place."""
    named = path or os.environ.get(f"{ENV}CONFIG")
    return load_config(
        Path(named) if named else app_dir() / "config.toml",
        required=named is not None,
        profile=profile or os.environ.get(f"{ENV}PROFILE") or None,
        known=option_names(),
    )


def settings_of(ctx: click.Context) -> Settings:
    """The frozen settings of a command that has (some of) the run's options."""
    given = {name: value for name, value in ctx.params.items() if value is not None}
    if "only" in given:
        given["kinds"] = given.pop("only")
    names = {f.name for f in fields(RunSettings)}
    run = RunSettings(**{name: value for name, value in given.items() if name in names})
    rest = {f.name for f in fields(Settings)} - {"run", "config", "verbosity"}
    return Settings(
        run=run,
        config=ctx.obj if isinstance(ctx.obj, Config) else Config(),
        verbosity=given.get("verbose", 0),
        **{name: value for name, value in given.items() if name in rest},
    )


def selection_of(ctx: click.Context) -> Selection:
    """Which recordings `list` or `sync` is about. Raises `InputError`."""
    names = {f.name for f in fields(Selection)}
    given = {k: v for k, v in ctx.params.items() if k in names and v is not None}
    for name in ("account_key", "user_key", "company_id"):
        given[f"{name}s"] = ctx.params[name]
    chosen = Selection(**given)
    if not (chosen.account_keys or chosen.user_keys or chosen.company_ids):
        raise InputError(
            "whose recordings? the service wants a key",
            hint="use --account-key, --user-key or --company-id",
        )
    if chosen.since is not None and chosen.since >= time.time():
        raise InputError("--since is in the future")
    if chosen.since is not None and chosen.until is not None and chosen.since >= chosen.until:
        raise InputError("--since is not before --until")
    return chosen


def sync_settings_of(ctx: click.Context) -> SyncSettings:
    """What `sync` was told beyond a run's settings. Raises `InputError`."""
    names = {f.name for f in fields(SyncSettings)} - {"selection"}
    given = {k: v for k, v in ctx.params.items() if k in names and v is not None}
    chosen = SyncSettings(selection=selection_of(ctx), **given)
    if chosen.wait is not None and not chosen.transcode:
        raise InputError("--wait waits for transcodings", hint="use --transcode, too")
    only = ctx.params.get("only")
    if chosen.mark_archived and only is not None and len(only) < len(ALL_KINDS):
        raise InputError(
            "--mark-archived takes recordings that are archived with all of their files",
            hint="leave out --only, or --mark-archived",
        )
    return chosen


def source_of(ctx: click.Context, name: str) -> str:
    """Where a setting's value came from, in words."""
    source = ctx.get_parameter_source(name)
    if source is ParameterSource.COMMANDLINE:
        return "option"
    if source is ParameterSource.ENVIRONMENT:
        return "environment"
    if source is ParameterSource.DEFAULT_MAP:
        return f"file {ctx.obj.path}" if isinstance(ctx.obj, Config) else "file"
    return "default"


def settings_rows(ctx: click.Context) -> dict[str, tuple[object, str]]:
    """Every setting of a run: its name to (value, where it came from)."""
    file = ctx.obj if isinstance(ctx.obj, Config) else Config()
    rows = {}
    for name in option_names():
        if name in ctx.params and name not in ("verbose", "quiet"):
            rows[name] = (ctx.params[name], source_of(ctx, name))
        elif name in file.options:  # of `sync` alone
            value = file.options[name]
            rows[name] = (
                tuple(value) if isinstance(value, list) else value,
                f"file {file.path}",
            )
    return rows
