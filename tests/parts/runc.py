"""runc: containers from a bundle, without a daemon."""

from __future__ import annotations

from tests.parts.debian import DebianPart


class Runc(DebianPart):
    """The ``runc`` program."""

    def __init__(self, *, use_installed: bool = True) -> None:
        super().__init__("runc", ("runc",), "usr/sbin/runc", use_installed=use_installed)
