"""The command line of a unikernel, as a Unikraft kernel reads it."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from services.vim.worker.kernel import unikernel_line
from services.vim.worker.machine import Share
from services.vim.worker.workload import CannotRun
from tests.worker.unikraft_line import read

ADDRESS = "10.0.2.15/24:10.0.2.2:10.0.2.3"
text = some.text(
    some.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_characters="\x7f"), max_size=20
)
names = some.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)


@given(some.dictionaries(names, text, max_size=4), some.lists(text.filter(bool), max_size=4))
def test_whatever_is_given_arrives_as_it_was(env: dict[str, str], arguments: list[str]) -> None:
    found = read(unikernel_line("job-0", env, ["--", *arguments]))
    assert found.argv == ["kernel", *arguments]
    assert found.parameters["netdev.ip"] == [ADDRESS]
    assert sorted(found.parameters.get("env.vars", [])) == sorted(f"{k}={v}" for k, v in env.items())


@pytest.mark.parametrize(
    "value", ["[1]", "a b]", "]", 'x "y"', "\\", "it's", "-- x", "netdev.ip=1.2.3.4", ""]
)
def test_values_that_look_like_grammar_are_values(value: str) -> None:
    found = read(unikernel_line("job-0", {"A": value, "B": "b"}, []))
    assert sorted(found.parameters["env.vars"]) == [f"A={value}", "B=b"]
    assert found.parameters["netdev.ip"] == [ADDRESS]


def test_on_arm64_the_name_takes_the_place_of_the_kernels_path() -> None:
    line = unikernel_line("job-0", {}, ["--", "a", "--", "b"])
    assert read(line).argv == ["kernel", "a", "--", "b"]
    assert read(line, kernel_path=None).argv == ["job-0", "a", "--", "b"]


def test_a_separator_never_stands_straight_after_the_name() -> None:
    assert unikernel_line("job-0", {}, ["a"]) == f"job-0 netdev.ip={ADDRESS} -- a"


def test_what_stands_in_front_of_a_separator_is_for_the_kernel() -> None:
    own = ["random.seed=[", "1", "2", "]", "ukdebug.level=3"]
    found = read(unikernel_line("job-0", {}, [*own, "--", "serve"]))
    assert found.argv == ["kernel", "serve"]
    assert (found.parameters["random.seed"], found.parameters["ukdebug.level"]) == (["1", "2"], ["3"])


def test_what_is_mounted_stands_in_one_table() -> None:
    folders = [Share("/srv/a", "/a"), Share("/srv/b", "/b/c", read_only=False)]
    found = read(unikernel_line("job-0", {}, [], unpack_initrd=True, folders=folders))
    assert found.parameters["vfs.fstab"] == [
        "initrd0:/:extract::ramfs=1:",
        "fs1:/a:9pfs:::mkmp",
        "fs2:/b/c:9pfs:::mkmp",
    ]


def test_a_table_that_the_image_brings_is_left_alone() -> None:
    found = read(
        unikernel_line("job-0", {}, ["vfs.fstab=initrd0:/data:extract:::", "--"], unpack_initrd=True)
    )
    assert found.parameters["vfs.fstab"] == ["initrd0:/data:extract:::"]


@pytest.mark.parametrize(
    ("env", "arguments", "reason"),
    [
        ({"A": "x\ny"}, [], "InvalidEnvironment"),
        ({}, ["a\tb"], "InvalidEnvironment"),
        ({"A": "x\x7f"}, [], "InvalidEnvironment"),
        ({}, ["a", ""], "InvalidArguments"),
    ],
)
def test_what_cannot_be_carried_is_refused(env: dict[str, str], arguments: list[str], reason: str) -> None:
    with pytest.raises(CannotRun) as refused:
        unikernel_line("job-0", env, arguments)
    assert refused.value.reason == reason
