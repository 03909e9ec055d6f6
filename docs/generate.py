"""Write ``docs/reference``: JSON Schemas, the AsyncAPI document and the contract for people.

It lives here because only what stands above all rooms may join the words of ``schemas/`` with what
``bus/`` keeps of them and what vim enforces. ``python -m docs.generate`` writes; the tests compare.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

import yaml

from docs.contract import contract
from schemas import asyncapi, jsonschema
from services.monitor import openapi as monitor_openapi
from services.rid import openapi as rid_openapi
from services.vim import openapi as vim_openapi

REFERENCE: Final = Path(__file__).parent / "reference"
_VERSION: Final = "1.0.0"


class _Plain(yaml.SafeDumper):
    """YAML without anchors: what is the same twice is written twice."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        """Always."""
        return True


def files() -> dict[str, str]:
    """Every generated file, by its path below the reference."""
    described = yaml.dump(
        asyncapi.document(_VERSION), Dumper=_Plain, sort_keys=False, allow_unicode=True, width=110
    )
    written = {
        "asyncapi.yaml": f"# {jsonschema.GENERATED}\n{described}",
        "contract.md": f"<!-- {jsonschema.GENERATED} The prose stands in docs/contract.template.md. -->\n\n{contract()}",
    }
    for name, schema in jsonschema.documents().items():
        written[f"schemas/{name}.json"] = json.dumps(schema, indent=2) + "\n"
    apis = {
        "monitor": monitor_openapi.document(),
        "rid": rid_openapi.document(),
        "vim": vim_openapi.document(),
    }
    for service, api in apis.items():
        written[f"{service}-openapi.json"] = (
            json.dumps({"x-generated": jsonschema.GENERATED, **api}, indent=2) + "\n"
        )
    return written


def write(folder: Path) -> None:
    """Write every file into ``folder`` and remove what is no longer generated."""
    wanted = files()
    for old in [path for path in folder.rglob("*") if path.is_file()]:
        if str(old.relative_to(folder)) not in wanted:
            old.unlink()
    for name, text in wanted.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else REFERENCE)
