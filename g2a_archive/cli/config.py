"""The configuration file (TOML): its options, and `[auth]`. No click here."""

from __future__ import annotations

from collections.abc import Collection, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from g2a_archive.errors import InputError

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

_CHECK = "check --config or G2A_ARCHIVE_CONFIG"
_SECRETS = {"token", "client_secret", "pat"}


_OTHERS = {"HOME", "XDG_CONFIG_HOME", "TMPDIR", "NETRC", "BROWSER", "NO_COLOR", "COLUMNS", "LINES"}
"""Variables that are not ours, and are read somewhere; of proxies, requests knows best."""


def drop_empty(environ: MutableMapping[str, str]) -> None:
    """Take empty variables away: a script that sets one so means that it is not set."""
    for name, value in [*environ.items()]:
        if not value and (name.startswith(ENV) or name in _OTHERS):
            del environ[name]


@dataclass(frozen=True, slots=True)
class Config:
    """What the file says; `path` is None without a file.

    `unread` says why a file in the usual place was passed over: another user's home, say.
    """

    path: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    auth: Mapping[str, str] = field(default_factory=dict, repr=False)
    unread: str | None = None


def load_config(path: Path, *, required: bool, known: Collection[str]) -> Config:
    """Read the file. `known` are the options that may stand in it, with underscores.

    Unless it is `required`, a file that is not there or is not for this user is none. Raises
    `InputError` for one that cannot be read, or for an unknown key, naming the nearest known one.
    """
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if required:
            raise InputError(f"there is no configuration file {path}", hint=_CHECK) from None
        return Config()
    except OSError as error:
        reason = f"cannot read the configuration file {path}: {error.strerror}"
        if required or not isinstance(error, PermissionError):
            raise InputError(reason, hint=_CHECK) from error
        return Config(unread=reason)
    options = _parse(content, path)
    auth = options.pop("auth", {})
    if not isinstance(auth, dict):
        raise InputError(f"{path}: `auth` must be a table, [auth]")
    for key in options:
        if key not in known:
            raise InputError(f"{path}: unknown key `{key}`{_near(key, known)}")
    for key, value in auth.items():
        if key not in AUTH_KEYS:
            raise InputError(f"{path}: unknown key `auth.{key}`{_near(key, AUTH_KEYS)}")
        if not isinstance(value, str):
            raise InputError(f"{path}: `auth.{key}` must be a text in quotes")
    return Config(path, options, auth)


def _parse(content: bytes, path: Path) -> dict[str, Any]:
    import tomllib  # which takes a while, and most have no file

    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        # tomllib's message tells the line, not the content.
        raise InputError(f"the configuration file {path} is not TOML: {error}") from None


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
    if config.path is None or not _SECRETS & set(config.auth):
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
    from_env = {
        key: environ[f"{ENV}{_env_name(key)}"]
        for key in AUTH_KEYS
        if environ.get(f"{ENV}{_env_name(key)}")
    }
    skip = _replaced_by(from_env)
    values = {
        key: (value, f"file {config.path}") for key, value in config.auth.items() if key not in skip
    }
    values |= {key: (value, "environment") for key, value in from_env.items()}
    scheme = values.get("scheme")
    if scheme is not None and scheme[0] not in ("bearer", "oauth"):
        raise InputError(
            f"the authorization scheme {scheme[0]!r} ({scheme[1]}) is not known",
            hint="use bearer or oauth",
        )
    return values


def _env_name(key: str) -> str:
    return "AUTH_SCHEME" if key == "scheme" else key.upper()
