"""docs/reconnect.md promises nothing that no test proves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
DOCUMENT = HERE.parents[1] / "docs" / "reconnect.md"


def rows() -> list[tuple[str, list[str]]]:
    """Each row of the matrix: who is away, and the tests that prove the row."""
    lines = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]
    return [
        (row[0], re.findall(r"`(test_\w+\.py::test_\w+)`", row[-1])) for row in cells if set(row[0]) != {"-"}
    ]


@pytest.mark.parametrize(("away", "proofs"), rows(), ids=[row[0] for row in rows()])
def test_every_row_names_tests_that_exist(away: str, proofs: list[str]) -> None:
    assert proofs, f"nothing proves the row {away!r}"
    for proof in proofs:
        file, name = proof.split("::")
        assert re.search(rf"^(async )?def {name}\(", (HERE / file).read_text(), re.MULTILINE), proof
