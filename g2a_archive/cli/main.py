"""The command line: parse, build, call, print, exit. The work is done elsewhere."""

from __future__ import annotations

import gc
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

import click

from g2a_archive.cli.options import (
    browse_options,
    demo_options,
    export_options,
    list_options,
    login_options,
    run_options,
    service_options,
    status_options,
    sync_options,
    verify_options,
)
from g2a_archive.cli.settings import (
    ConfiguredCommand,
    selection_of,
    settings_of,
    settings_rows,
    source_of,
    sync_settings_of,
)
from g2a_archive.console.outputs import (
    complain,
    guarded,
    reserve_standard_streams,
    say,
    settle_standard_streams,
    version_lines,
)
from g2a_archive.errors import ArchiverError, ExitCode, InputError

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=CONTEXT, invoke_without_command=True)
@click.option("-V", "--version", is_flag=True, help="Show the version; with -v, of all parts.")
@click.option("-v", "--verbose", is_flag=True, hidden=True)
@click.pass_context
def cli(ctx: click.Context, /, version: bool, verbose: bool) -> None:
    """Archive GoToAssist Remote Support session recordings: whole, verified, resumable."""
    if version:
        for line in version_lines(verbose=verbose):
            say(line)
        ctx.exit(0)
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
    from g2a_archive.cli.ids import read_ids
    from g2a_archive.cli.run import perform

    if not (ids or files or owed):
        raise InputError(
            "no recording IDs were given", hint="name them, or use -f FILE, -f - or --owed"
        )
    wanted = read_ids(ids, files)
    return perform(settings_of(ctx), "download", lambda run: run.archive(wanted, owed=owed))


@cli.command(cls=ConfiguredCommand)
@sync_options
@click.pass_context
def sync(ctx: click.Context, /, **_: Any) -> ExitCode:
    """Find what is new on the service, and archive it as `download` does.

    What this archive still owes is tried again. The service is only read, unless it is told to
    transcode or to mark.
    """
    from g2a_archive.cli.run import perform
    from g2a_archive.sync.run import Sync

    wishes = sync_settings_of(ctx)
    return perform(settings_of(ctx), "sync", lambda run: Sync(run, wishes).run())


@cli.command("list", cls=ConfiguredCommand)
@list_options
@click.pass_context
def list_(ctx: click.Context, /, state: Any, **_: Any) -> ExitCode:
    """List what the service has: IDs, one a line, ready for `download -f -`."""
    from g2a_archive.cli import list as lister

    return lister.list_recordings(settings_of(ctx), selection_of(ctx), state)


@cli.command(cls=ConfiguredCommand)
@click.argument("ids", nargs=-1, metavar="[ID]...")
@status_options
@click.pass_context
def status(
    ctx: click.Context, /, ids: tuple[str, ...], by: str | None, form: str, owed: bool, **_: Any
) -> ExitCode:
    """Say what the archive holds and what it still owes; of IDs: all about each.

    Needs neither the service nor credentials, and does not disturb a run.
    """
    from g2a_archive.cli import curator
    from g2a_archive.cli.ids import read_ids

    return curator.status(settings_of(ctx).run, read_ids(ids, ()), by=by, form=form, owed=owed)


@cli.command(cls=ConfiguredCommand)
@click.argument("ids", nargs=-1, metavar="[ID]...")
@verify_options
@click.pass_context
def verify(
    ctx: click.Context,
    /,
    ids: tuple[str, ...],
    since: Any,
    sample: float,
    oldest_first: bool,
    readers: int | None,
    rebuild: bool,
    **_: Any,
) -> ExitCode:
    """Read every file again and hold it against its recorded SHA-256.

    A missing or changed file makes its recording owed: the next `download --owed` fetches it again,
    and keeps the broken file aside. Exit code 1 if anything is wrong.
    """
    from g2a_archive.cli import curator
    from g2a_archive.cli.ids import read_ids
    from g2a_archive.fixity.audit import Wishes

    some = bool(ids) or since is not None or sample < 1 or oldest_first
    if rebuild and some:
        raise InputError("--rebuild takes the whole archive: no IDs, --since or --sample with it")
    wishes = Wishes(
        ids=read_ids(ids, ()) if ids else None,
        since=since,
        sample=sample,
        oldest_first=oldest_first,
        jobs=readers,
    )
    return curator.verify(settings_of(ctx), wishes, rebuild=rebuild)


@cli.command(cls=ConfiguredCommand)
@browse_options
@click.pass_context
def browse(ctx: click.Context, /, title: str, open_: bool, **_: Any) -> ExitCode:
    """Write pages into the archive to find and watch recordings in a browser.

    Open DEST/index.html: no server and no network is needed. Only pages that changed are written.
    """
    from g2a_archive.cli import curator

    return curator.make_pages(settings_of(ctx).run, title=title, open_=open_)


@cli.command(cls=ConfiguredCommand)
@export_options
@click.pass_context
def export(ctx: click.Context, /, form: str | None, output: str | None, **_: Any) -> ExitCode:
    """Print the whole catalogue as CSV or JSON, for a spreadsheet or another tool."""
    from g2a_archive.cli import curator

    if form is None:
        raise InputError("export as what?", hint="use --csv or --json")
    return curator.export(settings_of(ctx).run, form=form, output=output)


@cli.command(cls=ConfiguredCommand)
@run_options
@click.pass_context
def check(ctx: click.Context, /, **_: Any) -> ExitCode:
    """Say whether a night's run would work; download nothing.

    Looks at the configuration, the credentials (a real call), the clock, the destination and its
    free space, the lock and the catalogue: one line each. The exit code is as a run's.
    """
    from g2a_archive.cli import login as account

    return account.check(settings_of(ctx))


@cli.command(cls=ConfiguredCommand)
@login_options
@service_options
@click.pass_context
def login(
    ctx: click.Context, /, authorize_url: str, redirect_uri: str, paste: bool, **_: Any
) -> ExitCode:
    """Sign in with a browser, for those without a personal access token.

    Needs a client ID and secret in the environment or the configuration file. The refresh token is
    kept in the configuration directory, for this user alone; later runs use it by themselves.
    """
    from g2a_archive.cli import login as account

    return account.login(
        settings_of(ctx), authorize_url=authorize_url, redirect_uri=redirect_uri, paste=paste
    )


@cli.command()
def logout() -> ExitCode:
    """Forget what `login` kept."""
    from g2a_archive.cli import login as account

    return account.logout()


@cli.group(invoke_without_command=True)
@click.pass_context
def config(ctx: click.Context, /) -> None:
    """Look at the settings."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@config.command("show", cls=ConfiguredCommand)
@run_options
@click.pass_context
def config_show(ctx: click.Context, /, **_: Any) -> ExitCode:
    """Print the settings in force and where each came from; secrets are masked."""
    from g2a_archive.cli import login as account

    return account.show_config(settings_rows(ctx), settings_of(ctx).config)


@cli.command(cls=ConfiguredCommand)
@demo_options
@click.pass_context
def demo(
    ctx: click.Context, /, serve: bool, port: int, count: int, dest: str | None, **_: Any
) -> ExitCode:
    """The whole job against a simulated service on this machine.

    Archives forty recordings (a few are not ready) with the real `download`, and shows the result.
    """
    from g2a_archive.cli import demo as showcase

    if serve:
        return showcase.serve(port, count)
    ctx.params.pop("dest")
    return showcase.demonstrate(settings_of(ctx), dest)


def main() -> NoReturn:
    """Run the command line and end the process with the exit code of the README's table."""
    reserve_standard_streams()
    code = run(sys.argv[1:])
    settle_standard_streams()
    gc.freeze()  # the system takes all memory back at once; nothing need be looked at before
    sys.exit(code)


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
        near = f" (did you mean {error.possibilities[0]}?)" if error.possibilities else ""
        return f"there is no option {error.option_name}{near}"
    if type(error) is click.BadParameter and isinstance(error.param, click.Option):
        return f"{max(error.param.opts, key=len)}: {error.message}"
    return error.format_message()
