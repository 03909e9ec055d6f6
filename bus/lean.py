"""Libraries without the optional parts that they take in wherever these are installed.

structlog loads rich for coloured tracebacks in a terminal (5 MB in every service, whose logs are lines in a
file); paho-mqtt loads dnspython for SRV records (4 MB), which came with another library. Imported this way,
neither does; what wants rich or dnspython itself imports it afterwards as ever.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType


def import_without(module: str, part: str) -> ModuleType:
    """``module``, as where ``part`` is not installed; once it is loaded, whichever way, this only finds it."""
    if module in sys.modules or part in sys.modules:
        return import_module(module)
    sys.modules[part] = None  # type: ignore[assignment]  # makes its import fail
    try:
        return import_module(module)
    finally:
        del sys.modules[part]


import_without("structlog", "rich")
