"""Who must not run beside whom, and who must: ``apart`` and ``together`` of requests.

In: the rules of a request and of everybody else, and where everybody runs. Out: for a node, why the request's
rules or somebody else's forbid it. How far "beside" reaches is the value of an attribute: the same ``name`` is
the same node, the same ``rack`` any node of it; a node without the attribute is beside nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from schemas.decision import Placement
from schemas.deployment import DeploymentRequest, Neighbour

#: The value of an attribute of a node, None where it has none.
ValueOf = Callable[[str, str], Any]
#: An attribute and one of its values.
_Reach = tuple[str, Any]
_NODE: Final = "name"


class Other(NamedTuple):
    """Another deployment: what it is called by, what it wants itself, and where it runs."""

    deployment: str
    request: DeploymentRequest
    nodes: Iterable[str]


@dataclass(frozen=True)
class Around:
    """What the neighbourhood forbids to one request.

    Attributes:
        apart: where somebody runs that it must be apart from, and who.
        together: for each rule, where whoever it names runs.
        itself: over which attributes its own replicas are apart.
        value_of: tells attributes of nodes.
    """

    apart: Mapping[_Reach, str] = field(default_factory=dict)
    together: tuple[tuple[Neighbour, frozenset[Any]], ...] = ()
    itself: frozenset[str] = frozenset()
    value_of: ValueOf = lambda _node, _attribute: None

    @property
    def free(self) -> bool:
        """Whether nothing is forbidden anywhere."""
        return not (self.apart or self.together or self.itself)


def around(deployment: str, request: DeploymentRequest, others: Iterable[Other], value_of: ValueOf) -> Around:
    """What is forbidden to a request.

    Args:
        deployment: whose request it is.
        request: what it wants.
        others: everybody else that may matter.
        value_of: tells attributes of nodes.
    """
    apart: dict[_Reach, str] = {}
    together: list[tuple[Neighbour, set[Any]]] = [(rule, set()) for rule in request.together]
    for other in others:
        theirs = [rule.over for rule in other.request.apart if _names(rule, deployment, request)]
        ours = [rule.over for rule in request.apart if _names(rule, other.deployment, other.request)]
        for over in dict.fromkeys([*ours, *theirs]):
            who = f"deployment {other.deployment}"
            told = who if over in ours else f"{who}, which is to be apart from this,"
            for node in other.nodes:
                if (value := _value(node, over, value_of)) is not None:
                    apart.setdefault((over, value), told)
        for rule, values in together:
            if _names(rule, other.deployment, other.request):
                values.update(_value(node, rule.over, value_of) for node in other.nodes)
    return Around(
        apart,
        tuple((rule, frozenset(values - {None})) for rule, values in together),
        apart_from_itself(deployment, request),
        value_of,
    )


def apart_from_itself(deployment: str, request: DeploymentRequest) -> frozenset[str]:
    """The attributes over which the replicas of a request are apart from each other."""
    return frozenset(rule.over for rule in request.apart if rule.itself or _names(rule, deployment, request))


def reaches(request: DeploymentRequest) -> list[str]:
    """The attributes over which its rules reach."""
    return [rule.over for rule in (*request.apart, *request.together)]


class Neighbours:
    """The neighbourhood while replicas are put into it.

    Args:
        around: what is forbidden.
        current: what the deployment runs now.
    """

    def __init__(self, around: Around, current: Iterable[Placement]) -> None:
        self._around = around
        self._own: dict[_Reach, set[int]] = {}
        for placement in current:
            for over in around.itself:
                value = _value(placement.node, over, around.value_of)
                self._own.setdefault((over, value), set()).add(placement.replica)

    def refusal(self, node: Mapping[str, Any], replica: int | None) -> tuple[str, str, str] | None:
        """Why a node may not take a replica: the kind of rule, its attribute and who it is about."""
        if self._around.free:
            return None
        for (over, value), who in self._around.apart.items():
            if _key(node.get(over)) == value:
                return "apart", over, who
        for over in sorted(self._around.itself):
            value = _key(node.get(over))
            if value is not None and self._own.get((over, value), set()) - {replica}:
                return "apart", over, "another replica"
        for rule, values in self._around.together:
            if _key(node.get(rule.over)) not in values:
                return "together", rule.over, str(rule)
        return None

    def take(self, node: Mapping[str, Any], replica: int) -> None:
        """A replica is put on a node, and leaves where it was."""
        for over in self._around.itself:
            for (other, _), replicas in self._own.items():
                if other == over:
                    replicas.discard(replica)
            self._own.setdefault((over, _key(node.get(over))), set()).add(replica)


def _names(rule: Neighbour, deployment: str, request: DeploymentRequest) -> bool:
    if rule.deployment is not None:
        return rule.deployment == deployment
    if rule.labels is None:
        return False
    return all(request.labels.get(key) == value for key, value in rule.labels.items())


def _value(node: str, over: str, value_of: ValueOf) -> Any:
    return node if over == _NODE else _key(value_of(node, over))


def _key(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
