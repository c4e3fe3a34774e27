"""What is tried: a site of a file host, a proxy or none, and what the environment says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from .origins import APACHE, NGINX
from .proxies import USER

LARGE = ("nginx, slow", "nginx, slow, no ranges", "nginx, TLS, slow", "apache, slow")
"""Sites with the large file."""


@dataclass(frozen=True)
class Cut:
    """A bad line: the first `cuts` connections are cut, each after `after` bytes.

    `near` the host, so that a proxy sees it, or else between client and proxy.
    """

    after: int = 700_000
    cuts: int = 4
    reset: bool = False
    near: str = "host"


@dataclass(frozen=True)
class Case:
    """One line of the table.

    `env` may name `{proxy}`, `{address}` (the same without a scheme), `{port}` (the host's) and
    `{work}`. `host` stands in the links, and `path` before the names. `stale`: the links are asked
    for once more, and meanwhile a connection is idle for longer than the host keeps it. `why`: the
    reason where g2a-archive and the others do not do alike.
    """

    name: str
    site: str
    proxy: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    host: str = "localhost"
    path: str = "/"
    cut: Cut | None = None
    attempts: int = 1
    stale: bool = False
    why: str = ""

    @property
    def servers(self) -> str:
        """What must be there for it, in words that are searched for names."""
        site = NGINX.get(self.site) or APACHE.get(self.site, "")
        return f"{self.site} {site} {self.proxy}"


_STORES_PAGES = "the others take any 200 for the file"

SITE_NOTES: Mapping[str, str] = {
    "nginx, a page for 404": _STORES_PAGES,
    "nginx, JSON for expired": _STORES_PAGES,
    "nginx, XML for denied": _STORES_PAGES,
    "apache, odd coding": "curl refuses a Content-Encoding that it does not know",
    "nginx, 429 to many": "curl, in a row, gives up sooner",
}


def _sites() -> Iterator[Case]:
    """Each site by itself."""
    for name in (*NGINX, *APACHE):
        if name == "nginx, sends X-Accel":  # serves the other one
            continue
        busy = "to many" in name
        host = {"nginx, IPv6": "[::1]"}.get(name, "localhost")
        yield Case(
            name,
            name,
            host=host,
            path="/d\u00e9j\u00e0/%41%2f/" if name == "nginx, odd path" else "/",
            attempts=8 if busy else 1,
            stale="idle" in name,
            why=SITE_NOTES.get(name, ""),
        )
    yield Case(
        "nginx, a password that .netrc has",
        "nginx, wants a password",
        env={"NETRC": "{work}/netrc"},
        why="a link's host never gets what .netrc holds; requests sends it, curl when told to",
    )
    yield Case(
        "nginx, a blank in the path",
        "nginx, odd path",
        path="/a b/",
        why="curl takes no blank in an address",
    )


def _cuts() -> Iterator[Case]:
    for site in (
        "nginx",
        "nginx, no ranges",
        "nginx, a date only",
        "nginx, no validators",
        "nginx, TLS",
        "nginx, sub_filter",
        "nginx, gunzip",
        "nginx, proxy_pass",
        "nginx, cache and slice",
        "apache",
        "apache, no ranges",
        "apache, no ETag",
        "apache, gzip always",
        "apache, HTTP/1.0",
        "apache, filtered",
        "apache, Content-MD5",
        "apache, TLS",
    ):
        for reset in (False, True):
            yield Case(
                f"{site}: {'reset' if reset else 'closed'} early",
                site,
                cut=Cut(reset=reset),
                attempts=12,
            )
    for site in LARGE:
        cut = Cut(after=5_000_000)
        yield Case(f"{site}: 40 MB, closed early", site, cut=cut, attempts=20)


def _through_proxies() -> Iterator[Case]:
    for proxy in ("squid", "tinyproxy", "apache proxy"):
        for site in _PROXIED:
            yield _by(proxy, site)
        for site in ("nginx", "nginx, no ranges", "nginx, TLS", "apache"):
            for near in ("host", "proxy"):
                name = f"{site} by {proxy}: cut near the {near}"
                yield replace(_by(proxy, site), name=name, cut=Cut(near=near), attempts=12)
        yield _by(proxy, "nowhere", name=f"a host that is not there, by {proxy}")
    for proxy in ("squid, TLS", "apache proxy, TLS"):
        # Not to plain http: there, requests does not look at the proxy's certificate, and warns.
        for site in ("nginx, TLS", "nginx, TLS, no length", "nginx, TLS, slow", "apache, TLS"):
            yield _by(proxy, site, {"https_proxy": "https://{address}"})
        case = _by(proxy, "nginx, TLS", {"https_proxy": "https://{address}"})
        for near in ("host", "proxy"):
            name = f"{case.name}: cut near the {near}"
            yield replace(case, name=name, cut=Cut(near=near), attempts=12)
    for host in ("files.test", "b\u00fccher.test"):
        case = _by("squid", "nginx, TLS", name=f"https://{host}, which only squid knows")
        yield replace(case, host=host)
    yield replace(_by("squid", "nginx, IPv6", name="http://[::1] by squid"), host="[::1]")
    for scheme in ("socks5", "socks5h", "socks4"):
        for site in ("nginx", "nginx, TLS"):
            env = {"ALL_PROXY": f"{scheme}://{{address}}"}
            yield _by("microsocks", site, env, name=f"{site} by {scheme}")


def _refusals() -> Iterator[Case]:
    """What a proxy refuses: the links' hosts alone, or the calls to the service, too."""
    for proxy in ("squid, refuses", "tinyproxy, refuses"):
        for site in ("nginx", "nginx, TLS"):
            yield _by(proxy, site, {**_both("http://{address}"), **_CALLS_DIRECT})
            yield _by(proxy, site, name=f"{site} by {proxy}, the calls too")
    for proxy in ("squid, password", "tinyproxy, password", "microsocks, password"):
        socks = proxy.startswith("micro")
        for user, shown in _USERS.items():
            for site in ("nginx", "nginx, TLS"):
                url = f"{'socks5h' if socks else 'http'}://{user}{{address}}"
                env = {"ALL_PROXY": url} if socks else _both(url)
                direct = {} if shown == "right user" else _CALLS_DIRECT
                yield _by(proxy, site, {**env, **direct}, name=f"{site} by {proxy}, {shown}")


_PROXIED = (
    "nginx",
    "nginx, TLS",
    "nginx, no ranges",
    "nginx, sub_filter",
    "nginx, idle for 1 s",
    "nginx, gzip always",
    "nginx, slow",
    "nginx, TLS, slow",
    "nginx, 302 to apache",
    "nginx, 301 to TLS",
    "nginx, TLS, expired",
    "nginx, 404",
    "nginx, 503",
    "apache",
    "apache, HTTP/1.0",
    "apache, filtered",
    "apache, gzip always",
)
_CALLS_DIRECT = {"NO_PROXY": "127.0.0.1"}
_USERS = {f"{USER}:{{password}}@": "right user", f"{USER}:wrong@": "wrong user", "": "no user"}


def _both(url: str) -> dict[str, str]:
    return {"http_proxy": url, "https_proxy": url}


def _by(proxy: str, site: str, env: Mapping[str, str] | None = None, *, name: str = "") -> Case:
    env = env or _both("http://{address}")
    return Case(name or f"{site} by {proxy}", site, proxy, env, stale="idle" in site)


_UPPER = "of http_proxy, curl heeds lower case only"
_ENVIRONMENTS: tuple[tuple[dict[str, str], str], ...] = (
    ({"HTTP_PROXY": "{proxy}"}, ""),
    ({"http_proxy": "{address}"}, "requests wants http:// where a proxy's name has no dot"),
    ({"ALL_PROXY": "{proxy}"}, ""),
    ({"all_proxy": "{proxy}"}, ""),
    ({"http_proxy": "", "HTTP_PROXY": "{proxy}"}, ""),
    ({"http_proxy": "", "ALL_PROXY": "{proxy}"}, ""),
    ({"https_proxy": "{proxy}"}, ""),
    ({"http_proxy": "http://{address}/"}, ""),
    ({"http_proxy": "{proxy}", "NO_PROXY": "localhost"}, ""),
    ({"http_proxy": "{proxy}", "no_proxy": "localhost"}, ""),
    ({"http_proxy": "{proxy}", "NO_PROXY": "LOCALHOST"}, ""),
    ({"http_proxy": "{proxy}", "NO_PROXY": ".localhost"}, ""),
    ({"http_proxy": "{proxy}", "NO_PROXY": "*"}, ""),
    ({"http_proxy": "{proxy}", "NO_PROXY": "example.com, localhost "}, ""),
    ({"http_proxy": "{proxy}", "NO_PROXY": "host"}, ""),
    ({"http_proxy": "{proxy}", "NO_PROXY": "localhost:{port}"}, ""),
    ({"http_proxy": "{proxy}", "NO_PROXY": "localhost:1"}, ""),
    ({"http_proxy": "{proxy}", "NO_PROXY": "127.0.0.1", "no_proxy": "localhost"}, ""),
    ({"http_proxy": "{proxy}", "NO_PROXY": "localhost", "no_proxy": ""}, ""),
)
_NUMBERS = (
    "127.0.0.1",
    "127.0.0.0/8",
    "127.0.0.1/32",
    "10.0.0.0/8",
    "127.0.0.1:{port}",
    "127.0.0.1:1",
    "127.0.0.0/8:{port}",
    "127.0.0.",
    "::1",
)


def _environments() -> Iterator[Case]:
    for env, why in _ENVIRONMENTS:
        yield Case(_named(env), "nginx", proxy="squid", env=env, why=why)
    for text in _NUMBERS:
        env = {"http_proxy": "{proxy}", "NO_PROXY": text}
        yield Case(f"http://127.0.0.1, {_named(env)}", "nginx", "squid", env, host="127.0.0.1")
    for text in ("::1", "[::1]", "::1/128"):
        env = {"http_proxy": "{proxy}", "NO_PROXY": text}
        yield Case(f"http://[::1], {_named(env)}", "nginx, IPv6", "squid", env, host="[::1]")


def _named(env: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in env.items()).replace("{proxy}", "squid")


CASES = (*_sites(), *_cuts(), *_through_proxies(), *_refusals(), *_environments())
"""All of them."""
