"""Reading on in what a workload printed: no line lost, doubled or cut."""

from __future__ import annotations

from pathlib import Path

from services.vim.worker.logs import last_lines, lines_after


def test_lines_after_a_position_are_those_that_came_since(tmp_path: Path) -> None:
    shim, main = tmp_path / "shim", tmp_path / "main"
    shim.write_text("starting\n")
    main.write_text("a\nb\n")
    read = last_lines([shim, main], 2)
    assert read.lines == ["a", "b"]
    assert lines_after([shim, main], read.position, ended=False).lines == []
    with main.open("a") as output:
        output.write("b\nhal")
    read = lines_after([shim, main], read.position, ended=False)
    assert read.lines == ["b"]
    with main.open("a") as output:
        output.write("f\nthe end")
    read = lines_after([shim, main], read.position, ended=False)
    assert read.lines == ["half"]
    assert lines_after([shim, main], read.position, ended=True).lines == ["the end"]


def test_a_file_that_was_cut_is_read_from_its_start(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("old\n" * 100)
    read = last_lines([log], 1)
    log.write_text("new\n")
    assert lines_after([log], read.position, ended=False).lines == ["new"]


def test_much_is_read_in_parts_and_a_line_without_end_is_no_obstacle(tmp_path: Path) -> None:
    log = tmp_path / "log"
    lines = [f"line {number}" for number in range(20_000)]
    log.write_text("\n".join(lines) + "\n" + "x" * 100_000)
    found, position, more = [], "0", True
    while more:
        read = lines_after([log], position, ended=False)
        found, position, more = found + read.lines, read.position, read.more
    assert found[:20_000] == lines
    assert {*"".join(found[20_000:])} == {"x"}


def test_what_would_command_a_terminal_is_left_out(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"\x1b[31mred\x1b[0m\x07 and \xff\n")
    assert lines_after([log], "0", ended=False).lines == ["red and \ufffd"]
