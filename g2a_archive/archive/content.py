"""What a file's bytes say it is, and whether they are all there."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from g2a_archive.models import FileKind

_CONTROL_FILES = (".aria2", ".st", ".ytdl", "-lftp-pget-status")
"""What other downloaders put beside a file, after its name, while it is not whole."""

PAGE, ERROR, NO_VIDEO = "a web page", "an error document", "no MP4 video"
"""What a file can be instead of what it should be."""

HEAD_SIZE = 4096
"""Bytes of a file's beginning that these functions want to see; a page may begin with a licence."""

_BEFORE = b"\xef\xbb\xbf\xff\xfe\0 \t\n\r\f\v"
"""What can stand before a page's first tag: byte order marks, white space, and half of UTF-16."""

_PROLOG = re.compile(rb"<\?xml[^>]*>|<!--(?:(?!-->).)*-->|\s+", re.DOTALL)
_HTML = re.compile(rb"<(?:!doctype\s+html|html|head|body|title|script)\b", re.IGNORECASE)
_SVG = re.compile(rb"<(?:!DOCTYPE\s+)?svg[\s>]")
_XML_ERROR = re.compile(
    rb"<(?:[\w.-]+:)?(?:Errors?|ErrorResponse|Fault|Problem)[\s>/]", re.IGNORECASE
)

_IMAGES = {
    b"\xff\xd8\xff": ".jpg",
    b"\x89PNG\r\n\x1a\n": ".png",
    b"GIF87a": ".gif",
    b"GIF89a": ".gif",
}

_ERROR_KEYS = {
    *("error", "errors", "errorcode", "errordescription", "errormessage", "fault"),
    "interrcode",  # the vendor's own
}
_MESSAGE = {"message", "msg", "title", "detail"}
_BESIDE_MESSAGE = {
    *("code", "status", "statuscode", "details", "requestid", "success", "type", "instance"),
    *_MESSAGE,
}
"""In lower case, without underscores. A message alone may be an event's: it is an error's (RFC 9457
calls it `title` and `detail`) where nothing but these is beside it."""


def is_html_type(content_type: str | None) -> bool:
    """Whether a `Content-Type` is that of a web page."""
    kind = (content_type or "").split(";")[0].strip().lower()
    return kind in ("text/html", "application/xhtml+xml")


def is_html(head: bytes) -> bool:
    """Whether this is a web page, which is what an expired link can look like."""
    return head.lstrip(_BEFORE).startswith(b"<") and _HTML.match(_first_tag(head)) is not None


def is_error_xml(head: bytes) -> bool:
    """Whether this is an `<Error>` document, as object stores answer with, or the like."""
    return head.lstrip(_BEFORE).startswith(b"<") and _XML_ERROR.match(_first_tag(head)) is not None


def is_error_json(head: bytes) -> bool:
    """Whether this is a JSON object that tells of an error, and no longer than `HEAD_SIZE`."""
    text = head.lstrip(_BEFORE)
    if len(head) >= HEAD_SIZE or not text.startswith(b"{"):
        return False
    try:
        value = json.loads(_plain(text))
    except (ValueError, RecursionError):
        return False
    keys = {key.lower().replace("_", "") for key in value} if isinstance(value, dict) else set()
    message = keys <= _BESIDE_MESSAGE and not _MESSAGE.isdisjoint(keys)
    return message or not _ERROR_KEYS.isdisjoint(keys)


def is_document(head: bytes) -> bool:
    """Whether this begins as JSON or XML does, and so as no picture: but for one in SVG."""
    return head.lstrip(_BEFORE).startswith((b"{", b"[", b"<")) and not _SVG.match(_first_tag(head))


def _first_tag(head: bytes) -> bytes:
    """What follows an XML declaration, comments and white space."""
    # Piece by piece: the possessive quantifiers of Debian 12's Python 3.11.2 are broken.
    text, at = _plain(head), 0
    while (piece := _PROLOG.match(text, at)) is not None:
        at = piece.end()
    return text[at:]


def image_extension(head: bytes) -> str:
    """What a file that begins as JPEG, PNG, GIF or WebP does is to end with; "" for any other."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return ".webp"
    return next((extension for magic, extension in _IMAGES.items() if head.startswith(magic)), "")


def _plain(head: bytes) -> bytes:
    """Without a byte order mark, and without NUL bytes: so UTF-16 reads as ASCII."""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip(b"\xff\xfe").replace(b"\0", b"")


def is_mp4(head: bytes) -> bool:
    """Whether this begins with an `ftyp` box of a plausible size (ISO/IEC 14496-12)."""
    if len(head) < 8 or head[4:8] != b"ftyp":
        return False
    size = int.from_bytes(head[:4])
    return (int.from_bytes(head[8:16]) if size == 1 else size) in range(8, 4097)


def wrong_type(kind: FileKind, head: bytes, content_type: str | None = None) -> str:
    """What a file that begins like this is, where it cannot be what it should be; "" where it can.

    A host's word for the type is believed only where the bytes say nothing better: events or a
    picture may come as `text/html`.
    """
    video, picture = kind is FileKind.MP4, kind is FileKind.THUMBNAIL
    proved = (video and is_mp4(head)) or (picture and image_extension(head))
    if proved or not head:
        return ""
    if is_html(head) or (is_html_type(content_type) and kind is not FileKind.EVENTS):
        return PAGE
    if is_error_xml(head) or is_error_json(head) or (picture and is_document(head)):
        return ERROR
    return NO_VIDEO if video else ""


def integrity_problem(path: str | Path, kind: FileKind) -> str:
    """Why a file can't be taken for whole by itself; "" where it can.

    One that a sum proves needs none of this. Raises `OSError`.
    """
    from g2a_archive.archive.disk.hashing import open_regular  # most commands hash nothing

    with open_regular(path) as file:
        fd = file.fileno()
        size = os.fstat(fd).st_size
        head = os.pread(fd, HEAD_SIZE, 0)
        if not head:
            return "it is empty"
        if any(os.path.lexists(f"{path}{ending}") for ending in _CONTROL_FILES):
            return "another downloader has not finished it"
        if what := wrong_type(kind, head):
            return f"it is {what}"
        if has_holes(fd, size):
            return "parts of it were never written"
        if kind is FileKind.MP4 and not boxes_add_up(fd, size):
            return "it is truncated, or damaged"
    return ""


def has_holes(fd: int, size: int, begin: int = 0) -> bool:
    """Whether parts of a file's bytes from `begin` up to `size` were never written.

    As where its room was taken before its content came. False also where the file system can't
    tell. Moves the file's position.
    """
    try:
        return size > begin and os.lseek(fd, begin, os.SEEK_HOLE) < size
    except (OSError, AttributeError):  # no such file system, no such system
        return False


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
