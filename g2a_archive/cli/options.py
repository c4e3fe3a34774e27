"""Every option of every command, written once; commands take them in groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from g2a_archive.cli import values
from g2a_archive.cli.config import ENV
from g2a_archive.errors import ArchiverError

_F = TypeVar("_F", bound=Callable[..., Any])
_Option = Callable[[Any], Any]

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:  # generic only in later versions of click
    _ParamType = click.ParamType

_NOT_IN_FILE = {"config", "profile", "since", "until", "archived", "full"}

_TOML_TYPES = {
    str: "a text in quotes",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list of texts",
}


class Parsed(_ParamType):
    """A value that a plain function reads; its `ValueError` or `InputError` is the message."""

    def __init__(self, name: str, read: Callable[[str], Any], *also: type) -> None:
        self.name = name
        self._read = read
        self._types = (str, *also)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        # Only a configuration file has anything but text.
        if type(value) not in self._types:  # true is an `int`, too
            wanted = " or ".join(_TOML_TYPES[type_] for type_ in self._types)
            self.fail(f"{value!r} should be {wanted}", param, ctx)
        value = int(value) if isinstance(value, bool) else value
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


def option(*names: str, env: str | None = None, **more: Any) -> _Option:
    """A click option, with its environment variable's name less the common prefix."""
    if env is not None:
        more |= {"envvar": ENV + env, "show_envvar": True}
    if more.get("is_flag"):
        more["type"] = _Flag()
    elif "count" not in more:
        reader = values.path if more.get("metavar") in ("DIR", "FILE") else values.text
        more.setdefault("type", Parsed("text", reader))
    return click.option(*names, **more)


_DEST = option(
    "-d", "--dest", metavar="DIR", env="DEST", help="The archive.  [default: recordings]"
)
_CATALOG = option(
    "--catalog",
    metavar="FILE",
    env="CATALOG",
    help="Keep the catalogue elsewhere than in the archive, on a local disk for example.",
)
TIMEZONE = option(
    "--timezone",
    metavar="NAME",
    env="TIMEZONE",
    type=Parsed("name", values.zone_name),
    help="Time zone of date directories and pages.  [default: as written in recordingStartTime]",
)
LAYOUT = option(
    "--layout",
    metavar="STRFTIME",
    env="LAYOUT",
    type=Parsed("strftime", values.layout_text),
    help="Directory for a recording's start.  [default: %Y/%m/%d]",
)
MIN_FREE = option(
    "--min-free",
    metavar="SIZE",
    type=Parsed("size", values.parse_size, int),
    help="Stop before the disk falls below this.  [default: 1G]",
)
NO_CREATE = option("--no-create", is_flag=True, help="Refuse a destination that is no archive yet.")
_CONFIG = [
    option("--config", metavar="FILE", env="CONFIG", help="Configuration file (TOML)."),
    option("--profile", metavar="NAME", env="PROFILE", help="A [profiles.NAME] of that file."),
]
QUIET = option("-q", "--quiet", is_flag=True, help="Nothing at all unless something failed.")
LOG = [
    option("--log-file", metavar="FILE", help="Append log lines to a file, too."),
    option(
        "-v",
        "--verbose",
        count=True,
        type=Parsed("number", values.whole(0, 9), bool, int),
        help="A line for each file; twice: for debugging.",
    ),
    QUIET,
]
_SERVICE = [
    option(
        "--retries",
        metavar="N",
        type=Parsed("number", values.whole(0, 1000), int),
        help="Retries of a file or a call that brought nothing new.  [default: 5]",
    ),
    option(
        "--timeout",
        metavar="SECONDS",
        env="TIMEOUT",
        type=Parsed("seconds", values.timeout, int, float),
        help="To connect, and without a byte.  [default: 60]",
    ),
    option(
        "--api-url",
        metavar="URL",
        env="API_URL",
        type=Parsed("url", values.service_url),
        help="Base address of the service.  [default: https://api.getgo.com/G2A/rest/v1]",
    ),
]
_ATTRIBUTE = option(
    "--id-attribute",
    metavar="NAME",
    type=Parsed("name", values.attribute),
    help="Name of the link call's query attribute.  [default: recordingIds]",
)
TIME_LIMIT = option(
    "--max-duration",
    metavar="TIME",
    type=Parsed("time", values.parse_duration, int, float),
    help="Stop tidily after 45s, 90m, 6h or 2d (exit 8); the next run goes on.",
)
FILES = option(
    "-f",
    "--file",
    "files",
    multiple=True,
    metavar="FILE",
    help="Recording IDs, one a line; - is standard input.",
)
OWED = option("--owed", is_flag=True, help="Also every recording that this archive still owes.")
JSON = option("--json", is_flag=True, help="The report on stdout as one JSON object.")
_RUN = [
    _DEST,
    option(
        "-j",
        "--jobs",
        metavar="N",
        env="JOBS",
        type=Parsed("number", values.whole(1, 64), int),
        help="Files downloaded at a time, 1 to 64.  [default: 8]",
    ),
    option(
        "--segments",
        metavar="N",
        type=Parsed("number", values.whole(1, 16), int),
        help="Connections for one large file when nothing else is left, 1 to 16.  [default: 8]",
    ),
    option(
        "--only",
        metavar="KINDS",
        type=Parsed("kinds", values.kinds, list),
        help="Of mp4,events,thumbnail only these.  [default: all three]",
    ),
    LAYOUT,
    TIMEZONE,
    option(
        "--shard",
        metavar="K/N",
        env="SHARD",
        type=Parsed("shard", values.shard),
        help="Only the K-th of N parts of the IDs; N machines share the pace of calls.",
    ),
    option(
        "--limit-rate",
        metavar="RATE",
        env="LIMIT_RATE",
        type=Parsed("rate", values.parse_rate, int),
        help="Bytes a second of the whole run: 500K, 10M, 1.5G.",
    ),
    TIME_LIMIT,
    MIN_FREE,
    option("--dry-run", is_flag=True, help="Ask for links, say what would be fetched."),
    NO_CREATE,
    _CATALOG,
    option("--set-mtime", is_flag=True, help="Give files the recording's start time."),
    option(
        "--ignore-size",
        is_flag=True,
        help="An MP4 counts as whole without recordingSize, by the host's length alone.",
    ),
    JSON,
    option(
        "--error-file",
        metavar="FILE",
        help="The IDs that did not get archived, with reasons, ready for -f.",
    ),
    option("--metrics-file", metavar="FILE", help="Prometheus text format, for node_exporter."),
    *LOG,
    *_SERVICE,
    _ATTRIBUTE,
    *_CONFIG,
]


SINCE = option(
    "--since",
    metavar="WHEN",
    type=Parsed("when", values.parse_when),
    help="Started at or after a date, a time (UTC) or an age such as 30d.",
)
UNTIL = option(
    "--until",
    metavar="WHEN",
    type=Parsed("when", values.parse_when),
    help="Started before, likewise.",
)
ARCHIVE = [_DEST, _CATALOG, *_CONFIG]
_SELECTION = [
    *(
        option(
            f"--{name}",
            metavar="KEY",
            multiple=True,
            env=name.upper().replace("-", "_"),
            type=Parsed("key", values.key, int),
            help=text,
        )
        for name, text in (
            ("account-key", "The recordings of this account; may be repeated."),
            ("user-key", "Those of this user; may be repeated."),
            ("company-id", "Those of this company; may be repeated."),
        )
    ),
    option(
        "--session-type",
        metavar="TYPE",
        type=Parsed("type", values.session_type),
        help="Only attended or unattended sessions.",
    ),
    SINCE,
    UNTIL,
    option(
        "--archived/--not-archived",
        is_flag=True,
        help="Those that are marked as archived on the service, or those that are not (default).",
    ),
]
_LIST = [
    *_SELECTION,
    option(
        "--state",
        metavar="STATE",
        default="download",
        type=Parsed("state", values.list_state),
        help="What is ready for: download (default), transcode, or all.",
    ),
    option("--json", is_flag=True, help="One JSON object on stdout."),
    *_SERVICE,
    *LOG,
    *_CONFIG,
]
_SYNC = [
    *_SELECTION,
    option("--full", is_flag=True, help="Look at all times again, not only where there is news."),
    option("--transcode", is_flag=True, help="Ask the service to transcode what is to be."),
    option(
        "--wait",
        metavar="TIME",
        type=Parsed("time", values.parse_duration, int, float),
        help="With --transcode: wait so long for what becomes ready.",
    ),
    option(
        "--mark-archived",
        is_flag=True,
        help="Mark on the service what is archived whole; then it is no longer listed.",
    ),
    option(
        "--give-up-after",
        metavar="TIME",
        type=Parsed("time", values.parse_duration, int, float),
        help="Call lost what has been owed for longer (exit 1).",
    ),
    option(
        "--ids-in",
        metavar="PLACE",
        type=Parsed("place", values.id_place),
        help="Where the calls to transcode and to mark have their IDs: path, query or body."
        "  [default: path]",
    ),
    *_RUN,
]


def options(options: Sequence[_Option]) -> Callable[[_F], _F]:
    """A decorator that gives a command all of these."""

    def decorate(command: _F) -> _F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


run_options = options(_RUN)
list_options = options(_LIST)
sync_options = options(_SYNC)
file_options = options([*_SYNC, OWED])
service_options = options([*_SERVICE, *LOG, *_CONFIG])


def option_names() -> list[str]:
    """Every option that a configuration file may hold, by its name with underscores."""
    command = click.command("all")(file_options(lambda: None))
    return [p.name for p in command.params if p.name and p.name not in _NOT_IN_FILE]
