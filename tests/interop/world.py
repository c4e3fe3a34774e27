"""All servers and proxies, running; runs one case after the other."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import benchmarks.servers as servers

from g2a_archive.demo import Behaviour, SimulatedService

from . import corpus, origins, proxies
from .cases import LARGE, Case
from .peers import LATE, PEERS, Errand, Outcome
from .relay import Relay
from .results import Row

_KEY = "0123456789abcdef"
"""What stands for a link's secret."""

_IDLE = 1.6
"""Seconds; the sites that are `idle for 1 s` close a connection by then."""


class World:
    """Made by `start`; `missing` says what is not there."""

    def __init__(self, work: Path, stack: ExitStack) -> None:
        self.missing: list[str] = []
        self._work = work
        names = (*origins.NGINX, *origins.APACHE, *proxies.NAMES, "nowhere")
        ports = servers.free_ports(len(names))
        self._places = origins.Places(work, dict(zip(names, ports, strict=True)))
        self._corpora = {False: corpus.few(work), True: corpus.large(work)}
        self._bundle = origins.write_certificates(work)
        self._proxies: dict[str, proxies.Proxy] = {}
        self._there = {"nowhere"}
        self._count = 0
        starters: dict[str, AbstractContextManager[dict[str, proxies.Proxy] | None]] = {
            "nginx": origins.nginx(self._places),
            "apache": origins.apache(self._places, proxies.FORWARD),
            "squid": proxies.squid(self._places),
            "tinyproxy": proxies.tinyproxies(self._places),
            "microsocks": proxies.microsocks(self._places),
        }
        for name, starter in starters.items():
            try:
                found = stack.enter_context(starter)
                self._proxies.update(found or {})
                self._there.add(name)
            except servers.ServerError as error:
                self.missing.append(str(error))
        if "apache" in self._there:
            log = work / "forward.log"
            ports_of = self._places.ports
            self._proxies |= {n: proxies.Proxy(ports_of[n], log) for n in proxies.FORWARD}
        everything = [one for made in self._corpora.values() for one in made.recordings]
        behaviour = Behaviour(rate_limit=None)
        self._service = stack.enter_context(SimulatedService(everything, behaviour))

    @classmethod
    @contextmanager
    def start(cls, work: Path) -> Iterator[World]:
        """Start all that is installed, and end it."""
        work.chmod(0o755)  # servers that are started by root work as somebody else
        (work / "passwords").write_text("me:{PLAIN}secret\n")
        (work / "netrc").write_text("machine localhost login me password secret\n")
        with ExitStack() as stack:
            yield cls(work, stack)

    def can(self, case: Case) -> bool:
        """Whether what the case needs is there."""
        needed = {name for name in _SERVERS if name in case.servers}
        return needed <= self._there

    def run(self, case: Case) -> Row:
        """Let each of them fetch the files of a case."""
        chosen = self._corpora[case.site in LARGE]
        with ExitStack() as stack:
            host = self._places.ports[case.site]
            proxy = self._places.ports.get(case.proxy, 0)
            relay = None
            if (cut := case.cut) is not None:
                target = host if cut.near == "host" else proxy
                relay = Relay(target, after=cut.after, cuts=cut.cuts, reset=cut.reset)
                stack.callback(relay.close)
                host, proxy = (relay.port, proxy) if cut.near == "host" else (host, relay.port)
            env = self._environment(case, host, proxy)
            base = f"{_scheme(case)}://{case.host}:{host}{case.path}"
            links = {name: f"{base}{name}?key={_KEY}" for name in chosen.digests}
            outcomes = {}
            for peer in PEERS:
                if relay is not None:
                    relay.again()
                errand = self._errand(case, chosen, links, env)
                outcomes[peer] = self._one(case, peer, errand, host)
                shutil.rmtree(errand.folder)
        return Row(case, chosen.digests, outcomes)

    def _errand(
        self, case: Case, chosen: corpus.Corpus, links: Mapping[str, str], env: Mapping[str, str]
    ) -> Errand:
        self._count += 1
        folder = self._work / f"run-{self._count}"
        folder.mkdir()
        return Errand(
            service=self._service,
            ids=chosen.ids,
            links=links,
            env=env,
            folder=folder,
            options=("--retries", "1" if case.attempts == 1 else "6"),
            attempts=case.attempts,
            pause=_IDLE if case.stale else 0.0,
        )

    def _one(self, case: Case, peer: str, errand: Errand, host_port: int) -> Outcome:
        proxy = self._proxies.get(case.proxy)
        since = proxy.mark if proxy else 0
        calls = 0

        def point(entries: list[dict[str, object]]) -> None:
            nonlocal calls
            calls += 1
            for entry in entries:
                for field, suffix in corpus.FIELDS.items():
                    if field in entry:
                        entry[field] = errand.links[f"{entry['recordingId']}{suffix}"]
                if case.stale and calls == 1 and entry["recordingId"] == errand.ids[0]:
                    entry["recordingUrl"] = f"{entry['recordingUrl']}".replace("?", ".gone?")

        self._service.behaviour.link_latency = _IDLE if case.stale else 0.0
        self._service.on_links[:] = [point]
        try:
            outcome = PEERS[peer](errand)
        except subprocess.TimeoutExpired:
            outcome = Outcome(complaint=f"no end within {LATE:g} s")
        outcome.linked = peer != "ours" or calls > 0
        outcome.proxied = proxy is not None and proxy.asked_for(host_port, since)
        return outcome

    def _environment(self, case: Case, host_port: int, proxy_port: int) -> dict[str, str]:
        address = f"localhost:{proxy_port}"
        values: dict[str, object] = {
            "proxy": f"http://{address}",
            "address": address,
            "port": host_port,
            "work": self._work,
            "password": "".join(f"%{byte:02X}" for byte in proxies.PASSWORD.encode()),
        }
        told = {name: text.format(**values) for name, text in case.env.items()}
        bundle = dict.fromkeys(("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"), str(self._bundle))
        return {**bundle, **told}


_SERVERS = ("nginx", "apache", "squid", "tinyproxy", "microsocks")


def _scheme(case: Case) -> str:
    return "https" if origins.is_tls(case.site) or case.name.startswith("https://") else "http"
