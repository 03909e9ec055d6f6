"""Every example request is valid, and names files that are there or that the Makefile builds."""

from pathlib import Path

import pytest

from minicloud.requestfile import read_request
from schemas.errors import InvalidDocument
from services.vim.enforce import enforcements
from tests.examples.conftest import EXAMPLES

REQUESTS = sorted(EXAMPLES.glob("*.yaml"))
BUILT = {"hello-unikernel/hello.elf", "hello-container/hello-oci", "hello-container/rootfs"}


@pytest.mark.parametrize("file", REQUESTS, ids=lambda file: file.stem)
def test_a_request_is_valid(file: Path) -> None:
    request = read_request(str(file))
    assert request.deployment == file.stem
    images = request.images.model_dump(exclude_none=True)
    assert set(images) == set(request.runtimes)
    named = [
        image[key] for image in images.values() for key in ("kernel", "layout", "rootfs") if key in image
    ]
    named += [word for word in images.get("process", {}).get("command", []) if word.startswith(str(EXAMPLES))]
    for name in named:
        path = Path(name).relative_to(EXAMPLES)
        assert str(path) in BUILT or (EXAMPLES / path).is_file()


@pytest.mark.parametrize("file", REQUESTS, ids=lambda file: file.stem)
def test_every_field_of_a_request_is_enforced(file: Path) -> None:
    assert enforcements(read_request(str(file)))


def test_every_request_is_in_the_readme() -> None:
    readme = (EXAMPLES / "README.md").read_text()
    assert [file.name for file in REQUESTS if f"]({file.name})" not in readme] == []


def test_a_file_that_is_named_travels_with_the_request(tmp_path: Path) -> None:
    request = tmp_path / "request.yaml"
    request.write_text(
        "name: it\nruntimes: [process]\nimages: {process: {command: [sh, a.sh]}}\n"
        "files: [{path: a.sh, from: scripts/a.sh}]\n"
    )
    with pytest.raises(InvalidDocument, match=r"files\.0\.from.*a\.sh cannot be read"):
        read_request(str(request))
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "a.sh").write_text("echo hello\n")
    assert read_request(str(request)).files[0].content == "echo hello\n"
