"""vim's own view of the fleet, as columns: where a new deployment goes, by looking at every node at once.

In: attributes of nodes, from the change log that vim watches anyway, and what is reserved. Out: the same choice as
:func:`services.vim.placement.place` makes, which the tests hold it to, in a fraction of a millisecond. It answers
what attributes that stand still decide; what the index alone knows, and every other case, is not for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter

from schemas.attributes import lookup
from schemas.decision import Candidate, Further, Placement, Rejection
from schemas.deployment import DeploymentRequest
from schemas.errors import InvalidQuery
from schemas.node import RuntimeName
from schemas.predicate import Condition, Every, Predicate, conditions, conjuncts
from schemas.where import parse_where
from schemas.wording import Failing, describe, rejected, show
from services.vim.columns import Column, Mask, Numbers, Rows, column
from services.vim.ledger import Reserved
from services.vim.offer import Offer, no_offer, offer
from services.vim.placement import Choice, fill, rejections
from services.vim.preferences import preferences
from services.vim.question import FIELDS, question
from services.vim.room import CRUMB, Refusal, Room, needs
from services.vim.score import order_of
from services.vim.taints import avoided, standing

#: What of a node decides who would run a request there, whatever room there is: few combinations in a fleet.
_KIND: Final = tuple(
    name
    for name in FIELDS
    if name
    not in (
        "name",
        "cpu.cores",
        "memory.total",
        "memory.available",
        "load.1m",
        "cluster.cpu",
        "cluster.memory",
    )
)
#: Numbers that are always needed.
_NUMBERS: Final = (
    "cpu.cores",
    "memory.total",
    "memory.available",
    "load.1m",
    "cluster.cpu",
    "cluster.memory",
)
#: What the change log tells late, so that the index is asked for it.
LIVE: Final = ("memory.available", "load.1m")
_ATTRIBUTE: Final = {
    "cpu": "allocatable.cpu",
    "memory": "allocatable.memory",
    "available": "memory.available",
}
#: Reads a list of them in half the time that it takes to make one after the other.
_CANDIDATES: Final = TypeAdapter(list[Candidate])
#: So many candidates say what their score is made of.
_IN_FULL: Final = 100
_MOST_CANDIDATES: Final = 1000
#: Beyond so many different values, nodes that fail the same condition are told together.
_MOST_VALUES: Final = 40
_FIRST: Final = 1024
_NOTHING: Final = Reserved()


@dataclass
class _Look:
    """What one runtime came to: who is able and how good, and by what everybody else fails.

    Attributes:
        runtime: how it would run.
        able: which rows could take it.
        failed: which rows fail, by the reason's kind or the host port.
        offers: who would run it on each kind of node.
        needed: bytes that it needs on each kind of node.
        scores: of the able rows.
        parts: what these are made of.
    """

    runtime: RuntimeName
    able: Rows
    failed: dict[str | int, Mask]
    offers: list[Offer | None]
    needed: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    parts: dict[str, npt.NDArray[np.float64]]


class Fleet:
    """All nodes that the change log told of, and what is reserved on them."""

    def __init__(self) -> None:
        self._capacity = _FIRST
        self._row_of: dict[str, int] = {}
        self._rows: list[dict[str, Any]] = []
        self._columns: dict[str, Column] = {name: column(name, _FIRST) for name in _NUMBERS}
        self._kinds = np.zeros(_FIRST, np.intp)
        self._kind_of: dict[tuple[Any, ...], int] = {}
        self._examples: list[dict[str, Any]] = []
        self._free_cpu = np.zeros(_FIRST)
        self._free_memory = np.zeros(_FIRST)
        #: The part of its memory that is free, and what its load divides its score by.
        self._part = np.zeros(_FIRST)
        self._busy = np.ones(_FIRST)
        self._reserved: dict[str, Reserved] = {}
        self._ports: dict[int, dict[str, str]] = {}
        self._names: npt.NDArray[Any] = np.zeros(0, object)
        self._rank = np.zeros(0, np.intp)
        self._by_name: Rows = np.zeros(0, np.intp)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, node: object) -> bool:
        return node in self._row_of

    # -- what is so ------------------------------------------------------------------------------

    def put(self, node: str, attributes: Mapping[str, Any]) -> None:
        """A node is now so."""
        row = self._row_of.get(node)
        if row is None:
            row = self._row_of[node] = len(self._rows)
            self._rows.append({})
            if row >= self._capacity:
                self._grow()
        held = self._rows[row] = {**attributes, "name": node}
        kind = tuple(_frozen(held.get(name)) for name in _KIND)
        code = self._kind_of.get(kind)
        if code is None:
            code = self._kind_of[kind] = len(self._examples)
            self._examples.append({name: held[name] for name in _KIND if name in held})
        self._kinds[row] = code
        for name, column_ in self._columns.items():
            column_.write(row, held.get(name))
        self._weigh(row)

    def measure(self, node: str, values: Mapping[str, Any]) -> None:
        """What the index says now of attributes that change all the time."""
        row = self._row_of[node]
        for name in LIVE:
            value = values.get(name)
            if value is not None:
                self._rows[row][name] = value
                self._columns[name].write(row, value)
        self._weigh(row)

    def reserve(self, node: str, reserved: Reserved) -> None:
        """What all deployments hold on a node now."""
        before = self._reserved.get(node)
        for port in before.ports if before else ():
            self._ports[port].pop(node, None)
        for port, who in reserved.ports.items():
            self._ports.setdefault(port, {})[node] = who
        self._reserved[node] = reserved
        row = self._row_of.get(node)
        if row is not None:
            self._weigh(row)

    def _weigh(self, row: int) -> None:
        """What is left on a node and how good that is, whoever asks."""
        node = self._rows[row]
        reserved = self._reserved.get(node["name"], _NOTHING)
        cores, memory = float(node.get("cpu.cores") or 0), float(node.get("memory.total") or 0)
        self._free_cpu[row] = cores - reserved.cpu
        self._free_memory[row] = memory - reserved.memory
        self._part[row] = max(0.0, (memory or 1.0) - reserved.memory) / (memory or 1.0)
        self._busy[row] = 1.0 + max(0.0, float(node.get("load.1m") or 0.0) / max(1.0, cores))

    # -- choosing --------------------------------------------------------------------------------

    def answers(self, request: DeploymentRequest) -> bool:
        """Whether attributes that stand still decide, so that the index need not be asked."""
        if request.spread and request.spread.over != "name":
            return False
        asked = [name for key in preferences(request) for name in key]
        try:
            asked += [one.attribute for one in conditions(parse_where(request.where))]
        except InvalidQuery:
            return False
        return all((about := lookup(name)) is not None and not about.dynamic for name in asked)

    def choose(self, request: DeploymentRequest) -> Picked | None:
        """A place for every replica of a new deployment; None where not all find one.

        Args:
            request: one that :meth:`answers` is true of.
        """
        used = len(self._rows)
        self._order()
        asked = parse_where(question(request)["where"])
        passed = np.ones(used, np.bool_)
        unmatched: list[tuple[Predicate, Mask]] = []
        for part in conjuncts(asked):
            matching = self._test(part, used)
            failing = passed > matching  # passed, and not matching
            if failing.any():
                unmatched.append((part, failing))
                passed = passed & matching
        looks = []
        for runtime in request.runtimes:
            look = self._look(request, runtime, passed, used)
            looks.append(look)
            placements = self._place(request, look)
            if len(placements) == request.replicas:
                return Picked(self, request, placements, looks, unmatched)
            if placements:
                return None  # why no more fit depends on those that were put: for the plain way to tell
        return None

    def _look(self, request: DeploymentRequest, runtime: RuntimeName, passed: Mask, used: int) -> _Look:
        """Who could run it, and how good each would be."""
        kinds = self._kinds[:used]
        offers = [offer(request, runtime, example) for example in self._examples]
        by_kind = list(zip(offers, self._examples, strict=True))
        offered = np.array([by is not None for by in offers], np.bool_)
        stands = np.array(
            [by is not None and standing(request, example, by.driver) is not None for by, example in by_kind],
            np.bool_,
        )
        needed = np.array(
            [
                float(sum(needs(request, runtime, by.engine if by else None, example.get("cpu.arch"))[1:]))
                for by, example in by_kind
            ]
        )
        pods = np.array([by is not None and by.driver == "kubernetes" for by in offers], np.bool_)
        failed: dict[str | int, Mask] = {}
        left = passed

        def drop(why: str | int, failing: Mask) -> None:
            nonlocal left
            failing = failing & left
            if failing.any():
                failed[why] = failing
                left = left & ~failing

        if not offered.all():
            drop("offer", ~offered[kinds])
        if stands.any():
            drop("taint", stands[kinds])
        alike = bool(len(needed)) and bool((needed == needed[0]).all())
        need: Any = needed[0] if alike else needed[kinds]
        cpu = request.resources.cpu or 0.0
        by_pods = pods[kinds] if pods.any() else pods
        drop("cpu", cpu > self.free_cpu(used, by_pods) + CRUMB)
        drop("memory", need > self.free_memory(used, by_pods))
        drop("available", need > self._numbers("memory.available")[:used])
        for port in [port.host_port for port in request.ports if port.host_port]:
            taken = np.zeros(used, np.bool_)
            taken[[self._row_of[node] for node in self._ports.get(port, ()) if node in self._row_of]] = True
            drop(port, taken)
        able = np.flatnonzero(left)
        parts = self._scores(
            request, able, [bool(by and avoided(request, ex, by.driver)) for by, ex in by_kind]
        )
        total = np.zeros(len(able))
        for part in parts.values():
            total = total + part
        return _Look(runtime, able, failed, offers, needed, np.rint(total * 1e4) / 1e4, parts)

    def free_cpu(self, used: int, pods: Mask) -> npt.NDArray[np.float64]:
        """Unreserved cores; of what the cluster would run, of those that it gives to pods."""
        return self._given(self._free_cpu[:used], "cpu.cores", "cluster.cpu", pods)

    def free_memory(self, used: int, pods: Mask) -> npt.NDArray[np.float64]:
        """Unreserved bytes, likewise."""
        return self._given(self._free_memory[:used], "memory.total", "cluster.memory", pods)

    def _given(
        self, free: npt.NDArray[np.float64], whole: str, given: str, pods: Mask
    ) -> npt.NDArray[np.float64]:
        """What is free without what the cluster keeps from its pods."""
        if not pods.any():
            return free
        used = len(free)
        total, to_pods = np.nan_to_num(self._numbers(whole)[:used]), self._numbers(given)[:used]
        return free - np.where(pods & ~np.isnan(to_pods), np.maximum(0.0, total - to_pods), 0.0)

    def _scores(
        self, request: DeploymentRequest, able: Rows, avoid: list[bool]
    ) -> dict[str, npt.NDArray[np.float64]]:
        """As :func:`services.vim.score.scores`, of whole arrays."""
        parts: dict[str, npt.NDArray[np.float64]] = {}
        weight = 1.0
        for key in preferences(request):
            ((name, direction),) = key.items()
            parts[name] = _rounded(weight * self._ranked(name, able, ascending=direction == "asc"))
            weight /= 2
        free = self._part[able]
        parts["pack" if request.pack else "room"] = _rounded(
            weight * (1 - free if request.pack else free) * 0.5
        )
        parts["idle"] = _rounded(weight * 0.5 / self._busy[able])
        if any(avoid):
            away = np.array(avoid, np.bool_)[self._kinds[able]]
            if away.any():
                parts["taints"] = np.where(away, 0.0, _rounded(np.array(weight)))
        return parts

    def _ranked(self, name: str, able: Rows, *, ascending: bool) -> npt.NDArray[np.float64]:
        values, at = self.column(name).distinct(able)
        key = order_of(name)
        keys = [None if value is None else key(value) for value in values]
        known = sorted({one for one in keys if one is not None}, reverse=not ascending)
        if len(known) <= 1:
            worth = dict.fromkeys(known, 1.0)
        else:
            worth = {one: 1 - number / (len(known) - 1) for number, one in enumerate(known)}
        return np.array([0.0 if one is None else worth[one] for one in keys] or [0.0])[at]

    def _place(self, request: DeploymentRequest, look: _Look) -> list[Placement]:
        """Every replica to the best of those that have the fewest, as far as they fit."""
        if not len(look.able):
            return []
        best = self._best(look, request.replicas)
        total = dict(
            zip(
                self._names[best].tolist(),
                look.scores[np.searchsorted(look.able, best)].tolist(),
                strict=True,
            )
        )
        able = [
            Room(self._rows[row], self._reserved.get(self._names[row], Reserved()), {}, ())
            for row in best.tolist()
        ]
        return fill(request, look.runtime, able, total, list(range(request.replicas)))[0]

    def _best(self, look: _Look, most: int) -> Rows:
        """The best rows, ascending: no more than there are replicas can be needed."""
        able, scores = look.able, look.scores
        if most < len(able):
            least = (
                scores.max() if most == 1 else np.partition(scores, len(scores) - most)[len(scores) - most]
            )
            above, equal = able[scores > least], able[scores == least]
            if len(equal) > most - len(above):
                missing = most - len(above)
                ranks = self._rank[equal]
                equal = equal[[ranks.argmin()]] if missing == 1 else equal[np.argsort(ranks)[:missing]]
            able = np.sort(np.concatenate([above, equal]))
        return able

    # -- attributes ------------------------------------------------------------------------------

    def column(self, name: str) -> Column:
        """The column of an attribute, made when it is first asked for."""
        held = self._columns.get(name)
        if held is None:
            held = self._columns[name] = column(name, self._capacity)
            for row, attributes in enumerate(self._rows):
                held.write(row, attributes.get(name))
        return held

    def names(self, rows: Rows) -> list[str]:
        """The nodes in some rows, by name."""
        names: list[str] = self._names[rows[np.argsort(self._rank[rows])]].tolist()
        return names

    def in_order(self, rows: Rows) -> list[str]:
        """The nodes in some rows, in their order."""
        names: list[str] = self._names[rows].tolist()
        return names

    def ranked(self, rows: Rows) -> Rows:
        """The place of each row in the order of names."""
        return self._rank[rows]

    def node(self, row: int) -> dict[str, Any]:
        """The attributes of a row."""
        return self._rows[row]

    def kinds(self, rows: Rows) -> npt.NDArray[np.intp]:
        """The kinds of some rows."""
        return self._kinds[rows]

    def had(self, what: str, rows: Rows, *, pods: bool) -> npt.NDArray[np.float64]:
        """What some rows have left of cores (``cpu``) or bytes."""
        if what == "available":
            return self._numbers("memory.available")[rows]
        used = len(self._rows)
        by = np.full(used, pods)
        free = self.free_cpu(used, by) if what == "cpu" else self.free_memory(used, by)
        return np.maximum(0.0, np.round(free[rows], 3))

    def port_of(self, port: int, row: int) -> str:
        """Who holds a host port."""
        return self._ports[port][self._names[row]]

    def matching(self, predicate: Predicate) -> set[str]:
        """The nodes that match, by name."""
        self._order()
        return set(self.names(np.flatnonzero(self._test(predicate, len(self._rows)))))

    def _test(self, predicate: Predicate, used: int) -> Mask:
        if isinstance(predicate, Condition):
            return self.column(predicate.attribute).test(predicate, used)
        every = isinstance(predicate, Every)
        mask = np.full(used, every)
        for part in predicate.parts:
            if every:
                mask &= self._test(part, used)
            else:
                mask |= self._test(part, used)
        return mask

    def _numbers(self, name: str) -> npt.NDArray[np.float64]:
        held = self._columns[name]
        assert isinstance(held, Numbers)  # noqa: S101 - made so above
        return held.values

    def _order(self) -> None:
        """Names by row and their order, anew where nodes came."""
        if len(self._names) == len(self._rows):
            return
        self._names = np.array([row["name"] for row in self._rows], object)
        self._by_name = np.argsort(self._names, kind="stable")
        self._rank = np.empty(len(self._rows), np.intp)
        self._rank[self._by_name] = np.arange(len(self._rows))

    def _grow(self) -> None:
        self._capacity *= 2
        for held in self._columns.values():
            held.grow(self._capacity)
        for name in ("_kinds", "_free_cpu", "_free_memory", "_part", "_busy"):
            before: npt.NDArray[Any] = getattr(self, name)
            grown = np.zeros(self._capacity, before.dtype)
            grown[: len(before)] = before
            setattr(self, name, grown)


class Picked:
    """A choice; why it was made is told when somebody asks, before anything else is chosen.

    Attributes:
        placements: of every replica.
    """

    def __init__(
        self,
        fleet: Fleet,
        request: DeploymentRequest,
        placements: list[Placement],
        looks: list[_Look],
        unmatched: list[tuple[Predicate, Mask]],
    ) -> None:
        self.placements = placements
        self.considered = len(fleet)
        self._fleet = fleet
        self._request = request
        self._looks = looks
        self._unmatched = unmatched

    def explained(self) -> Choice:
        """Every candidate's score, and every other node's reason in each runtime that was looked at."""
        rejected = [group for look in self._looks for group in self._refused(look)]
        candidates, further = self._candidates(self._looks[-1])
        return Choice(self.placements, candidates, further, rejected)

    def unmatched(self) -> list[Rejection]:
        """The nodes that fail a condition, by the first that they fail and what they had."""
        groups = []
        for part, failing in self._unmatched:
            rows = np.flatnonzero(failing)
            about = part.attribute if isinstance(part, Condition) else None
            wanted = describe(part)
            groups += [
                Failing(about, wanted, had, self._fleet.names(some))
                for had, some in self._by_value(about, rows)
            ]
        return rejected(groups, Rejection)

    def _by_value(self, about: str | None, rows: Rows) -> list[tuple[str | None, Rows]]:
        if about is None:
            return [(None, rows)]
        values, at = self._fleet.column(about).distinct(rows)
        shown = [None if value is None else show(about, value, rounded=True) for value in values]
        groups = list(dict.fromkeys(shown))
        if len(groups) > _MOST_VALUES:
            return [("another", rows)]
        places = np.array([groups.index(one) for one in shown])[at]
        return [(had, rows[places == number]) for number, had in enumerate(groups)]

    def _candidates(self, look: _Look) -> tuple[list[Candidate], Further | None]:
        """The best with what their scores are made of, the others with their scores."""
        order = np.lexsort([self._fleet.ranked(look.able), -look.scores])[:_MOST_CANDIDATES]
        # A cluster's scheduler chooses among those that are told in full.
        full = _MOST_CANDIDATES if any(by and by.cluster for by in look.offers) else _IN_FULL
        order, beyond = order[:full], order[full:]
        rows = look.able[order]
        parts = {
            name: np.broadcast_to(part, look.scores.shape)[order].tolist()
            for name, part in look.parts.items()
        }
        each = zip(*parts.values(), strict=True)
        found = []
        kinds = dict(zip(rows.tolist(), self._fleet.kinds(rows).tolist(), strict=True))
        for row, score, values in zip(rows.tolist(), look.scores[order].tolist(), each, strict=True):
            node, by = self._fleet.node(row), look.offers[kinds[row]]
            found.append(
                {
                    "node": node["name"],
                    "runtime": look.runtime,
                    "driver": by.driver if by else "host",
                    "cluster": by.cluster if by else None,
                    "engine": by.engine if by else None,
                    "score": score,
                    "scores": dict(zip(parts, values, strict=True)),
                }
            )
        further = None
        if len(beyond):
            names = self._fleet.in_order(look.able[beyond])
            further = Further(runtime=look.runtime, nodes=names, scores=look.scores[beyond].tolist())
        return _CANDIDATES.validate_python(found), further

    def _refused(self, look: _Look) -> list[Rejection]:
        """As a room would refuse each row."""
        refused: dict[Refusal, list[str]] = {}
        for why, failing in look.failed.items():
            for refusal, some in self._refusals(look, why, np.flatnonzero(failing)):
                refused.setdefault(refusal, []).extend(self._fleet.names(some))
        return rejections(look.runtime, refused)

    def _refusals(self, look: _Look, why: str | int, rows: Rows) -> Iterator[tuple[Refusal, Rows]]:
        for kind in np.unique(self._fleet.kinds(rows)).tolist():
            some = rows[self._fleet.kinds(rows) == kind]
            by, node = look.offers[kind], self._fleet.node(int(some[0]))
            if by is None:
                yield self._no_offer(look.runtime, node), some
            elif why == "taint":
                yield Refusal("taint", "taints", None, standing(self._request, node, by.driver)), some
            elif isinstance(why, int):
                for row in some.tolist():
                    who = self._fleet.port_of(why, row)
                    yield Refusal("port", "ports", why, who), np.array([row])
            else:
                needed: float | int = int(look.needed[kind])
                if why == "cpu":
                    needed = self._request.resources.cpu or 0.0
                had = self._fleet.had(why, some, pods=by.driver == "kubernetes")
                values, at = np.unique(had, return_inverse=True)
                for number, value in enumerate(values.tolist()):
                    told = value if why == "cpu" else int(value)
                    yield Refusal(why, _ATTRIBUTE[why], needed, told), some[at == number]

    def _no_offer(self, runtime: RuntimeName, node: dict[str, Any]) -> Refusal:
        if unfit := no_offer(self._request, runtime, node):
            return Refusal("unfit", "runtimes", f"{runtime} for this: {unfit}", None)
        return Refusal("runtimes", "runtimes", runtime, ", ".join(node.get("runtimes") or ()))


def _rounded(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.rint(scores * 1e4) / 1e4


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
