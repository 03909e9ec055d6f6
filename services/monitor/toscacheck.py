"""``python -m services.monitor.toscacheck < document``: exit code 0 where ``tosca-parser`` takes it."""

from __future__ import annotations

import logging
import sys
from typing import Final

import yaml
from toscaparser.tosca_template import ToscaTemplate  # type: ignore[import-untyped]

_LONGEST: Final = 300


def problem(text: str) -> str | None:
    """What is wrong with a TOSCA document; None where nothing is."""
    logging.disable(logging.CRITICAL)  # it tells twice
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        ToscaTemplate(yaml_dict_tpl=yaml.load(text, Loader=loader))  # noqa: S506 - both are safe
    except Exception as error:  # noqa: BLE001 - it raises many kinds, and all mean the same
        return f"{type(error).__name__}: {error}"[:_LONGEST]
    return None


if __name__ == "__main__":
    found = problem(sys.stdin.read())
    if found:
        sys.exit(found)
