"""The command line: parse, build, call, print, exit. The work is done elsewhere."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from typing import NoReturn

import click

from g2a_archive.cli.config import drop_empty, nearest
from g2a_archive.cli.settings import Documented, source_of
from g2a_archive.console.logs import configure_last_resort
from g2a_archive.console.outputs import (
    checked_stdout,
    flush_standard_streams,
    print_error,
    print_lines,
    reserve_standard_streams,
    version_lines,
    write,
)
from g2a_archive.download.stopping import end_after, interruptible
from g2a_archive.errors import (
    ArchiverError,
    ExitCode,
    Interrupted,
    generic_storage_error,
    unexpected_error,
)

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


COMMANDS = {
    "download": ("commands", "Archive recordings by their IDs."),
    "sync": ("commands", "Find what is new on the service, and archive it."),
    "list": ("commands", "List what the service has."),
    "status": ("commands", "Say what the archive holds and what it still owes."),
    "verify": ("commands", "Read every file again, and hold it against its SHA-256."),
    "remove": ("commands", "Take recordings out for good, and remember that."),
    "bag": ("commands", "Hand recordings over, as a BagIt bag."),
    "merge": ("commands", "Take other archives into this one."),
    "browse": ("commands", "Write pages to find and watch recordings in a browser."),
    "export": ("commands", "Print the catalogue as CSV or JSON."),
    "login": ("setup", "Sign in with a browser."),
    "logout": ("setup.login", "Forget what `login` kept."),
    "check": ("setup", "Say whether a night's run would work."),
    "config": ("setup", "Look at the settings."),
    "demo": ("setup", "The whole job against a simulated service."),
}
"""The commands in the order of the help: the folder, or the module, of each, and what it does."""


class CommandGroup(Documented, click.Group):
    """Commands that are imported when they are called: `--help` and each of them start quickly."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, imported now; None where there is none."""
        if cmd_name not in COMMANDS:
            return None
        place, _ = COMMANDS[cmd_name]
        if place in ("commands", "setup"):
            place = f"{place}.{cmd_name}"
        module = importlib.import_module(f"g2a_archive.cli.{place}")
        command = getattr(module, f"{cmd_name}_command")
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that `args` begin with; `UsageError` where there is none."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            close = nearest(name, COMMANDS)
            near = f" (did you mean {close}?)" if close else ""
            raise click.UsageError(f"there is no command {name}{near}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=CommandGroup, context_settings=CONTEXT, invoke_without_command=True)
@click.option("-V", "--version", is_flag=True, help="Show the version; with -v, of all parts.")
@click.option("-v", "--verbose", is_flag=True, hidden=True)
@click.pass_context
def cli(ctx: click.Context, /, version: bool, verbose: bool) -> None:
    """Archive GoToAssist Remote Support session recordings: whole, verified, resumable."""
    if version:
        for line in version_lines(verbose=verbose):
            print_lines(line)
        ctx.exit(0)
    if ctx.invoked_subcommand is None:
        write(f"{ctx.get_help()}\n")


def main() -> NoReturn:
    """Run the command line and end the process with the exit code of the README's table."""
    reserve_standard_streams()
    configure_last_resort()
    code = run(sys.argv[1:])
    if code in (ExitCode.SIGINT, ExitCode.SIGTERM):
        end_after(5.0, ExitCode(code))  # whoever reads our output may have stopped reading
    flush_standard_streams()
    gc.freeze()  # the system takes all memory back at once; nothing need be looked at before
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run the command line; every exception that a person can cause becomes one sentence."""
    drop_empty(os.environ)
    try:
        with interruptible():
            code = cli.main(args=arguments, prog_name="g2a-archive", standalone_mode=False)
            if sys.stdout is not None:
                with checked_stdout():
                    pass  # it is flushed
            return int(code or 0)
    except (Interrupted, click.Abort) as stop:
        print_error("interrupted", patience=2.0)
        return int(getattr(stop, "code", None) or ExitCode.SIGINT)
    except click.UsageError as error:
        print_error(_usage_message(error))
        return int(ExitCode.USAGE)
    except ArchiverError as error:
        print_error(error)
        return int(error.exit_code)
    except OSError as error:
        print_error(generic_storage_error(error))
        return int(ExitCode.STORAGE)
    except Exception as error:
        told = unexpected_error(error)
        print_error(told)
        return int(told.exit_code)


def _usage_message(error: click.UsageError) -> str:
    text = _what_is_wrong(error).rstrip(".")
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


def _what_is_wrong(error: click.UsageError) -> str:
    """What click found, in our words where its own are hard to read."""
    if isinstance(error, click.NoSuchOption):
        if error.option_name[1:2].isdigit():
            return f"{error.option_name!r} is neither a recording ID nor an option"
        return f"there is no option {error.option_name}{_near(error)}"
    if type(error) is click.BadParameter and isinstance(error.param, click.Option):
        return f"{max(error.param.opts, key=len)}: {error.message}"
    return error.format_message()


def _near(error: click.NoSuchOption) -> str:
    """A hint at the option that was probably meant: click guesses by two letters."""
    parameters = error.ctx.command.params if error.ctx is not None else ()
    known = [name[2:] for one in parameters for name in one.opts if name.startswith("--")]
    close = nearest(error.option_name.lstrip("-"), known)
    return f" (did you mean --{close}?)" if close else ""
