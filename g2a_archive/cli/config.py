"""The configuration file (TOML): its options, `[auth]`, and profiles. No click here."""

from __future__ import annotations

from collections.abc import Collection, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from g2a_archive.archive.disk.domains import retry_transient
from g2a_archive.errors import InputError, redacted_repr

_LARGEST = 1 << 20
"""Bytes of a configuration file at most: what is larger is none, and need not have an end."""

ENV = "G2A_ARCHIVE_"
"""Every environment variable of ours begins so."""

AUTH_KEYS = (
    "token",
    "token_file",
    "client_id",
    "client_secret",
    "client_secret_file",
    "pat",
    "pat_file",
    "refresh_token_file",
    "token_url",
    "scheme",
)

SECRET_KEYS = {"token", "client_secret", "pat"}

_OTHERS = {"HOME", "XDG_CONFIG_HOME", "TMPDIR", "NETRC", "BROWSER", "NO_COLOR", "COLUMNS", "LINES"}
"""Variables that are not ours, and are read somewhere; of proxies, requests knows best."""


def drop_empty(environ: MutableMapping[str, str]) -> None:
    """Take empty variables away: a script that sets one so means that it is not set."""
    for name, value in [*environ.items()]:
        if not value and (name.startswith(ENV) or name in _OTHERS):
            del environ[name]


@dataclass(frozen=True, slots=True)
class Config:
    """What the file says, with the chosen profile laid over it; `path` is None without a file.

    `unread` says why a file in the usual place was passed over: another user's home, say.
    """

    path: Path | None = None
    profile: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    auth: Mapping[str, str] = field(default_factory=dict, repr=False)
    unread: str | None = None


def load_config(
    path: Path, *, required: bool, profile: str | None, known: Collection[str]
) -> Config:
    """Read the file. `known` are the options that may stand in it, with underscores.

    Unless it is `required`, or a profile of it is asked for, a file that is not there or is not for
    this user is none. Raises `InputError` for one that cannot be read, for an unknown key (naming
    the nearest known one) or an unknown profile.
    """
    try:
        content = retry_transient(_read, path)
    except (FileNotFoundError, NotADirectoryError):
        if required or profile is not None:
            raise _absent(path, None if required else profile) from None
        return Config()
    except OSError as error:
        reason = f"cannot read the configuration file {path}: {error.strerror}"
        if required or profile is not None or not isinstance(error, PermissionError):
            raise InputError(reason, hint="check --config or G2A_ARCHIVE_CONFIG") from error
        return Config(unread=reason)
    data = _parse(content, path)
    profiles = data.pop("profiles", {})
    if not isinstance(profiles, dict) or not all(isinstance(p, dict) for p in profiles.values()):
        raise InputError(f"{path}: `profiles` must be tables such as [profiles.NAME]")
    options, auth = _split(data, path, "", known)
    for name, table in profiles.items():
        over_options, over_auth = _split(table, path, f"profiles.{name}.", known)
        if name == profile:
            options |= over_options
            # Another client has secrets of its own.
            replaced = _replaced_by(AUTH_KEYS if "client_id" in over_auth else over_auth)
            auth = {key: auth[key] for key in auth if key not in replaced} | over_auth
    if profile is not None and profile not in profiles:
        near = _near(profile, profiles)
        raise InputError(
            f"{path} has no profile {profile!r}{near}",
            hint="check --profile or G2A_ARCHIVE_PROFILE",
        )
    return Config(path, profile, options, auth)


def _absent(path: Path, profile: str | None) -> InputError:
    what, option = "", "config"
    if profile is not None:
        what, option = f" with a profile {profile!r}", "profile"
    return InputError(
        f"there is no configuration file {path}{what}",
        hint=f"check --{option} or {ENV}{option.upper()}",
    )


def _read(path: Path) -> bytes:
    with open(path, "rb") as file:  # which may be a pipe, as `<(…)` is
        return file.read(_LARGEST + 1)


def _parse(content: bytes, path: Path) -> dict[str, Any]:
    import tomllib  # which takes a while, and most have no file

    if len(content) > _LARGEST:
        raise InputError(f"{path} is too large for a configuration file", hint="check --config")
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # a number may be too long for Python
        # tomllib's message tells the line, not the content.
        raise InputError(f"the configuration file {path} is not TOML: {error}") from None


def _split(
    table: Mapping[str, Any], path: Path, where: str, known: Collection[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    options = dict(table)
    auth = options.pop("auth", {})
    if not isinstance(auth, dict):
        raise InputError(f"{path}: `{where}auth` must be a table, [{where}auth]")
    for key in options:
        if key not in known:
            near = _near(key, [*known, "auth", "profiles"])
            if key in AUTH_KEYS:
                near = f"; did you mean `auth.{key}`?"
            raise InputError(f"{path}: unknown key `{where}{key}`{near}")
    for key, value in auth.items():
        if key not in AUTH_KEYS:
            raise InputError(f"{path}: unknown key `{where}auth.{key}`{_near(key, AUTH_KEYS)}")
        if not isinstance(value, str):
            raise InputError(f"{path}: `{where}auth.{key}` must be a text in quotes")
    return options, dict(auth)


def nearest(word: str, known: Collection[str]) -> str | None:
    """The one of `known` that was probably meant: it begins so, or is nearly that; else None."""
    import difflib

    longer = [one for one in known if one.startswith(word)] if len(word) > 2 else []
    close = difflib.get_close_matches(word, longer or [*known], n=1, cutoff=0 if longer else 0.65)
    return close[0] if close else None


def _near(key: str, known: Collection[str]) -> str:
    close = nearest(key, known)
    return f"; did you mean `{close}`?" if close else ""


_METHODS = ("token", "token_file", "pat", "pat_file", "refresh_token_file")
_CLIENT_SECRETS = ("client_secret", "client_secret_file")


def _replaced_by(given: Collection[str]) -> set[str]:
    """What else does not count beside the keys that are given: one method, and one secret."""
    groups = (group for group in (_METHODS, _CLIENT_SECRETS) if any(key in given for key in group))
    return {key for group in groups for key in group}


def exposed(config: Config) -> str | None:
    """What to warn of, where the file holds a secret and others can read it."""
    if config.path is None or not SECRET_KEYS & set(config.auth):
        return None
    try:
        mode = config.path.stat().st_mode & 0o777
    except OSError:
        return None
    if not mode & 0o044:
        return None
    return f"the secrets in {config.path} can be read by others (mode {mode:04o}): chmod 600 it"


def auth_values(config: Config, environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """The credentials' settings in force: key to (value, where it came from).

    Where the environment names a token or a grant, those of the file don't count; nor does the
    file's client secret where the environment has one, by value or by file.
    """
    names = {key: key.upper() for key in AUTH_KEYS} | {"scheme": "AUTH_SCHEME"}
    from_env = {key: value for key, name in names.items() if (value := environ.get(f"{ENV}{name}"))}
    skip = _replaced_by(from_env)
    values = {
        key: (value, f"file {config.path}") for key, value in config.auth.items() if key not in skip
    }
    values |= {key: (value, "environment") for key, value in from_env.items()}
    for key, (value, source) in values.items():
        if key.endswith("_file") and value:
            values[key] = file_named(value, f"{key} ({source})"), source
    scheme = values.get("scheme")
    if scheme is not None and scheme[0] not in ("bearer", "oauth"):
        raise InputError(
            f"the authorization scheme {redacted_repr(scheme[0])} ({scheme[1]}) is not known",
            hint="use bearer or oauth",
        )
    return values


def file_named(value: str, where: str) -> str:
    """The path that a setting names, as an option's is read. Raises `InputError`."""
    from g2a_archive.cli.values import path  # which takes a while, and `--help` needs none

    try:
        return path(value)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None
