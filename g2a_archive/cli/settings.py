"""Options, environment and configuration file, parsed once into one frozen object.

An option beats the environment, which beats the configuration file, which beats the default.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from g2a_archive.cli.config import ENV, Config, file_named, load_config
from g2a_archive.cli.options import option_names
from g2a_archive.console import outputs
from g2a_archive.errors import InputError
from g2a_archive.models import (
    ALL_KINDS,
    Age,
    RunSettings,
    Selection,
    SyncSettings,
    iso,
    resolve_time,
)


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

    @property
    def files(self) -> list[tuple[str, str]]:
        """What is written beside the archive: the option, and the file that it names."""
        named = {
            "--error-file": self.error_file,
            "--metrics-file": self.metrics_file,
            "--log-file": self.log_file,
        }
        return [(option, path) for option, path in named.items() if path is not None]


NO_HOME = Path(os.devnull, "g2a-archive")
"""What nobody can make: instead of a directory "~" wherever a user without a home is."""


def app_dir() -> Path:
    """The directory of the configuration file and of a stored sign-in, or `NO_HOME`."""
    found = Path(click.get_app_dir("g2a-archive"))
    return found if found.is_absolute() else NO_HOME


class Documented(click.Command):
    """A command whose help is its function's docstring, also with `-OO`, which drops those."""

    def __init__(self, *args: Any, **more: Any) -> None:
        if more.get("help") is None and (callback := more.get("callback")) is not None:
            more["help"] = callback.__doc__ or _written(callback)
        super().__init__(*args, **more)

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """The option `--help`, which fails as all else does where nothing can be printed."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.callback = _show_help
        return option


def _show_help(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        outputs.write(f"{ctx.get_help()}\n")
        ctx.exit()


def _written(function: Callable[..., Any]) -> str | None:
    """A function's docstring as it stands in its module; None where that is not there."""
    import ast
    import inspect

    try:
        # Not `ast.parse`, which drops them, too, from Python 3.14 on.
        source = inspect.getsource(function)
        parsed = compile(source, "<source>", "exec", ast.PyCF_ONLY_AST, optimize=0)
    except (OSError, SyntaxError):
        return None
    functions = (one for one in ast.walk(parsed) if isinstance(one, ast.FunctionDef))
    return next((ast.get_docstring(one) for one in functions), None)


class ConfiguredCommand(Documented):
    """A command whose defaults come from the configuration file."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the configuration file that the arguments or the environment name, first."""
        try:
            given, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        except click.UsageError:
            given = {}  # told below, better
        shown = self.get_help_option(ctx)
        asked = shown is not None and given.get(shown.name or "")
        if not (ctx.resilient_parsing or asked):
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
    named = path or os.environ.get(f"{ENV}CONFIG", "")
    return load_config(
        Path(file_named(named, "--config")) if named else app_dir() / "config.toml",
        required=bool(named),
        profile=profile or os.environ.get(f"{ENV}PROFILE") or None,
        known=option_names(),
    )


def settings_of(ctx: click.Context) -> Settings:
    """The frozen settings of a command that has (some of) the run's options."""
    given = _given(ctx, Settings)
    given["config"] = ctx.obj if isinstance(ctx.obj, Config) else Config()  # not the option
    if source_of(ctx, "verbose") == "option" != source_of(ctx, "quiet"):
        given["quiet"] = False  # an option beats the file, also by saying the opposite
    kinds = ctx.params.get("only") or ALL_KINDS
    run = RunSettings(kinds=kinds, **_given(ctx, RunSettings))
    return Settings(run=run, verbosity=ctx.params.get("verbose", 0), **given)


def _given(ctx: click.Context, of: type[Any]) -> dict[str, Any]:
    """What was given of the fields of a dataclass."""
    names = {f.name for f in fields(of)}
    return {k: v for k, v in ctx.params.items() if k in names and v is not None}


def selection_of(ctx: click.Context) -> Selection:
    """Which recordings `list` or `sync` is about. Raises `InputError`."""
    given = _given(ctx, Selection)
    for name in ("account_key", "user_key", "company_id"):
        given[f"{name}s"] = ctx.params[name]
    chosen = Selection(**given)
    if not (chosen.account_keys or chosen.user_keys or chosen.company_ids):
        raise InputError(
            "whose recordings? the service wants a key",
            hint="use --account-key, --user-key or --company-id",
        )
    if chosen.session_type == 0 and not (chosen.account_keys or chosen.user_keys):
        raise InputError(
            "a company's recordings are those of unattended sessions alone",
            hint="use --account-key or --user-key for attended ones, or leave --session-type out",
        )
    now = time.time()
    since, _ = period_of(chosen.since, chosen.until, now)
    if since is not None:
        require_past("--since", since, now)
    return chosen


def period_of(
    since: int | Age | None, until: int | Age | None, now: float
) -> tuple[int | None, int | None]:
    """Both in Unix time. Raises `InputError` where nothing lies between them."""
    begin = None if since is None else resolve_time(since, now)
    end = None if until is None else resolve_time(until, now)
    if begin is not None and end is not None and begin >= end:
        raise InputError("--since is not before --until")
    return begin, end


def require_past(option: str, at: float, now: float) -> None:
    """Raise `InputError` where the time of an option (Unix time) has not come yet."""
    if at >= now:
        raise InputError(
            f"{option} is in the future: this machine's clock says {iso(int(now))}",
            hint="set the clock, or give another time",
        )


def sync_settings_of(ctx: click.Context) -> SyncSettings:
    """What `sync` was told beyond a run's settings. Raises `InputError`."""
    chosen = SyncSettings(selection=selection_of(ctx), **_given(ctx, SyncSettings))
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
