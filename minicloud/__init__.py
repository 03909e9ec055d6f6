"""The front door: the ``minicloud`` command, the embedded stack and the client for users."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import bus as bus  # first of all, for its light way to structlog

if TYPE_CHECKING:
    from minicloud.client import Change, Minicloud, connect

__all__ = ["Change", "Minicloud", "connect"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Loaded when first used, so that `minicloud --help` does not wait for the whole client.
    if name in __all__:
        from minicloud import client  # noqa: PLC0415

        return getattr(client, name)
    raise AttributeError(name)
