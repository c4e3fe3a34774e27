"""`config show`: the settings in force, and where each came from."""

from __future__ import annotations

import os
import re
from dataclasses import asdict
from typing import Any

import click

from g2a_archive.auth.secretfile import is_name
from g2a_archive.cli.config import AUTH_KEYS, SECRET_KEYS, auth_values
from g2a_archive.cli.options import file_options, option_names
from g2a_archive.cli.settings import ConfiguredCommand, Documented, settings_of, source_of
from g2a_archive.cli.values import SESSION_TYPES
from g2a_archive.console.outputs import print_lines, write
from g2a_archive.errors import ExitCode
from g2a_archive.models import ALL_KINDS, RunSettings

_DEFAULTS = {**asdict(RunSettings()), "only": ALL_KINDS}


class ConfigGroup(Documented, click.Group):
    """The group `config`."""


@click.group("config", cls=ConfigGroup, invoke_without_command=True)
@click.pass_context
def config_command(ctx: click.Context, /) -> None:
    """Look at the settings."""
    if ctx.invoked_subcommand is None:
        write(f"{ctx.get_help()}\n")


@config_command.command("show", cls=ConfiguredCommand)
@file_options
@click.pass_context
def config_show(ctx: click.Context, /, **_: Any) -> ExitCode:
    """Print the settings in force and where each came from; secrets are masked.

    As they can stand in a configuration file.
    """
    config = settings_of(ctx).config
    print_lines(f"# configuration file: {config.path or config.unread or 'none'}")
    if config.profile is not None:
        print_lines(f"# profile: {config.profile}")
    for name in option_names():
        value = ctx.params[name]
        shown = _DEFAULTS.get(name) if value in (None, ()) else value
        if name == "session_type" and shown is not None:
            shown = next(word for word, number in SESSION_TYPES.items() if number == shown)
        if shown is None:
            print_lines(f"# {name} is not set")
        else:
            print_lines(f"{name} = {_toml(shown)}  # {source_of(ctx, name)}")
    print_lines("[auth]")
    values = auth_values(config, os.environ)
    for key in AUTH_KEYS:
        if key in values:
            value, source = values[key]
            secret = key in SECRET_KEYS or (key == "token_url" and re.search("[@?#]", value))
            secret = secret or (key.endswith("_file") and not is_name(value))
            print_lines(f"{key} = {_toml('********' if secret else value)}  # {source}")
    return ExitCode.OK


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
