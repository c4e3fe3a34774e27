"""Every option of every command, written once; commands take them in groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from g2a_archive.cli import units, values
from g2a_archive.cli.config import ENV
from g2a_archive.errors import ArchiverError

_F = TypeVar("_F", bound=Callable[..., Any])
_Option = Callable[[Any], Any]

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:  # generic only in later versions of click
    _ParamType = click.ParamType

NOT_IN_FILE = {"config", "profile", "help", "ids", "files", "owed", "show", "what"}
NOT_IN_FILE |= {"since", "until", "archived", "full"}


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
status_options = _all([*_STATUS, *_ARCHIVE])
export_options = _all([*_EXPORT, *_ARCHIVE])
browse_options = _all([*_BROWSE, *_ARCHIVE])
verify_options = _all([*_VERIFY, *_ARCHIVE])
list_options = _all(_LIST)
sync_options = _all(_SYNC)
service_options = _all([*_SERVICE, *_LOG, *_CONFIG])
login_options = _all(_LOGIN)
demo_options = _all(_DEMO)


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
