"""Help that holds: every command has examples, and every example is a command line that parses."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from minicloud.cli import main
from minicloud.output import EXIT_CODES
from tests.minicloud.conftest import minicloud

ROOT = Path(__file__).parents[2]


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    context = click.Context(group, info_name="minicloud")
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


ALL = sorted(commands(main))


def examples(text: str) -> list[str]:
    """The command lines in a help text."""
    lines = [line.strip() for line in text.splitlines() if line.startswith("  ")]
    lines = [re.sub(r"\s+#\s.*", "", line) for line in lines]
    parts = [part.strip() for line in lines for part in line.split("|")]
    parts = [part.removeprefix("ssh hub ") for part in parts]
    return [part for part in parts if re.match(r"minicloud [a-z]+( |$)", part)]


def parse(line: str) -> None:
    """As the shell and click read a command line, without running anything; complains of what is wrong."""
    words = shlex.split(line)[1:]
    command: click.Command = main
    context = main.make_context("minicloud", words)
    while isinstance(command, click.Group):
        words = [*context._protected_args, *context.args]
        name, found, words = command.resolve_command(context, words)
        assert found is not None
        if words == ["--help"]:
            return
        command, context = found, found.make_context(name, words, parent=context)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that examples speak of."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for name in ("cert.pem", "key.pem", "ca.pem", "pi-3.txt", "hello.elf"):
        (tmp_path / name).touch()
    (tmp_path / "question.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_example_in_the_help_of_a_command_parses(path: tuple[str, ...], folder: Path) -> None:
    context = parse_help(path)
    found = examples(context.get_help())
    own = [line for line in found if line.startswith(" ".join(("minicloud", *path)))]
    assert own, f"no example of {' '.join(path)} in its own help"
    for line in found:
        parse(line)


def parse_help(path: tuple[str, ...]) -> click.Context:
    command: click.Command = main
    context = click.Context(main, info_name="minicloud", max_content_width=200, terminal_width=200)
    for name in path:
        assert isinstance(command, click.Group)
        found = command.get_command(context, name)
        assert found is not None
        command = found
        context = click.Context(
            command, info_name=name, parent=context, max_content_width=200, terminal_width=200
        )
    return context


@pytest.mark.parametrize("path", [path for path in ALL if path != ("tour",)], ids=" ".join)
def test_every_option_is_explained(path: tuple[str, ...]) -> None:
    options = [each for each in parse_help(path).command.params if isinstance(each, click.Option)]
    assert [option.name for option in options if not option.help] == []


def test_the_help_of_the_whole_tells_exit_codes_the_environment_and_completion() -> None:
    said = minicloud("--help")
    assert said.code == 0
    for code, meaning in EXIT_CODES.items():
        assert f"  {code:<4} {meaning}" in said.out
    for name in ("DATA", "BROKER", "MINICLOUD", "USER", "PASSWORD_FILE", "CA"):
        assert f"  MINICLOUD_{name} " in said.out
    assert "_MINICLOUD_COMPLETE=bash_source" in said.out
    for line in examples(said.out):
        parse(line.replace("examples/", f"{ROOT}/examples/"))


def test_the_shell_completes_commands_and_options() -> None:
    commands = minicloud(_MINICLOUD_COMPLETE="bash_complete", COMP_WORDS="minicloud no", COMP_CWORD="1")
    assert commands.out.split() == ["plain,nodes"]
    options = minicloud(_MINICLOUD_COMPLETE="bash_complete", COMP_WORDS="minicloud nodes --w", COMP_CWORD="2")
    assert options.out.split() == ["plain,--wide", "plain,--watch"]
