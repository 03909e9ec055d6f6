"""Which moves open wishes come to, and the decision that answers; pure."""

from __future__ import annotations

from typing import Any

from schemas.decision import Placement, Rejection
from schemas.deployment import Migration
from services.vim.candidates import Found
from services.vim.migrate import Moves, answer, wished
from services.vim.state import Life
from tests.vim.levels import decision, life, node, observed, request


def wishing(decided: Any, *wishes: dict[str, Any], begin: int = 1) -> Life:
    made = life(decided)
    for revision, wish in enumerate(wishes, begin):
        made.migrations[revision] = Migration.model_validate(wish)
    return made


def moves(decided: Any, *wishes: dict[str, Any]) -> dict[tuple[str, str | None], list[int]]:
    found = wished(wishing(decided, *wishes), decided)
    assert found is not None
    assert found.revision == len(wishes)
    return found.of


def test_a_wish_moves_what_it_names_from_where_it_says() -> None:
    decided = decision("a", "a", "b")
    assert moves(decided, {}) == {("a", None): [0, 1], ("b", None): [2]}
    assert moves(decided, {"replica": 1}) == {("a", None): [1]}
    assert moves(decided, {"from": "b"}) == {("b", None): [2]}
    assert moves(decided, {"to": "b"}) == {("a", "b"): [0, 1]}
    assert moves(decided, {"replica": 2, "from": "a"}) == {}, "it is there no more"
    assert moves(decided, {"replica": 7}) == {}


def test_of_several_wishes_about_a_replica_the_last_one_counts() -> None:
    decided = decision("a", "b")
    assert moves(decided, {}, {"replica": 0, "to": "c"}) == {("b", None): [1], ("a", "c"): [0]}
    assert moves(decided, {"to": "c"}, {"replica": 0, "to": "a"}) == {("b", "c"): [1]}, "it is to stay"


def test_only_wishes_since_the_last_answer_and_cancellation_are_open() -> None:
    decided = decision("a", migrations=4)
    lived = wishing(decided, {"to": "b"}, begin=4)
    assert wished(lived, decided) is None
    lived.migrations[6] = Migration()
    assert wished(lived, decided) == Moves(6, {("a", None): [0]})
    lived.cancel_revision = 7
    assert wished(lived, decided) is None


def test_what_has_run_to_its_end_does_not_move() -> None:
    decided = decision("a", request=request(restart="never"))
    lived = wishing(decided, {})
    lived.observed["a", 0] = observed("a", "completed")
    lived.observed_revision["a", 0] = 1
    assert wished(lived, decided) == Moves(1, {})


def asked(*nodes: dict[str, Any], **fields: Any) -> Found:
    return Found({"where": {}}, list(nodes), **fields)


def on(name: str, replica: int, cpu: float = 0.0) -> Placement:
    return Placement(replica=replica, node=name, runtime="process", cpu=cpu)


def test_replicas_of_one_node_are_spread_over_the_others() -> None:
    decided = decision("a", "a", "a", "a")
    wish = Moves(9, {("a", None): [0, 1, 2, 3]})
    told = answer(decided, wish, asked(node("a"), node("b"), node("c")), {}, decided.placements)
    assert sorted(placement.node for placement in told.placements) == ["b", "b", "c", "c"]
    assert {placement.moved_from for placement in told.placements} == {"a"}
    assert (told.migrations, told.unmoved, told.outcome) == (9, [], "scheduled")
    left = [group for group in told.rejected if group.nodes == ["a"]]
    assert left[0].reason == "is the node that is left"


def test_some_move_where_not_all_find_a_place() -> None:
    decided = decision("a", "a", request=request(replicas=2, resources={"cpu": 3}))
    running = [on("a", 0, 3), on("a", 1, 3)]
    wish = Moves(9, {("a", "b"): [0, 1]})
    told = answer(decided, wish, asked(node("a", 8), node("b", 4), node("c", 8)), {}, running)
    assert [placement.node for placement in told.placements] == ["b", "a"]
    (stays,) = told.unmoved
    assert (stays.replica, stays.node, stays.reason) == (1, "a", "CannotMigrate")
    assert stays.message == "it stays on a: b: cpu 1 unreserved < 3"
    assert any(group.nodes == ["c"] and "is not b" in group.reason for group in told.rejected)


def test_a_node_that_was_never_a_candidate_is_told_with_the_reason_of_the_index() -> None:
    decided = decision("a")
    rejected = [Rejection(reason="state is stale, wanted alive", attribute="state", nodes=["b"], count=1)]
    told = answer(decided, Moves(9, {("a", "b"): [0]}), asked(node("a"), rejected=rejected), {}, [on("a", 0)])
    assert told.unmoved[0].message == "it stays on a: b: state is stale, wanted alive"
    nowhere = answer(decided, Moves(9, {("a", "z"): [0]}), asked(node("a")), {}, [on("a", 0)])
    assert nowhere.unmoved[0].message == "it stays on a: z: is not among the nodes that may run it"


def test_a_move_under_way_may_be_turned_back() -> None:
    decided = decision("b")
    running = [on("b", 0), on("a", 0)]  # it still runs where it was
    told = answer(decided, Moves(9, {("b", None): [0]}), asked(node("a"), node("b"), node("c")), {}, running)
    assert (told.placements[0].node, told.placements[0].moved_from) == ("a", "b")
    assert "kept" in told.placements[0].reason
