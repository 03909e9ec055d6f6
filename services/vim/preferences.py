"""What a request prefers, as attributes with a direction: ``near`` is a measured latency, the least first."""

from __future__ import annotations

from typing import Any, Final

from schemas.deployment import DeploymentRequest

_NEAR: Final = "near"
#: Where the round trip to a place, node or user lies among the attributes of a node, where somebody measures it.
LATENCY: Final = "latency."


def preferences(request: DeploymentRequest) -> list[dict[str, Any]]:
    """The preferences as sort keys of the query language, the first before the second."""
    return [sort_key(preference) for preference in request.prefer]


def sort_key(preference: dict[str, Any]) -> dict[str, Any]:
    """One preference as a sort key; what is none is left as it is."""
    place = place_of(preference)
    return preference if place is None else {f"{LATENCY}{place}": "asc"}


def place_of(preference: dict[str, Any]) -> str | None:
    """The place to which ``{near: {place: NAME}}`` wants to be near; None where it says something else."""
    near = preference.get(_NEAR)
    if len(preference) != 1 or not isinstance(near, dict) or near.keys() != {"place"}:
        return None
    return near["place"] if isinstance(near["place"], str) else None
