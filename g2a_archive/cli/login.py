"""Commands about credentials and settings: `login`, `logout`, `check`, `config show`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, replace

import g2a_archive.auth.login as signing_in
from g2a_archive.auth.credentials import AuthSettings
from g2a_archive.cli.config import AUTH_KEYS, Config, auth_values
from g2a_archive.cli.run import Access
from g2a_archive.cli.settings import Settings, app_dir
from g2a_archive.console.outputs import complain, say
from g2a_archive.download.stopping import StopSwitch
from g2a_archive.errors import ExitCode, InputError
from g2a_archive.models import ALL_KINDS, RunSettings

_DEFAULTS = {**asdict(RunSettings()), "only": ALL_KINDS}
_SECRET_KEYS = ("token", "client_secret", "pat")


def check(settings: Settings) -> ExitCode:
    """`check`: print one line for each thing looked at; the exit code is as a run's."""
    from g2a_archive.cli.check import Check
    from g2a_archive.download.assembly import make_service

    switch = StopSwitch()
    config = settings.config
    configuration = "no file, options and environment only"
    if config.path is not None:
        configuration = f"read from {config.path}"
    if config.profile is not None:
        configuration += f", profile {config.profile}"
    with switch.signals():
        looks = Check(
            settings.run,
            configuration=configuration,
            credentials=Access(settings, switch),
            service=lambda authorizer: make_service(settings.run, authorizer, switch),
        )
        for fine, text in looks.lines():
            say(f"{'ok   ' if fine else 'FAIL '} {text}")
    return switch.code or looks.exit_code


def login(settings: Settings, *, authorize_url: str, redirect_uri: str, paste: bool) -> ExitCode:
    """`login`: let a person sign in, and keep the refresh token. Raises `ArchiverError`."""
    values = {key: value for key, (value, _) in auth_values(settings.config, os.environ).items()}
    client = AuthSettings(
        **{key: value for key, value in values.items() if key.startswith(("client_", "token_url"))},  # type: ignore[arg-type]
    )
    client = replace(client, timeout=settings.run.timeout, retries=settings.run.retries)
    switch = StopSwitch()
    with switch.signals():
        directory = signing_in.login(
            client,
            app_dir(),
            authorize_url=authorize_url,
            redirect_uri=redirect_uri,
            paste=paste,
            show=say,
            ask=_ask,
            warn=complain,
            wait=switch.event.wait,
        )
    say(f"Signed in; what later runs need is kept in {directory}")
    return ExitCode.OK


def _ask(prompt: str) -> str:
    try:
        return input(prompt)
    except EOFError:
        raise InputError("nothing was pasted", hint="run login --paste in a terminal") from None


def logout() -> ExitCode:
    """`logout`: forget what `login` kept. Raises `StorageError`."""
    switch = StopSwitch()
    with switch.signals():
        found = signing_in.logout(app_dir(), wait=switch.event.wait)
    say("Signed out" if found else "There was no sign-in to forget")
    return ExitCode.OK


def show_config(rows: Mapping[str, tuple[object, str]], config: Config) -> ExitCode:
    """`config show`: the settings in force (name to value and source), secrets masked."""
    say(f"# configuration file: {config.path or 'none'}")
    if config.profile is not None:
        say(f"# profile: {config.profile}")
    for name, (value, source) in rows.items():
        shown = _DEFAULTS.get(name) if value is None else value
        if shown is None:
            say(f"# {name} is not set")
        else:
            say(f"{name} = {_toml(shown)}  # {source}")
    say("[auth]")
    values = auth_values(config, os.environ)
    for key in AUTH_KEYS:
        if key in values:
            value, source = values[key]
            say(f"{key} = {_toml('********' if key in _SECRET_KEYS else value)}  # {source}")
    return ExitCode.OK


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, tuple):
        value = ",".join(map(str, value))
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
