"""The file hosts: one nginx and one Apache, each with many sites on ports of their own."""

from __future__ import annotations

import datetime
import os
import pwd
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme
from benchmarks.servers import ServerError, find, running

_SUB = "sub_filter_types *; sub_filter_once off; sub_filter 'nowhere-in-any-file' ''; @root@"
_UP = "proxy_http_version 1.1; proxy_set_header Connection ''; proxy_set_header Host localhost;"
_FILTERED = (
    "AddOutputFilter SUBSTITUTE mp4 events jpg\n"
    'Substitute "s/nowhere-in-any-file//n"\nSubstituteMaxLineLength 20m'
)
_OLD = "SetEnv force-response-1.0 1\nSetEnv downgrade-1.0 1"

NGINX: Mapping[str, str] = {
    "nginx": "@root@",
    "nginx, no ranges": "max_ranges 0; @root@",
    "nginx, no validators": "etag off; add_header Last-Modified ''; @root@",
    "nginx, a date only": "etag off; @root@",
    "nginx, neither": "max_ranges 0; etag off; add_header Last-Modified ''; @root@",
    "nginx, idle for 1 s": "keepalive_timeout 1s; @root@",
    "nginx, 1 request a connection": "keepalive_requests 1; @root@",
    "nginx, 2 requests a connection": "keepalive_requests 2; @root@",
    "nginx, gzip on": "gzip on; gzip_types *; gzip_min_length 0; gzip_proxied any; @root@",
    "nginx, gzip always": "gzip_static always; location / { root @packed@; }",
    "nginx, gunzip": "gzip_static always; gunzip on; location / { root @packed@; }",
    "nginx, sub_filter": _SUB,
    "nginx, proxy_pass": "location / { proxy_pass http://127.0.0.1:@apache@; }",
    "nginx, proxy_pass, 1.1": f"{_UP} proxy_buffering off;"
    " location / { proxy_pass http://127.0.0.1:@apache@; }",
    "nginx, proxy_pass, chunked": f"{_UP}"
    " location / { proxy_pass http://127.0.0.1:@apache, filtered@; }",
    "nginx, proxy_pass to HTTP/1.0": f"{_UP}"
    " location / { proxy_pass http://127.0.0.1:@apache, HTTP/1.0 without length@; }",
    "nginx, cache and slice": "location / { slice 256k; proxy_cache store;"
    " proxy_cache_key $uri$slice_range; proxy_set_header Range $slice_range;"
    " proxy_cache_valid 200 206 1h; proxy_http_version 1.1;"
    " proxy_pass http://127.0.0.1:@apache@; }",
    "nginx, forced ranges": "proxy_force_ranges on; location / { proxy_cache store;"
    " proxy_cache_key forced$uri; proxy_cache_valid 200 1h;"
    " proxy_pass http://127.0.0.1:@apache, no ranges@; }",
    "nginx, X-Accel-Redirect": "location / { proxy_pass http://127.0.0.1:@nginx, sends X-Accel@; }"
    " location /hidden/ { internal; alias @files@/; }",
    "nginx, sends X-Accel": "location / { add_header X-Accel-Redirect /hidden$uri; return 200; }",
    "nginx, slow": "limit_rate 6m; location / { root @large@; }",
    "nginx, slow, no ranges": "max_ranges 0; limit_rate 20m; location / { root @large@; }",
    "nginx, 503 to many": "limit_conn few 1; limit_rate 2m; @root@",
    "nginx, 429 to many": "limit_req zone=rate burst=1 nodelay; limit_req_status 429; @root@",
    "nginx, 302 to apache": "return 302 http://localhost:@apache@$request_uri;",
    "nginx, 307, relative": "absolute_redirect off; location / { return 307 ../moved$request_uri; }"
    " location /moved/ { @alias@ }",
    "nginx, 301 to TLS": "return 301 https://localhost:@nginx, TLS@$request_uri;",
    "nginx, 302 for ever": "return 302 /again$request_uri;",
    "nginx, a page for 404": "root @work@/nowhere; error_page 404 =200 /sorry.html;"
    " location = /sorry.html { default_type text/html;"
    " return 200 '<!DOCTYPE html><html><body>Sorry</body></html>'; }",
    "nginx, JSON for expired": "default_type application/json;"
    ' return 200 \'{"error": "expired"}\';',
    "nginx, XML for denied": "default_type application/xml; return 200"
    " '<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>';",
    **{f"nginx, {status}": f"return {status};" for status in (403, 404, 410, 444, 500, 503)},
    "nginx, all of it text/html": "types {} default_type text/html; @root@",
    "nginx, wants a password": "auth_basic files; auth_basic_user_file @work@/passwords; @root@",
    "nginx, odd path": "location / { rewrite ^/.*/([0-9.a-z]+)$ /$1 break; root @files@; }",
    "nginx, TLS": "@root@",
    "nginx, TLS 1.2": "ssl_protocols TLSv1.2; @root@",
    "nginx, TLS 1.3": "ssl_protocols TLSv1.3; @root@",
    "nginx, TLS, no sessions": "ssl_session_tickets off; ssl_session_cache off; @root@",
    "nginx, TLS, no length": _SUB,
    "nginx, TLS, 1 request a connection": "keepalive_requests 1; @root@",
    "nginx, TLS, slow": "limit_rate 6m; location / { root @large@; }",
    "nginx, TLS, expired": "@root@",
    "nginx, TLS, other name": "@root@",
    "nginx, TLS, unknown authority": "@root@",
    "nginx, TLS, wants a certificate": "ssl_verify_client on;"
    " ssl_client_certificate @work@/authority.pem; @root@",
    "nginx, HTTP/2": "@root@",
    "nginx, IPv6": "@root@",
}
"""What is in each server block. `@name@` is the port of a site, a path, or a block."""

APACHE: Mapping[str, str] = {
    "apache": "",
    "apache, no ranges": "MaxRanges none\nHeader unset Accept-Ranges",
    "apache, no ETag": "FileETag None",
    "apache, idle for 1 s": "KeepAliveTimeout 1",
    "apache, 1 request a connection": "KeepAlive Off",
    "apache, HTTP/1.0": _OLD,
    "apache, HTTP/1.0 without length": f"{_OLD}\n{_FILTERED}",
    "apache, filtered": _FILTERED,
    "apache, gzip always": "SetEnv force-gzip 1\nSetOutputFilter DEFLATE",
    "apache, Content-MD5": "ContentDigest On",
    "apache, all of it text/html": "ForceType text/html\nAddDefaultCharset utf-8",
    "apache, odd coding": "Header set Content-Encoding utf-8",
    "apache, proxy to nginx": "ProxyPass / http://127.0.0.1:@nginx@/",
    "apache, proxy to chunked": "ProxyPass / http://127.0.0.1:@nginx, sub_filter@/",
    "apache, rate": "SetOutputFilter RATE_LIMIT\nSetEnv rate-limit 900",
    "apache, slow": "DocumentRoot @large@\nSetOutputFilter RATE_LIMIT\nSetEnv rate-limit 8000",
    "apache, TLS": "",
    "apache, TLS, HTTP/1.0 without length": f"{_OLD}\n{_FILTERED}",
}
"""The same for Apache's virtual hosts."""

_CERTIFICATES = {
    "nginx, TLS, expired": "expired",
    "nginx, TLS, other name": "other",
    "nginx, TLS, unknown authority": "unknown",
}
_MODULES = (
    *("mpm_event", "unixd", "authz_core", "authn_core", "log_config", "mime", "headers"),
    *("setenvif", "env", "filter", "deflate", "substitute", "ratelimit"),
    *("proxy", "proxy_http", "proxy_connect", "ssl", "socache_shmcb"),
)

_NGINX_HEAD = """
@user@
daemon off;
pid @work@/nginx.pid;
events { worker_connections 512; }
http {
    access_log off;
    default_type application/octet-stream;
    types { video/mp4 mp4; image/jpeg jpg; }
    proxy_cache_path @work@/cache keys_zone=store:1m;
    limit_conn_zone $binary_remote_addr zone=few:1m;
    limit_req_zone $binary_remote_addr zone=rate:1m rate=5r/s;
    @temporary@
"""

_APACHE_HEAD = """
ServerRoot @work@
ServerName localhost
DefaultRuntimeDir @work@
PidFile @work@/apache.pid
ErrorLog @work@/apache.log
TypesConfig /dev/null
@modules@
@user@
<Directory "@work@">
    Require all granted
</Directory>
AddType video/mp4 .mp4
AddType image/jpeg .jpg
AddType application/octet-stream .events
LogFormat "%r" requests
"""


def is_tls(site: str) -> bool:
    """Whether a site speaks TLS."""
    return "TLS" in site.split(", ") or "TLS 1." in site or site == "nginx, HTTP/2"


def write_certificates(work: Path) -> Path:
    """Certificates with their keys, and the file that names the authority, which is returned."""
    authority, unknown = trustme.CA(), trustme.CA()
    bundle = work / "authority.pem"
    authority.cert_pem.write_to_path(bundle)
    names = ("localhost", "127.0.0.1", "::1", "files.test", "b\u00fccher.test")
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    for name, made in {
        "good": authority.issue_cert(*names),
        "expired": authority.issue_cert(*names, not_after=past),
        "other": authority.issue_cert("elsewhere.test"),
        "unknown": unknown.issue_cert(*names),
    }.items():
        made.private_key_and_cert_chain_pem.write_to_path(work / f"{name}.pem")
    return bundle


def filled(text: str, values: Mapping[str, object]) -> str:
    """`text` with what stands between two `@` replaced, until nothing is left to replace."""
    while True:
        found = re.sub(r"@([\w .,/-]+)@", lambda match: str(values[match[1]]), text)
        if found == text:
            return text
        text = found


@dataclass(frozen=True)
class Places:
    """Where everything is: the folder of this run, and each site's port."""

    work: Path
    ports: Mapping[str, int]

    def values(self) -> dict[str, object]:
        """What a configuration may name."""
        files = self.work / "files"
        return {
            **self.ports,
            "work": self.work,
            "files": files,
            "packed": self.work / "files-packed",
            "large": self.work / "large",
            "root": f"location / {{ root {files}; }}",
            "alias": f"alias {files}/;",
        }


@contextmanager
def nginx(places: Places) -> Iterator[None]:
    """All of nginx's sites. Raises `ServerError`."""
    program = find("nginx")
    if program is None:
        raise ServerError("nginx is not installed")
    temporary = "".join(
        f"{kind}_temp_path {places.work}/temporary-{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else ""
    blocks = [_NGINX_HEAD]
    for name, lines in NGINX.items():
        address = "[::1]" if name == "nginx, IPv6" else "127.0.0.1"
        extra = (" ssl" if is_tls(name) else "") + (" http2" if "HTTP/2" in name else "")
        certificate = f"{places.work}/{_CERTIFICATES.get(name, 'good')}.pem"
        secure = f"ssl_certificate {certificate}; ssl_certificate_key {certificate};"
        block = f"listen {address}:{places.ports[name]}{extra}; {secure * is_tls(name)} {lines}"
        blocks.append(f"server {{ {block} }}")
    values = {**places.values(), "user": user, "temporary": temporary}
    config = places.work / "nginx.conf"
    config.write_text(filled("\n".join([*blocks, "}"]), values))
    log = places.work / "nginx.log"
    command = [program, "-e", str(log), "-p", str(places.work), "-c", str(config)]
    with running(command, places.ports["nginx"], log):
        yield


@contextmanager
def apache(places: Places, forward: Mapping[str, str]) -> Iterator[None]:
    """All of Apache's sites, and the virtual hosts in `forward`. Raises `ServerError`."""
    program = find("apache2") or find("httpd")
    folders = [Path(one) for one in ("/usr/lib/apache2/modules", "/usr/lib64/httpd/modules")]
    modules = next((folder for folder in folders if folder.is_dir()), None)
    if program is None or modules is None:
        raise ServerError("Apache is not installed")
    loaded = [
        f"LoadModule {name}_module {modules}/mod_{name}.so"
        for name in _MODULES
        if (modules / f"mod_{name}.so").exists()
    ]
    blocks = [_APACHE_HEAD]
    for name, lines in {**APACHE, **forward}.items():
        secure = f"SSLEngine on\nSSLCertificateFile {places.work}/good.pem"
        block = f"DocumentRoot @files@\n{secure * is_tls(name)}\n{lines}"
        port = places.ports[name]
        blocks.append(
            f"Listen 127.0.0.1:{port}\n<VirtualHost 127.0.0.1:{port}>\n{block}\n</VirtualHost>"
        )
    user = f"User {pwd.getpwuid(65534).pw_name}" if os.geteuid() == 0 else ""
    values = {**places.values(), "modules": "\n".join(loaded), "user": user}
    config = places.work / "apache.conf"
    config.write_text(filled("\n".join(blocks), values))
    command = [program, "-D", "FOREGROUND", "-f", str(config)]
    with running(command, places.ports["apache"], places.work / "apache.log"):
        yield
