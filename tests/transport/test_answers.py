"""Bodies as hosts send them: what is taken, what is undone, and what is no answer at all."""

from __future__ import annotations

import base64
import gzip
import hashlib
import random
import socket
import ssl
import zlib
from contextlib import suppress
from functools import partial

import pytest
from support.bodies import body_of
from support.host import Host, answer, chunks

from g2a_archive.transport.downloads import Downloads
from g2a_archive.transport.errors import NetworkError

BODY = random.Random(5).randbytes(50_000) + b"\0" * 50_000
HALF = len(BODY) // 2
CHUNKED = "Transfer-Encoding: chunked"


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


def gz(*parts: bytes) -> bytes:
    return b"".join(gzip.compress(part) for part in parts)


def digest(name: str, data: bytes = BODY) -> str:
    return base64.b64encode(hashlib.new(name, data).digest()).decode()


TAKEN = {
    "plain": answer(BODY),
    "no length": answer(BODY, length=False),
    "chunked": answer(chunks(BODY), CHUNKED, length=False),
    "CHUNKED": answer(chunks(BODY), "transfer-encoding:CHUNKED", length=False),
    "the same length twice": answer(BODY, f"Content-Length: {len(BODY)}"),
    "a list of the same length": answer(
        BODY, f"Content-Length: {len(BODY)}, {len(BODY)}", length=False
    ),
    "gzip": answer(gz(BODY), "Content-Encoding: gzip"),
    "gzip, chunked": answer(chunks(gz(BODY)), CHUNKED, "Content-Encoding: gzip", length=False),
    "gzip of several members": answer(gz(BODY[:100], b"", BODY[100:]), "Content-Encoding: gzip"),
    "gzip, and zeros": answer(gz(BODY) + b"\0" * 700, "Content-Encoding: GZIP"),
    "deflate": answer(zlib.compress(BODY), "Content-Encoding: deflate"),
    "deflate as it is": answer(raw_deflate(BODY), "Content-Encoding: deflate"),
    "aws-chunked, which it is not": answer(BODY, "Content-Encoding: aws-chunked"),
    "utf-8": answer(BODY, "Content-Encoding: utf-8"),
    "binary": answer(BODY, "Content-Encoding: binary"),
    "none": answer(BODY, "Content-Encoding: none"),
    "identity": answer(BODY, "Content-Encoding: identity"),
    "x-gzip, with more to it": answer(gz(BODY), 'Content-Encoding: "X-Gzip";q=1'),
    "odd and gzip": answer(gz(BODY), "Content-Encoding: aws-chunked, gzip"),
    "header lines that are folded": answer(BODY, "X-Odd: a\r\n b"),
    "MD5": answer(BODY, f"Content-MD5: {digest('md5')}"),
    "the same MD5 twice": answer(BODY, *[f"Content-MD5: {digest('md5')}"] * 2),
    "a line that is no header": answer(BODY, "Via a proxy that has a style of its own"),
}
REFUSED = {
    "a blank behind chunked": (
        answer(chunks(BODY), CHUNKED + " ", length=False),
        "breaks|closed|transfer",
    ),
    "identity, chunked": (
        answer(chunks(BODY), "Transfer-Encoding: identity, chunked", length=False),
        "transfer coding",
    ),
    "chunked twice": (answer(chunks(BODY), CHUNKED, CHUNKED, length=False), "transfer coding"),
    "gzip as a transfer coding": (
        answer(gz(BODY), "Transfer-Encoding: gzip", length=False),
        "transfer coding",
    ),
    "two lengths": (answer(BODY, f"Content-Length: {HALF}"), "two lengths that differ"),
    "two lengths, the shorter first": (
        answer(BODY, f"Content-Length: {HALF}", f"Content-Length: {len(BODY)}", length=False),
        "two lengths that differ",
    ),
    "a list of lengths": (
        answer(BODY, f"Content-Length: {HALF}, {len(BODY)}", length=False),
        "two lengths that differ",
    ),
    "a length that is none": (answer(BODY, "Content-Length: -5", length=False), "cannot be"),
    "a length with a sign": (answer(BODY, f"Content-Length: +{HALF}", length=False), "cannot be"),
    "a length in Python": (answer(BODY, "Content-Length: 1_0", length=False), "cannot be"),
    "a length of 26 digits": (answer(BODY, "Content-Length: " + "9" * 26, length=False), "cannot"),
    "a short body": (answer(BODY)[:-1], "closed early"),
    "chunks without their end": (
        answer(chunks(BODY)[:-5], CHUNKED, length=False),
        "closed early",
    ),
    "a chunk's size, cut behind its first zero": (
        answer(chunks(BODY)[:-5] + b"0", CHUNKED, length=False),
        "closed early",
    ),
    "a chunk of no size": (
        answer(b"zz\r\n" + BODY, CHUNKED, length=False),
        "breaks|closed|transfer",
    ),
    "a part of another length": (
        answer(BODY, f"Content-Range: bytes 0-{HALF - 1}/{len(BODY)}", status="206 Partial"),
        "two lengths that differ",
    ),
    "a part in more chunks": (
        answer(
            chunks(BODY),
            CHUNKED,
            f"Content-Range: bytes 0-{HALF - 1}/{len(BODY)}",
            status="206 Partial",
            length=False,
        ),
        "more or less came",
    ),
    "a part in fewer chunks": (
        answer(
            chunks(BODY[:HALF]),
            CHUNKED,
            f"Content-Range: bytes 0-{len(BODY) - 1}/*",
            status="206 Partial",
            length=False,
        ),
        "more or less came",
    ),
    "a part until the end": (
        answer(
            BODY[:HALF],
            f"Content-Range: bytes 0-{len(BODY) - 1}/*",
            status="206 Partial",
            length=False,
        ),
        "closed early",
    ),
    "gzip, cut": (answer(gz(BODY)[:-9], "Content-Encoding: gzip"), "ended early"),
    "gzip, its second member cut": (
        answer(gz(BODY[:HALF], BODY[HALF:])[:-9], "Content-Encoding: gzip"),
        "ended early",
    ),
    "gzip and garbage": (answer(gz(BODY) + b"garbage", "Content-Encoding: gzip"), "damaged"),
    "deflate as it is, cut": (
        answer(raw_deflate(BODY)[:-1], "Content-Encoding: deflate"),
        "ended early",
    ),
    "no deflate": (answer(BODY, "Content-Encoding: deflate"), "damaged"),
    "no gzip": (answer(BODY, "Content-Encoding: gzip"), "damaged"),
    "a length behind a line that is no header": (
        answer(BODY[:HALF], "none", f"Content-Length: {len(BODY)}", length=False),
        "breaks the rules",
    ),
    "a length with a blank before its colon": (
        answer(BODY[:HALF], f"Content-Length : {len(BODY)}", length=False),
        "breaks the rules",
    ),
    "chunks behind a line that is no header": (
        answer(chunks(BODY[:HALF]), "X\xe9: y", CHUNKED, length=False),
        "breaks the rules",
    ),
    "a digest of what was compressed": (
        answer(gz(BODY), "Content-Encoding: gzip", f"Content-MD5: {digest('md5')}"),
        "digest",
    ),
}


def act(host: Host, data: bytes, pieces: int) -> None:
    def script(sock: socket.socket) -> None:
        step = len(data) // pieces + 1
        for at in range(0, len(data), step):
            sock.sendall(data[at : at + step])
        if b"Content-Length" not in data[:200] or data in ENDS:
            if isinstance(sock, ssl.SSLSocket):
                sock.unwrap()  # TLS says that it is the end
            raise OSError  # which closes the connection

    host.script = script


ENDS = {data for data, _ in REFUSED.values()}


@pytest.mark.parametrize("data", TAKEN.values(), ids=TAKEN)
@pytest.mark.parametrize(("pieces", "step"), [(1, 1 << 20), (9, 3000)])
def test_taken_as_it_is_meant(
    data: bytes, pieces: int, step: int, host: Host, downloads: Downloads
) -> None:
    act(host, data, pieces)
    assert body_of(downloads, host.url, step) == BODY


@pytest.mark.parametrize(("data", "word"), REFUSED.values(), ids=REFUSED)
def test_no_answer_at_all(data: bytes, word: str, plain_host: Host, downloads: Downloads) -> None:
    act(plain_host, data, 1)
    with pytest.raises(NetworkError, match=word) as caught:
        body_of(downloads, plain_host.url, 1 << 20)
    assert "localhost" not in str(caught.value)


@pytest.mark.parametrize(
    "coding", ["br", "Zstd", "x-bzip2", "exi", "aws-chunked, xz", "deflate, br"]
)
def test_the_body_of_a_coding_that_nobody_knows(
    coding: str, plain_host: Host, downloads: Downloads
) -> None:
    """Such a body is not what it should be, however right its length is."""
    act(plain_host, answer(BODY, f"Content-Encoding: {coding}"), 1)
    found = downloads.get(plain_host.url, {})
    assert found.encoded
    assert not found.decodable
    found.close()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (f"Content-MD5: {digest('md5')}", {"md5"}),
        (f"Digest: SHA-256={digest('sha256')},md5={digest('md5')}", {"sha256", "md5"}),
        (f"Repr-Digest: sha-512=:{digest('sha512')}:, unknown=:eHg=:", {"sha512"}),
        (f"Content-Digest: sha-256=:{digest('sha256')}:", {"sha256"}),
        (f"x-goog-hash: crc32c=n03x6A==, md5={digest('md5')}", {"md5"}),
        (f"x-amz-checksum-sha256: {digest('sha256')}", {"sha256"}),
        (f"x-amz-checksum-sha256: {digest('sha256')}-12", set()),  # of parts: not the file's
        (
            f"x-amz-checksum-sha256: {digest('sha256')}\r\nx-amz-checksum-type: COMPOSITE",
            set(),
        ),
        (f"Digest: sha-256={digest('sha256').rstrip('=')}", {"sha256"}),
        ("Content-MD5: 0123", set()),
        ("Digest: SHA-256", set()),
        (
            f"x-goog-hash: md5={digest('md5')}\r\nx-goog-stored-content-encoding: gzip",
            set(),
        ),
    ],
)
def test_digests_that_a_host_tells(
    line: str, told: set[str], plain_host: Host, downloads: Downloads
) -> None:
    act(plain_host, answer(BODY, line), 1)
    found = downloads.get(plain_host.url, {})
    assert found.digests == {name: hashlib.new(name, BODY).digest() for name in told}
    found.close()


WRONG = base64.b64encode(b"\0" * 32).decode()


@pytest.mark.parametrize(
    "lines",
    [
        (f"Digest: sha-256={digest('sha256')}", f"Digest: sha-256={WRONG}"),
        (f"Repr-Digest: sha-256=:{WRONG}:", f"Digest: sha-256={digest('sha256')}"),
        (f"x-amz-checksum-sha256: {WRONG}", f"Repr-Digest: sha-256=:{digest('sha256')}:"),
        (f"x-amz-checksum-sha256: {digest('sha256')}", f"x-amz-checksum-sha256: {WRONG}"),
    ],
)
def test_of_two_digests_that_differ_neither_is_right(
    lines: tuple[str, str], plain_host: Host, downloads: Downloads
) -> None:
    act(plain_host, answer(BODY, *lines), 1)
    found = downloads.get(plain_host.url, {})
    assert set(found.digests) == {"sha256"}
    assert found.digests["sha256"] != hashlib.sha256(BODY).digest()
    found.close()


def test_of_two_trailers_of_a_name_both_count(plain_host: Host, downloads: Downloads) -> None:
    trailers = f"x-goog-hash: crc32c=n03x6A==\r\nx-goog-hash: md5={digest('md5')}\r\n\r\n"
    data = chunks(BODY)[:-2] + trailers.encode()
    act(plain_host, answer(data, CHUNKED, length=False), 1)
    found = downloads.get(plain_host.url, {})
    assert b"".join(iter(partial(found.read, 1 << 20), b"")) == BODY
    assert found.trailing_digests == {"md5": hashlib.md5(BODY).digest()}
    found.close()


def test_the_digest_of_a_part_is_not_the_files(plain_host: Host, downloads: Downloads) -> None:
    lines = (
        *(f"Content-MD5: {digest('md5')}", f"Content-Digest: sha-512=:{digest('sha512')}:"),
        f"Digest: sha-256={digest('sha256')}",
    )
    act(plain_host, answer(BODY, *lines, status="206 Partial Content"), 1)
    found = downloads.get(plain_host.url, {})
    assert set(found.digests) == {"sha256"}
    found.close()


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("bytes 0-99/100", (0, 99, 100)),
        ("Bytes 5-9/*", (5, 9, None)),
        ("bytes */100", (None, None, 100)),
        ("bytes 0-99", (None, None, None)),
        ("", (None, None, None)),
    ],
)
def test_content_range(
    text: str,
    span: tuple[int | None, int | None, int | None],
    plain_host: Host,
    downloads: Downloads,
) -> None:
    first, last, _ = span
    body = BODY if first is None or last is None else BODY[first : last + 1]
    act(plain_host, answer(body, f"Content-Range: {text}", status="206 Partial Content"), 1)
    found = downloads.get(plain_host.url, {})
    assert found.content_range() == span
    found.close()


@pytest.mark.parametrize(
    "header",
    [b"X: \xff\xfe", b": empty", b"\x00: y", b"no colon", b"X" * 70_000, b"=?utf-8?b?/w==?="],
)
def test_hostile_headers_end_in_one_sentence_or_are_passed_over(
    header: bytes, plain_host: Host, downloads: Downloads
) -> None:
    data = answer(BODY).replace(b"\r\n\r\n", b"\r\n" + header + b"\r\n\r\n", 1)
    act(plain_host, data, 1)
    found = []
    with suppress(NetworkError):
        found.append(body_of(downloads, plain_host.url, 1 << 20))
    assert found in ([], [BODY])
