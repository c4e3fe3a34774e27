"""The proxies: squid, tinyproxy, Apache and microsocks, each open, with a password, or refusing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.servers import ServerError, find, running

from .origins import Places, filled

USER, PASSWORD = "me", "r.ght"

_SQUID = """
http_port 127.0.0.1:@squid@ name=open
http_port 127.0.0.1:@squid, password@ name=password
http_port 127.0.0.1:@squid, refuses@ name=refuses
https_port 127.0.0.1:@squid, TLS@ name=tls tls-cert=@work@/good.pem
acl at_password myportname password
acl at_refuses myportname refuses
auth_param basic program @work@/squid-passwords
auth_param basic realm interop
acl known proxy_auth REQUIRED
http_access deny at_refuses
http_access allow at_password known
http_access deny at_password
http_access allow all
hosts_file @work@/hosts
dns_nameservers 127.0.0.1
pid_filename @work@/squid/squid.pid
access_log stdio:@work@/squid/access.log
cache_log @work@/squid/cache.log
coredump_dir @work@/squid
cache_mem 64 MB
maximum_object_size_in_memory 8 MB
shutdown_lifetime 0 seconds
visible_hostname interop
"""

_SQUID_PASSWORDS = f"""#!/bin/sh
while read -r user password; do
    case "$user $password" in
        "{USER} {PASSWORD}") echo OK ;;
        *) echo ERR ;;
    esac
done
"""

_TINYPROXY = """
Port @port@
Listen 127.0.0.1
Timeout 30
LogFile "@log@"
LogLevel Connect
MaxClients 64
Allow 127.0.0.1
@lines@
"""
_TINYPROXIES = {
    "tinyproxy": "",
    "tinyproxy, password": f"BasicAuth {USER} {PASSWORD}",
    "tinyproxy, refuses": 'Filter "@work@/nothing"\nFilterDefaultDeny Yes',
}

FORWARD: Mapping[str, str] = dict.fromkeys(
    ("apache proxy", "apache proxy, TLS"),
    'ProxyRequests On\nAllowCONNECT 1-65535\nCustomLog "@work@/forward.log" requests\n'
    '<Proxy "*">\nRequire all granted\n</Proxy>',
)
"""Virtual hosts of Apache that are proxies."""

_SOCKS = {"microsocks": [], "microsocks, password": ["-u", USER, "-P", PASSWORD]}

NAMES = (
    *("squid", "squid, password", "squid, refuses", "squid, TLS"),
    *_TINYPROXIES,
    *FORWARD,
    *_SOCKS,
)


@dataclass(frozen=True)
class Proxy:
    """A running proxy: its port, and the log that names the hosts it was asked for."""

    port: int
    log: Path

    def asked_for(self, port: int, since: int) -> bool:
        """Whether its log speaks of this port of a host, behind the first `since` bytes."""
        return f":{port}" in self.log.read_text(errors="replace")[since:]

    @property
    def mark(self) -> int:
        """Where the log ends now, for `asked_for`."""
        return len(self.log.read_text(errors="replace")) if self.log.exists() else 0


@contextmanager
def squid(places: Places) -> Iterator[dict[str, Proxy]]:
    """Squid, with its ports. Raises `ServerError`, as the others do."""
    program = find("squid")
    if program is None:
        raise ServerError("squid is not installed")
    folder = places.work / "squid"
    folder.mkdir()
    if os.geteuid() == 0:
        shutil.chown(folder, "proxy", "proxy")
    helper = places.work / "squid-passwords"
    helper.write_text(_SQUID_PASSWORDS)
    helper.chmod(0o755)
    (places.work / "hosts").write_text("127.0.0.1 localhost files.test xn--bcher-kva.test\n")
    config = places.work / "squid.conf"
    config.write_text(filled(_SQUID, places.values()))
    # A name of its own, for the shared memory: another squid may run on this machine.
    command = [program, "-N", "-d", "1", "-n", f"interop{os.getpid()}", "-f", str(config)]
    with running(command, places.ports["squid"], places.work / "squid.out"):
        log = folder / "access.log"
        yield {n: Proxy(places.ports[n], log) for n in NAMES if n.startswith("squid")}


@contextmanager
def tinyproxies(places: Places) -> Iterator[dict[str, Proxy]]:
    """A tinyproxy of each sort."""
    program = find("tinyproxy")
    if program is None:
        raise ServerError("tinyproxy is not installed")
    (places.work / "nothing").write_text("")
    with ExitStack() as stack:
        found = {}
        for name, lines in _TINYPROXIES.items():
            port, stem = places.ports[name], places.work / name.replace(", ", "-")
            log, config = stem.with_suffix(".log"), stem.with_suffix(".conf")
            values = {**places.values(), "port": port, "log": log, "lines": lines}
            config.write_text(filled(_TINYPROXY, values))
            command = [program, "-d", "-c", str(config)]
            stack.enter_context(running(command, port, stem.with_suffix(".out")))
            found[name] = Proxy(port, log)
        yield found


@contextmanager
def microsocks(places: Places) -> Iterator[dict[str, Proxy]]:
    """SOCKS 5, with and without a password."""
    program = find("microsocks")
    if program is None:
        raise ServerError("microsocks is not installed")
    with ExitStack() as stack:
        found = {}
        for name, extra in _SOCKS.items():
            port, log = places.ports[name], places.work / f"{name.replace(', ', '-')}.log"
            command = [program, "-i", "127.0.0.1", "-p", str(port), *extra]
            stack.enter_context(running(command, port, log))
            found[name] = Proxy(port, log)
        yield found
