"""What a host tells of a file's digest, in the headers that are in use for it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping

_NAMES = {
    "md5": "md5",
    "sha": "sha1",
    "sha-1": "sha1",
    "sha-256": "sha256",
    "sha256": "sha256",
    "sha-384": "sha384",
    "sha-512": "sha512",
    "sha512": "sha512",
}
_LENGTHS = {"md5": 16, "sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}


def parse_digests(headers: Mapping[str, str], *, partial: bool) -> dict[str, bytes]:
    """Digests of the whole file as it is sent, by hashlib's names.

    `Content-MD5` (RFC 1864) is of the body, so it says nothing of a file of which a `partial`
    answer is a part. `Digest` (RFC 3230), `Repr-Digest` (RFC 9530), `x-goog-hash` and
    `x-amz-checksum-sha256` are of the whole file. What cannot be read is passed over.
    """
    found: dict[str, bytes] = {}  # b"", which none is, where two differ
    for name, text in _told(headers, partial=partial):
        try:
            text = text.strip().strip(":")
            value = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except (binascii.Error, ValueError):
            continue
        if name in _LENGTHS and len(value) == _LENGTHS[name]:
            found[name] = value if found.get(name, value) == value else b""
    return found


def _told(headers: Mapping[str, str], *, partial: bool) -> Iterator[tuple[str, str]]:
    for text in headers.get("Content-MD5", "").split(",") if not partial else ():
        yield "md5", text
    for header in ("Repr-Digest", "Digest", *(() if partial else ("Content-Digest",))):
        yield from _pairs(headers.get(header, ""))
    # Google's storage unpacks what is stored compressed, and tells the digest of what is stored.
    if headers.get("x-goog-stored-content-encoding", "identity").strip().lower() == "identity":
        yield from _pairs(headers.get("x-goog-hash", ""))
    # That of a file that was sent in parts may be one of its parts' digests.
    if headers.get("x-amz-checksum-type", "").strip().upper() != "COMPOSITE":
        for text in headers.get("x-amz-checksum-sha256", "").split(","):
            yield "sha256", text


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        yield _NAMES.get(name.strip().lower(), ""), value.partition(";")[0]
