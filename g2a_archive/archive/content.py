"""What a file's bytes say it is. Pure functions over a file's beginning."""

from __future__ import annotations

import os
import re

HEAD = 1024
"""Bytes of a file's beginning that these functions want to see."""

_BEFORE = b"\xef\xbb\xbf\xff\xfe\0 \t\n\r\f\v"
"""What can stand before a page's first tag: byte order marks, white space, and half of UTF-16."""

_HTML = re.compile(
    rb"(?:<\?xml[^>]*>|<!--(?:(?!-->).)*+-->|\s)*+<(?:!doctype\s+html|html|head|body|title|script)\b",
    re.IGNORECASE | re.DOTALL,
)


def is_html(head: bytes, content_type: str | None = None) -> bool:
    """Whether this is a web page, which is what an expired link can look like."""
    kind = (content_type or "").split(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml") and not is_mp4(head):
        return True
    if not head.lstrip(_BEFORE).startswith(b"<"):
        return False
    # Without NUL bytes, UTF-16 reads as ASCII.
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip(b"\xff\xfe").replace(b"\0", b"")
    return _HTML.match(text) is not None


def is_mp4(head: bytes) -> bool:
    """Whether this begins with an `ftyp` box of a plausible size (ISO/IEC 14496-12)."""
    return len(head) >= 8 and head[4:8] == b"ftyp" and int.from_bytes(head[:4]) in range(8, 4097)


def boxes_add_up(fd: int, size: int) -> bool:
    """Whether an MP4's top-level boxes end exactly at its end: a truncated one's don't."""
    at = 0
    while at < size:
        header = os.pread(fd, 16, at)
        if len(header) < 8:
            return False
        length = int.from_bytes(header[:4])
        if length == 0:  # "to the end of the file"
            return True
        if length == 1:
            length = int.from_bytes(header[8:16])
        if length < 8:
            return False
        at += length
    return at == size
