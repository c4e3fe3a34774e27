"""`login` and `logout`: signing in with a browser, and forgetting it."""

from __future__ import annotations

import logging
from typing import Any

import click

import g2a_archive.auth.login as signing_in
from g2a_archive.cli import values
from g2a_archive.cli.options import Parsed, option, options, service_options
from g2a_archive.cli.run import configured_auth, invoked
from g2a_archive.cli.settings import NO_HOME, ConfiguredCommand, Documented, app_dir, settings_of
from g2a_archive.console.outputs import print_lines
from g2a_archive.download.stopping import StopSwitch
from g2a_archive.errors import ExitCode, InputError, Interrupted
from g2a_archive.transport.adapter import check_certificates

log = logging.getLogger("g2a_archive")

_LOGIN = [
    option(
        "--authorize-url",
        metavar="URL",
        default=signing_in.AUTHORIZE_URL,
        type=Parsed("url", values.service_url),
        help="Where a person signs in.",
    ),
    option(
        "--redirect-uri",
        metavar="URL",
        default=signing_in.REDIRECT_URI,
        show_default=True,
        type=Parsed("url", values.service_url),
        help="Where the browser comes back to, as registered for the client.",
    ),
    option("--paste", is_flag=True, help="Paste the address instead: no browser on this machine."),
]


@click.command("login", cls=ConfiguredCommand)
@options(_LOGIN)
@service_options
@click.pass_context
def login_command(
    ctx: click.Context, /, authorize_url: str, redirect_uri: str, paste: bool, **_: Any
) -> ExitCode:
    """Sign in with a browser, for those without a personal access token.

    Needs a client ID and secret in the environment or the configuration file. The refresh token is
    kept in the configuration directory, for this user alone; later runs use it by themselves.
    """
    if app_dir() == NO_HOME:
        raise InputError(
            "this user has no home directory to keep a sign-in in",
            hint="set HOME or XDG_CONFIG_HOME to a directory",
        )
    settings = settings_of(ctx)
    client = configured_auth(settings)
    check_certificates()
    with invoked(settings) as invocation:
        directory = signing_in.login(
            client,
            app_dir(),
            authorize_url=authorize_url,
            redirect_uri=redirect_uri,
            paste=paste,
            show=lambda text: print_lines(*text.split("\n")),
            ask=lambda prompt: _ask(prompt, invocation.switch),
            warn=log.warning,
            wait=invocation.switch.event.wait,
        )
    print_lines(f"Signed in; what later runs need is kept in {directory}")
    return invocation.ending()


@click.command("logout", cls=Documented)
def logout_command() -> ExitCode:
    """Forget what `login` kept."""
    switch = StopSwitch()
    with switch.signals():
        found = signing_in.logout(app_dir(), wait=switch.event.wait)
    print_lines("Signed out" if found else "There was no sign-in to forget")
    return ExitCode.OK


def _ask(prompt: str, switch: StopSwitch) -> str:
    """What a person types; a signal ends the waiting for it."""

    def end() -> None:
        raise Interrupted

    switch.wake = end
    try:
        return input(prompt)
    except EOFError:
        raise InputError("nothing was pasted", hint="run login --paste in a terminal") from None
    finally:
        switch.wake = lambda: None
