"""The command line: parse, build, call, print, exit. The work is done elsewhere."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

import click

from g2a_archive import __version__
from g2a_archive.errors import ArchiverError, ExitCode, InputError
from g2a_archive.outputs import complain, guarded
from g2a_archive.settings import (
    ConfiguredCommand,
    run_options,
    settings_of,
    source_of,
)

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=CONTEXT, invoke_without_command=True)
@click.version_option(__version__, "-V", "--version", message="g2a-archive %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Archive GoToAssist Remote Support session recordings: whole, verified, resumable."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@cli.command(cls=ConfiguredCommand)
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    metavar="FILE",
    help="Recording IDs, one a line; - is standard input.",
)
@click.option("--owed", is_flag=True, help="Also every recording that this archive still owes.")
@run_options
@click.pass_context
def download(
    ctx: click.Context, /, ids: tuple[str, ...], files: tuple[str, ...], owed: bool, **_: Any
) -> ExitCode:
    """Archive recordings by their IDs.

    Each recording's MP4, events file and thumbnail go to a directory named after the day it
    started. What is archived already costs no request; a run that was killed goes on where it
    stopped.
    """
    from g2a_archive.idlist import read_ids
    from g2a_archive.perform import perform

    if not (ids or files or owed):
        raise InputError(
            "no recording IDs were given", hint="name them, or use -f FILE, -f - or --owed"
        )
    wanted = read_ids(ids, files)
    return perform(settings_of(ctx), "download", lambda run: run.archive(wanted, owed=owed))


def main() -> NoReturn:
    """Run the command line and end the process with the exit code of the README's table."""
    sys.exit(int(run(sys.argv[1:])))


def run(arguments: list[str]) -> int:
    """Run the command line; every exception that a person can cause becomes one sentence."""
    try:
        code = cli.main(args=arguments, prog_name="g2a-archive", standalone_mode=False)
        with guarded():
            pass
        return int(code or 0)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.Abort:
        complain("g2a-archive: interrupted")
        return int(ExitCode.SIGINT)
    except click.UsageError as error:
        complain(f"g2a-archive: {_usage_message(error)}")
        return int(ExitCode.USAGE)
    except click.ClickException as error:
        complain(f"g2a-archive: {error.format_message()}")
        return int(ExitCode.USAGE)
    except ArchiverError as error:
        complain(f"g2a-archive: {error}")
        return int(error.exit_code)
    except KeyboardInterrupt:
        complain("g2a-archive: interrupted")
        return int(ExitCode.SIGINT)
    except OSError as error:
        complain(f"g2a-archive: {error.strerror or error}")
        return int(ExitCode.STORAGE)
    except Exception as error:
        complain(f"g2a-archive: {_bug(error)}")
        return int(ExitCode.FAILED)


def _bug(error: Exception) -> str:
    """Say where, and no more: an exception's text and its values may hold secrets."""
    frames = traceback.extract_tb(error.__traceback__)
    where = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames[-4:]))
    return (
        f"unexpected {type(error).__name__} at {where}: this is a bug, please report it; "
        "what is archived is safe, and the next run goes on"
    )


def _usage_message(error: click.UsageError) -> str:
    text = error.format_message().rstrip(".")
    ctx = error.ctx
    param = getattr(error, "param", None)
    if ctx is not None and param is not None and param.name:
        source = source_of(ctx, param.name)
        if source.startswith("file"):
            text += f" (from the configuration {source})"
        elif source == "environment":
            text += f" (from the environment variable {param.envvar})"
    command = ctx.command_path if ctx is not None else "g2a-archive"
    return f"{text}; see `{command} --help`"
