"""What tests of the journey wait for as users: a deployment's state, a node in the index."""

from __future__ import annotations

from minicloud.client import Minicloud
from schemas.errors import MinicloudError
from tests.journey.site import NODE, eventually


async def in_state(cloud: Minicloud, deployment: str, state: str) -> None:
    async def ask() -> bool:
        try:
            return bool((await cloud.deployment(deployment))["state"] == state)
        except MinicloudError:  # vim is away, or has not heard of it yet
            return False

    await eventually(ask, f"{deployment} is {state}")


async def alive(cloud: Minicloud) -> None:
    async def ask() -> bool:
        return bool((await cloud.query(f"name={NODE},worker,state=alive", fields=["name"])).nodes)

    await eventually(ask, f"{NODE} is in the index")
