"""The manual's examples run as they stand: every ``sh`` and ``python`` block that is not marked ``no-test``.

Those of ``docs/rid.md`` need nodes of their own making: ``tests/rid/test_docs.py`` runs them.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from tests.docs.conftest import ROOT, Reader

_BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")
PAGES = sorted(
    page
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    if "reference" not in page.parts and not page.name.endswith(".template.md")
)


def blocks(page: Path) -> list[tuple[str, str, int]]:
    """Language, text and line of every block that is to be run."""
    text = page.read_text()
    return [
        (found[1], found[3], text.count("\n", 0, found.start()) + 1)
        for found in _BLOCK.finditer(text)
        if found[1] in ("sh", "python") and "no-test" not in found[2]
    ]


def script(page: Path) -> str:
    """One script of all blocks: names and files of one are there in the next."""
    parts = []
    for language, text, line in blocks(page):
        parts.append(f"echo '--- {page.name}:{line}' >&2")
        if language == "python":
            parts.append(f"python3 - <<'END-OF-{line}'\n{text}END-OF-{line}")
        else:
            parts.append(textwrap.dedent(text))
    return "\n".join(parts)


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if blocks(page) and page.name != "rid.md"],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_the_examples_of_a_page_run(page: Path, reader: Reader, tmp_path: Path) -> None:
    done = reader.run(script(page), tmp_path)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    dead = [link for link in _LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert dead == []
