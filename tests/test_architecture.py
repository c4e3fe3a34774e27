"""`ARCHITECTURE.md` speaks of what is there: every path, every test, every folder."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
PACKAGE = TOP / "g2a_archive"
PAGE = (PACKAGE / "ARCHITECTURE.md").read_text(encoding="utf-8")
TESTS = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))
PATHS = sorted(
    {
        name
        for name in re.findall(r"[\w.][\w./-]*", re.sub(r"::\w+", "", PAGE))
        if name.endswith((".py", ".md", ".sh")) or re.fullmatch(r"[a-z_]+(/[a-z_]+)*/", name)
    }
)


def test_there_are_some() -> None:
    assert len(TESTS) > 30
    assert len(PATHS) > 60


@pytest.mark.parametrize("path", PATHS)
def test_every_path_is_there(path: str) -> None:
    assert (TOP / path).exists() or (PACKAGE / path).exists() or path == "__init__.py"


@pytest.mark.parametrize(("path", "name"), TESTS)
def test_every_test_is_there(path: str, name: str) -> None:
    assert re.search(rf"^def {name}\(", (TOP / path).read_text(encoding="utf-8"), re.MULTILINE)


def test_every_folder_has_its_row() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    rows = set(re.findall(r"^\| `(\w+)/` \|", PAGE, re.MULTILINE))
    assert rows == folders
    assert {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py", "__main__.py"} == {
        name for name in re.findall(r"`(\w+\.py)`", PAGE) if (PACKAGE / name).is_file()
    } - {"__init__.py", "__main__.py"}


def test_every_promise_names_a_module_and_a_test() -> None:
    rows = re.search(r"## What is promised\n(.*?)\n## ", PAGE, re.DOTALL)
    assert rows
    for row in re.findall(r"^\| [^|]+ \| `.*\|$", rows[1], re.MULTILINE):
        _, _, where, noticed, _ = row.split("|")
        assert re.fullmatch(r" `[\w/]+\.py`(, `[\w/]+\.py`)* ", where), row
        assert "::test_" in noticed, row


def test_no_statement_has_numbered_placeholders() -> None:
    """With a sequence of values, Python 3.12 deprecates and Python 3.14 refuses them."""
    numbered = re.compile(r"(?<!\[)\?[0-9]")
    found = [
        f"{path.name}: {line.strip()}"
        for path in PACKAGE.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if numbered.search(line)
    ]
    assert found == []


def test_no_module_and_no_function_is_too_long() -> None:
    """A room that gets crowded is redesigned before anything is added to it."""
    long = []
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if (lines := len(text.splitlines())) > 400:
            long.append(f"{path.name}: {lines}")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno:
                lines = node.end_lineno + 1 - node.lineno
                if lines > 50:
                    long.append(f"{path.name}: {node.name}: {lines}")
    assert long == []


def test_what_is_at_a_path_is_asked_in_one_place() -> None:
    """From Python 3.14 on, pathlib takes every error for nothing: there is a module for that."""
    asked = re.compile(
        r"(?<!\bstrictpath)(?<!os\.path)(?<!\bentry)\.(exists|is_(dir|file|symlink))\b(?!\w)"
    )
    found = [
        f"{path.name}: {line.strip()}"
        for path in PACKAGE.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if asked.search(line) and "`Path." not in line
    ]
    assert found == []


def test_no_folder_and_no_file_of_tests_is_crowded() -> None:
    for folder in {path.parent for path in PACKAGE.rglob("*.py")} - {PACKAGE}:
        modules = sorted(path.name for path in folder.glob("*.py") if path.name != "__init__.py")
        assert len(modules) <= 12, (folder.name, modules)
    for path in (TOP / "tests").rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 500, path.name
