"""The README, its pages and the examples say what is there, and nothing that is not."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from support import JSON_KEYS

from g2a_archive.archive.database import schema
from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.cli.config import AUTH_KEYS, load_config
from g2a_archive.cli.ids import read_ids
from g2a_archive.cli.main import cli
from g2a_archive.cli.options import option_names
from g2a_archive.errors import ExitCode
from g2a_archive.models import State

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "g2a_archive").rglob("*.md"))]
"""The README, and the reference that stands beside the code it describes."""

README = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
EXAMPLES = sorted(path.name for path in (ROOT / "examples").iterdir() if path.is_file())


def commands(
    group: click.Group = cli, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


COMMANDS = dict(commands())
NAMES = {name.split()[0] for name in COMMANDS}
OPTIONS = {
    name: option
    for command in [cli, *COMMANDS.values()]
    for option in command.params
    if isinstance(option, click.Option)
    for name in (*option.opts, *option.secondary_opts)
}


def section(title: str) -> str:
    """The part of a page below a heading of any level, up to the next one."""
    found = re.search(rf"^#+ {title}\n(.*?)(?=^#|\Z)", README, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


# --- help --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    assert command.get_short_help_str(200).strip().endswith(".")
    for param in command.params:
        if isinstance(param, click.Option) and not param.hidden:
            assert param.help, param.name
            assert param.help[0].isupper(), param.help
    context = click.Context(command, info_name=name, parent=click.Context(cli))
    assert "Usage: " in command.get_help(context)


def test_the_list_of_commands_fits_80_columns_and_has_a_sentence_each() -> None:
    lines = cli.get_help(click.Context(cli, terminal_width=80)).split("Commands:\n")[1].splitlines()
    assert [line.split()[0] for line in lines] == cli.list_commands(click.Context(cli))
    assert all(line.endswith(".") and len(line) <= 80 for line in lines)


def test_each_option_says_the_same_in_every_command() -> None:
    """Or it would be two options under one name."""
    for name in ("--dest", "--catalog", "--timezone", "--log-file", "--config", "--profile"):
        texts = {
            param.help
            for of, command in COMMANDS.items()
            for param in command.params
            if isinstance(param, click.Option) and name in param.opts and of != "demo"
        }
        assert len(texts) == 1, (name, texts)


# --- the README --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_readme(name: str) -> None:
    assert re.search(rf"`(?:g2a-archive )?{name}\b[^`]*`", section("Commands")), name


@pytest.mark.parametrize("name", [name for name in OPTIONS if name.startswith("--")])
def test_every_option_is_in_the_readme(name: str) -> None:
    if not OPTIONS[name].hidden:
        assert re.search(rf"{name}(?![\w-])", README), name


@pytest.mark.parametrize("name", COMMANDS["download"].params, ids=lambda param: str(param.name))
def test_the_table_of_a_run_s_options(name: click.Parameter) -> None:
    """Each in its row, with its short form and its environment variable."""
    if not isinstance(name, click.Option) or "--help" in name.opts:
        return
    forms = ", ".join(sorted(name.opts, key=len))
    row = re.search(rf"^\| `{forms}[ `].*\|$", section("Options of a run"), re.MULTILINE)
    assert row, forms
    cells = row[0].strip("| ").split(" | ")
    variable = f"`{name.envvar}`" if name.envvar else None
    assert (variable in row[0]) if variable else "G2A_ARCHIVE" not in row[0], cells


def test_the_readme_names_no_option_that_is_not_there() -> None:
    text = re.sub(r"<!--.*?-->", "", README, flags=re.DOTALL)
    text = re.sub(r"^(?:curl|useradd) .*$", "", text, flags=re.MULTILINE)
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))
    assert named - set(OPTIONS) - {"--help", "--dist"} == set()  # --dist is pytest's


def test_the_readme_names_every_variable_and_no_other() -> None:
    params = [param for command in COMMANDS.values() for param in command.params]
    known = {str(param.envvar) for param in params if param.envvar}
    known |= {f"G2A_ARCHIVE_{key.upper()}" for key in AUTH_KEYS if key != "scheme"}
    known |= {"G2A_ARCHIVE_AUTH_SCHEME"}
    text = re.sub(r"(G2A_ARCHIVE_\w+)\[(_\w+)\]", r"\1 \1\2", README)  # X[_FILE] is both
    named = set(re.findall(r"(?<!_)G2A_ARCHIVE_[A-Z_]+[A-Z]", text))
    assert named - {"G2A_ARCHIVE_COMPLETE"} == known


def test_every_exit_code_is_in_the_readme() -> None:
    codes = re.findall(r"^\| ([\d, ]+) \|", section("Exit codes"), re.MULTILINE)
    named = [int(code) for row in codes for code in row.split(",")]
    assert named == [int(code) for code in ExitCode]


def test_the_keys_of_the_json_report_are_in_the_readme() -> None:
    text = section("What is printed").partition("The JSON report")[2]
    named = set(re.findall(r"`(\w+)`", text))
    dry = {"dry_run", "would_fetch", "would_bytes"}
    assert named == {*JSON_KEYS, *dry, "sync", "file", "mp4", "events", "thumbnail"}


def test_the_catalogue_s_schema_is_in_the_readme(tmp_path: Path) -> None:
    """Each table in its row, with all of its columns, and no other; the version and the states."""
    text = section("The catalogue")
    assert f"Schema {schema.VERSION}\n" in text
    rows = {}
    for names, columns in re.findall(r"^\| (`[^|]*) \| (.*) \|$", text, re.MULTILINE):
        for name in re.findall(r"`(\w+)`", names):
            rows[name] = set(re.findall(r"`(\w+)`", columns))
    own = {"stale_directory", "removal", "scan", "scan_gap"}
    values = {"recording": {*State}, "past_file": {"replaced", "removed"}}
    with Catalog(tmp_path / "new.sqlite3") as catalog:
        tables = [r[0] for r in catalog.rows("SELECT name FROM sqlite_master WHERE type = 'table'")]
        assert set(tables) == set(rows)
        for table in set(tables) - own:
            columns = {row[1] for row in catalog.rows(f"PRAGMA table_info({table})")}
            more = {*values.get(table, ()), *({"verify", "sync", "SHA256SUMS"} & rows[table])}
            assert rows[table] == columns | more, table


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_what_a_page_links_to_is_there(page: Path) -> None:
    """A file of the repository, and a heading in it; every other page is linked to from another."""
    links = re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", page.read_text(encoding="utf-8"))
    targets = [((page.parent / name).resolve() if name else page, anchor) for name, anchor in links]
    assert [str(path) for path, _ in targets if not path.exists()] == []
    assert [link for link in targets if link[1] and link[1] not in headings(link[0])] == []
    if page != PAGES[0]:
        assert page.relative_to(ROOT).as_posix() in PAGES[0].read_text(encoding="utf-8")


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them of its headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_readme_is_short() -> None:
    assert len(PAGES[0].read_text(encoding="utf-8").splitlines()) <= 300


# --- the examples ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_is_mentioned(name: str) -> None:
    assert f"examples/{name}" in README


def test_the_example_of_an_id_file() -> None:
    assert len(read_ids([], [str(ROOT / "examples" / "ids.txt")])) > 1


def test_the_example_of_a_configuration_file() -> None:
    path = ROOT / "examples" / "config.toml"
    known = option_names()
    config = load_config(path, required=True, profile=None, known=known)
    assert config.options
    names = re.findall(r"^\[profiles\.(\w+)\]", path.read_text(), re.MULTILINE)
    for name in names:
        load_config(path, required=True, profile=name, known=known)


def written_commands() -> Iterator[tuple[str, list[str]]]:
    """Every command line of the program in the README's blocks and in the examples."""
    texts = {"README.md": "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))}
    for name in EXAMPLES:
        if not name.endswith((".png", ".svg", ".toml")):
            texts[name] = (ROOT / "examples" / name).read_text(encoding="utf-8")
    for name, text in texts.items():
        for line in text.replace("\\\n", " ").splitlines():
            found = re.search(r"(?:^|[\s/=])g2a-archive ([a-z].*)", line.partition(" # ")[0])
            if found and not line.startswith("#") and shlex.split(found[1])[0] in NAMES:
                yield f"{name}: {line.strip()}", shlex.split(re.split(r"[;|]| && ", found[1])[0])


WRITTEN = dict(written_commands())


def test_some_commands_are_written() -> None:
    assert len(WRITTEN) > 8


@pytest.mark.parametrize("line", WRITTEN)
def test_a_written_command_is_understood(line: str) -> None:
    words = WRITTEN[line]
    name = words[0] if words[0] in COMMANDS else " ".join(words[:2])
    command = COMMANDS[name]
    context = click.Context(command, info_name=name, parent=click.Context(cli))
    command.make_parser(context).parse_args(words[len(name.split()) :])
