"""structlog, without rich: imported here first, so that no process of ours pays for pictures it never draws.

structlog takes rich in where it is installed, for coloured tracebacks in a terminal: 5 MB in every service,
whose logs are lines in a file. What wants rich itself imports it afterwards as ever.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Final

_DRAWING: Final = "rich"


def import_structlog() -> ModuleType:
    """The module ``structlog``; once it is loaded, whichever way, this only finds it."""
    if "structlog" in sys.modules or _DRAWING in sys.modules:
        return import_module("structlog")
    sys.modules[_DRAWING] = None  # type: ignore[assignment]  # makes its import fail, as where it is missing
    try:
        return import_module("structlog")
    finally:
        del sys.modules[_DRAWING]


import_structlog()
