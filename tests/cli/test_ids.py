"""Recording IDs: what is taken, what is refused and with which words."""

from __future__ import annotations

import codecs
import os
import pty
import subprocess
from pathlib import Path

import pytest
from support import cli as cli_support
from support import command, report_of, run_cli
from support.cli import FIRST, Args, environment, refused, tree

from g2a_archive.cli.ids import read_ids
from g2a_archive.demo import SimulatedService
from g2a_archive.errors import InputError
from g2a_archive.models import MAX_ID

still = cli_support.still

HINT = "an ID is a positive whole number, one a line; a spreadsheet must show it as text"


def batched(texts: list[str], size: int) -> list[list[str]]:
    return [texts[at : at + size] for at in range(0, len(texts), size)]


MALFORMED = [
    "1.23457E+18",
    "0",
    "000",
    "-5",
    "+5",
    "12a",
    "1 2",
    "1,2",
    "1_000",
    "1.0",
    "0x10",
    "\uff11\uff12\uff13",
    "\u0661\u0662",
    "\u00b2",
    str(MAX_ID + 1),
    "9" * 31,
    "9" * 5000,
    "",
    " ",
    "None",
    "12\x0c34",
    "12\x0034",
    "https://example.com/1",
]


HIDDEN = {"9" * 31, "9" * 5000, "https://example.com/1"}
"""What might be a secret, or a link, which is one."""


def shown(text: str) -> str:
    return f"… ({len(text):,} characters)" if text in HIDDEN else repr(text)


def hint(*texts: str) -> str:
    return f"({HINT}{'; what may be a secret is not shown' if HIDDEN & {*texts} else ''})"


@pytest.mark.parametrize("texts", batched([t for t in MALFORMED if "\0" not in t], 8))
def test_malformed_arguments_are_refused(
    still: SimulatedService, tmp_path: Path, texts: list[str]
) -> None:
    line = refused(still, tmp_path, ["download", "12", "--", *texts])
    named = "; ".join(f"argument {shown(text)}" for text in texts)
    assert line == f"g2a-archive: {len(texts)} are not recording IDs: {named} {hint(*texts)}"


def test_one_malformed_argument_among_good_ones(still: SimulatedService, tmp_path: Path) -> None:
    line = refused(still, tmp_path, ["download", FIRST, "1.23457E+18", FIRST + 1])
    assert line == f"g2a-archive: not a recording ID: argument '1.23457E+18' ({HINT})"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_many_lines_keep_their_order_and_numbers(tmp_path: Path, encoding: str, end: str) -> None:
    """They are read in large pieces, and those with nothing but IDs at once."""
    path = tmp_path / "ids"
    ids = [*range(10**9, 10**9 + 30_000), MAX_ID, 1]
    lines: list[object] = [*ids]
    lines[27_000:27_000] = ["", "# a note", f" {ids[26_999]} # once more"]
    path.write_bytes(end.join(map(str, lines)).encode(encoding))
    assert list(read_ids(["5"], [str(path)])) == [5, *ids]
    lines[28_000], lines[-1] = "x", "y"
    path.write_bytes(end.join(map(str, [*lines, ""])).encode(encoding))
    with pytest.raises(InputError, match=r"line 28001: 'x'; .*, line 30005: 'y' "):
        read_ids([], [str(path)])


@pytest.mark.parametrize("text", [t for t in MALFORMED if t.strip()])
def test_a_malformed_line_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ids"
    path.write_bytes(f"12\n\n{text}\n34\n".encode())
    with pytest.raises(Exception, match="not a recording ID: ") as caught:
        read_ids([], [str(path)])
    assert str(caught.value).endswith(f" {path}, line 3: {shown(text)} {hint(text)}")


SECRETS = {
    "token": "eyJraWQiOiI2MjAiLCJhbGciOiJSUzUxMiJ9.eyJzYyI6ImNvbGxhYjoifQ.Rm9vYmFy",
    "hex": "4f0c2b1a99d07e35",
    "digits": "60412285397750041188326",
    "configuration": 'pat = "Zm9vYmFyYmF6"',
    "link": "https://h/f?key=1",
}


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_a_file_of_secrets_named_by_mistake(
    still: SimulatedService, tmp_path: Path, secret: str
) -> None:
    """They are counted, placed, and in no message: cron mails it, and logs keep it."""
    (tmp_path / "ids").write_text(f"1\n{secret}\n")
    asking: list[Args] = [
        ["download", "-f", "ids"],
        ["remove", "--before", "9d", "--except", "ids"],
        ["download", "1", "--", secret],
    ]
    for args in asking:
        line = refused(still, tmp_path, args)
        place = "argument" if secret in args else "ids, line 2:"
        count = len(secret)
        assert line == f"g2a-archive: not a recording ID: {place} … ({count} characters) " + (
            f"({HINT}; what may be a secret is not shown)"
        )
    line = refused(still, tmp_path, ["download", "-f", "-"], stdin=f"{secret}\n")
    assert f"standard input, line 1: … ({count} characters) (" in line


ENDLESS = {
    "/dev/zero": "/dev/zero has a line that does not end (is it a text file?)",
    "/dev/urandom": " are not recording IDs: /dev/urandom, line ",
}


@pytest.mark.parametrize(("name", "words"), ENDLESS.items())
def test_a_file_without_end(still: SimulatedService, tmp_path: Path, name: str, words: str) -> None:
    for args in (["download", "-f", name], ["remove", "--before", "9d", "--except", name]):
        assert words in refused(still, tmp_path, args)


def test_every_bad_line_is_named_with_its_place(still: SimulatedService, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("12\n1.23457E+18\n# all is well\nx\n")
    line = refused(still, tmp_path, ["download", 0, 7, "-f", "a.txt", "-f", "-"], stdin="5\n\n-5\n")
    assert line == (
        "g2a-archive: 4 are not recording IDs: argument '0'; a.txt, line 2: '1.23457E+18'; "
        f"a.txt, line 4: 'x'; standard input, line 3: '-5' ({HINT})"
    )


def test_of_very_many_bad_lines_ten_are_shown_and_all_named(
    still: SimulatedService, tmp_path: Path
) -> None:
    (tmp_path / "names.csv").write_text("".join(f"name {n}\n" for n in range(2500)))
    line = refused(still, tmp_path, ["download", "-f", "names.csv"])
    assert line.startswith("g2a-archive: 2,500 are not recording IDs: names.csv, line 1: 'name 0'")
    assert "line 10: 'name 9'; and 2,490 more; names.csv, lines 11 to 2500 (" in line
    text = "".join(f"{n if n % 3 else 'x'}\n" for n in range(1, 51))
    line = refused(still, tmp_path, ["download", "-f", "-", "-f", "names.csv"], stdin=text)
    named = "standard input, lines 33, 36, 39, 42, 45, 48; names.csv, lines 1 to 2500"
    assert f"line 30: 'x'; and 2,506 more; {named} (" in line
    text = "".join(f"{n if n % 2 else 'x'}\n" for n in range(1, 501))
    assert ", lines 22, 24, " in (line := refused(still, tmp_path, ["download", "-f-"], stdin=text))
    assert ", 420, … (" in line


def test_an_option_like_number_is_named(still: SimulatedService, tmp_path: Path) -> None:
    line = refused(still, tmp_path, ["download", "-5"])
    assert line.startswith("g2a-archive: '-5' is neither a recording ID nor an option; see ")


CONTENTS = {
    "plain": b"12\n34\n",
    "no final newline": b"12\n34",
    "CRLF": b"12\r\n34\r\n",
    "CR": b"12\r34\r",
    "BOM": codecs.BOM_UTF8 + b"12\n34\n",
    "UTF-16 LE": codecs.BOM_UTF16_LE + "12\r\n34\r\n".encode("utf-16-le"),
    "UTF-16 BE": codecs.BOM_UTF16_BE + "12\r\n34\r\n".encode("utf-16-be"),
    "blanks": b"\n\n  12  \n\t\n34\t\n\n\n",
    "comments": b"# two recordings\n12 # the first\n   # nothing\n34#the second\n#56\n",
    "latin-1 comment": b"12  # M\xfcller\n34\n",
    "leading zeros": b"0012\n34\n",
    "doubles": b"12\n34\n12\n012\n34\n",
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_what_an_id_file_may_look_like(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ids"
    path.write_bytes(content)
    assert [*read_ids([], [str(path)])] == [12, 34]


def test_the_order_is_kept_and_the_first_of_a_double_counts(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("9\n3\n5\n")
    (tmp_path / "b").write_text("1\n9\n8")
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    assert [*read_ids(["7", "3", str(MAX_ID)], [a, b])] == [7, 3, MAX_ID, 9, 5, 1, 8]


@pytest.mark.parametrize("content", [CONTENTS["UTF-16 LE"], CONTENTS["BOM"], CONTENTS["CRLF"]])
def test_standard_input_is_read_like_a_file(
    still: SimulatedService, tmp_path: Path, content: bytes
) -> None:
    reader, writer = os.pipe()
    os.write(writer, content)
    os.close(writer)
    args: Args = ["download", "--dry-run", "--json", "-f", "-"]
    done = run_cli(args, environment(still), stdin=reader, cwd=tmp_path)
    os.close(reader)
    assert '"requested": 2,' in done.stdout, done.stderr


@pytest.mark.parametrize("typed", [b"", b"11\n22\n"])
def test_ctrl_d_once_ends_what_is_typed(
    still: SimulatedService, tmp_path: Path, typed: bytes
) -> None:
    master, terminal = pty.openpty()
    os.write(master, typed + b"\x04")
    args: Args = ["download", "--dry-run", "--json", "-f", "-"]
    try:
        done = run_cli(args, environment(still), stdin=terminal, cwd=tmp_path)
    finally:
        os.close(master)
        os.close(terminal)
    assert f'"requested": {typed.count(10)},' in done.stdout, done.stderr


def test_arguments_files_and_standard_input_together(
    service: SimulatedService, tmp_path: Path
) -> None:
    (tmp_path / "ids").write_text(f"{FIRST + 1}\n{FIRST}  # again\n")
    args: Args = ["download", FIRST, "-f", "ids", "-f", "-", "--json", "--min-free", "0"]
    result = run_cli(args, environment(service), f"{FIRST + 2}\n{FIRST + 1}\n", cwd=tmp_path)
    assert report_of(result)["archived"] == 3
    (call,) = service.requests.calls("links")
    assert [int(value) for _, value in call.query] == [FIRST, FIRST + 1, FIRST + 2]


@pytest.mark.parametrize("content", ["", "\n", "\ufeff", "# nothing tonight\n\n  \n"])
@pytest.mark.parametrize("source", ["file", "stdin"])
def test_without_any_id_there_is_nothing_to_do(
    still: SimulatedService, tmp_path: Path, content: str, source: str
) -> None:
    (tmp_path / "ids").write_text(content)
    before, asked = tree(tmp_path), still.requests.count
    args = ["download", "-f", "ids" if source == "file" else "-"]
    # Not even credentials are needed.
    env = environment(still, {"G2A_ARCHIVE_TOKEN": None})
    result = run_cli(args, env, content if source == "stdin" else None, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "Nothing to do: no recording was asked for\n"
    assert (tree(tmp_path), still.requests.count) == (before, asked)


def test_no_source_at_all(still: SimulatedService, tmp_path: Path) -> None:
    assert refused(still, tmp_path, ["download"]) == (
        "g2a-archive: no recording IDs were given (name them, or use -f FILE, -f - or --owed)"
    )


UNREADABLE = {
    "missing": ("nowhere.txt", "No such file or directory"),
    "a directory": (".", "Is a directory"),
    "below a file": ("here/ids", "Not a directory"),
    "too long": ("n" * 300, "File name too long"),
    "a loop": ("loop", "Too many levels of symbolic links"),
}


@pytest.mark.parametrize(("name", "reason"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_file_that_cannot_be_opened(
    still: SimulatedService, tmp_path: Path, name: str, reason: str
) -> None:
    (tmp_path / "here").write_text("1\n")
    (tmp_path / "loop").symlink_to("loop")
    line = refused(still, tmp_path, ["download", 1, "-f", name])
    what = f"cannot read the IDs from {name}: {reason}"
    assert line == f"g2a-archive: {what} (check its name)"


def test_a_file_without_a_name(still: SimulatedService, tmp_path: Path) -> None:
    line = refused(still, tmp_path, ["download", 1, "-f", ""])
    assert line.startswith("g2a-archive: --file: it must not be empty")


def test_a_file_without_permission(
    still: SimulatedService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(name: str, mode: str) -> object:
        raise PermissionError(13, "Permission denied", name)

    # For root, who may run the tests, there is no file without permission.
    monkeypatch.setattr("builtins.open", deny)
    with pytest.raises(Exception, match="cannot read the IDs from ids: Permission denied") as found:
        read_ids([], ["ids"])
    assert getattr(found.value, "exit_code", None) == 2


def test_a_file_that_fails_while_it_is_read_is_a_local_error(
    still: SimulatedService, tmp_path: Path
) -> None:
    name = Path("/proc/self/mem")  # opens, and cannot be read from its beginning
    if not name.exists():
        pytest.skip("there is no /proc here")
    line = refused(still, tmp_path, ["download", "-f", name], code=6)
    assert "cannot read the IDs from /proc/self/mem: Input/output error" in line


def test_a_closed_standard_input(still: SimulatedService, tmp_path: Path) -> None:
    result = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *command(["download", "-f", "-"])],
        env={**environment(still), "PYTHONPATH": str(Path(cli_support.__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert result.returncode == 2
    assert result.stderr == (
        "g2a-archive: cannot read the IDs from standard input: it is closed "
        "(name a file, or `-` once)\n"
    )


@pytest.mark.parametrize(
    "args", [["download", "-f", "-", "-f", "-"], ["remove", "--yes", "-f", "-", "--except", "-"]]
)
def test_standard_input_twice(still: SimulatedService, tmp_path: Path, args: Args) -> None:
    """What holds recordings back must not be empty because `-f` has taken it all."""
    line = refused(still, tmp_path, args, stdin="1\n2\n")
    assert "cannot read the IDs from standard input: it was read already" in line
