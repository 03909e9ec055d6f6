"""From what was decided and observed to the one state that users see, and to what is placed anew."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, get_args

import pytest

from schemas.decision import Attempt, DeploymentState, Rejection
from schemas.workload import WorkloadState
from services.vim.decide import held
from services.vim.lifecycle import HOPELESS, adrift, exhausted, hopeless, judge, judge_stopping
from services.vim.state import Life
from tests.vim.levels import NOW, decision, desired, life, observed, request, state

LATER = NOW + timedelta(seconds=31)
EXIT = {"exit": {"code": 1}}


@pytest.mark.parametrize("seen", get_args(WorkloadState))
def test_each_observed_state_is_the_deployments(seen: str) -> None:
    verdict = judge(life(decision("a"), observed("a", seen)), decision("a"), state(), NOW)
    # A worker that stopped what should run is no end of the deployment.
    assert verdict.state == ("unknown" if seen == "stopped" else seen)
    assert verdict.state in get_args(DeploymentState)
    assert verdict.reason == ("WorkerStopped" if seen == "stopped" else f"Was{seen.capitalize()}")


WORST_FIRST = ["failed", "unknown", "degraded", "creating", "starting", "stopping", "running", "completed"]


@pytest.mark.parametrize("at", range(len(WORST_FIRST) - 1))
def test_of_many_replicas_the_worst_is_told(at: int) -> None:
    states = [*WORST_FIRST[at:], *WORST_FIRST[at:]]
    nodes = [f"n{number}" for number in range(len(states))]
    seen = [observed(name, one, number) for number, (name, one) in enumerate(zip(nodes, states, strict=True))]
    verdict = judge(life(decision(*nodes), *seen), decision(*nodes), state(), NOW)
    assert verdict.state == WORST_FIRST[at]
    assert verdict.message.startswith(f"2 of {len(states)} replicas {verdict.state}")
    assert [replica.state for replica in verdict.replicas] == states


def test_it_is_paused_when_every_replica_is_and_runs_when_none_is() -> None:
    half = (observed("a", "paused", 0), observed("b", "running", 1))
    asked = request(replicas=2, paused=True)
    pausing = decision("a", "b", request=asked)
    told = judge(life(pausing, *half), pausing, state(), NOW)
    assert (told.state, told.message) == ("running", "1 of 2 replicas running")
    resuming = decision("a", "b")
    told = judge(life(resuming, *half), resuming, state(), NOW)
    assert (told.state, told.message) == ("paused", "1 of 2 replicas paused")


def test_it_migrates_until_it_has_ended_where_it_was() -> None:
    decided = decision("b")
    decided.placements[0].moved_from = "a"
    beginning = observed("b", "starting")

    def told(*levels: Any, lost: tuple[str, ...] = ()) -> tuple[str, str]:
        verdict = judge(life(decided, *levels), decided, state(*lost), NOW)
        return verdict.state, verdict.reason

    old = desired("a")
    assert told(old, observed("a", "running")) == ("migrating", "Migrating")
    assert told(old, observed("a", "running"), beginning) == ("migrating", "Migrating")
    assert told(old, observed("a", "running"), beginning, lost=("a",))[0] == "starting"
    ended = (desired("a", state="stopped"), observed("a", "stopped"))
    assert told(*ended, beginning)[0] == "starting", "a later restart is no migration"
    assert told(*ended, observed("b", "running"))[0] == "running"
    assert told(old, observed("a", "running"), observed("b", "failed"))[0] == "failed"


def test_what_could_not_move_is_told_while_it_runs() -> None:
    stays = Attempt(replica=0, node="a", runtime="process", reason="CannotMigrate", message="b is full")
    decided = decision("a", unmoved=[stays])
    verdict = judge(life(decided, observed("a", "running")), decided, state(), NOW)
    assert (verdict.state, verdict.reason, verdict.message) == (
        "running",
        "CannotMigrate",
        "replica 0: b is full",
    )
    assert judge(life(decided, observed("a", "failed")), decided, state(), NOW).reason == "WasFailed"


def test_what_is_not_yet_observed_is_being_created_then_unknown() -> None:
    decided = decision("a")
    assert judge(life(decided), decided, state(), NOW).state == "creating"
    silent = judge(life(decided), decided, state(), LATER)
    assert (silent.state, silent.reason) == ("unknown", "WorkerSilent")
    assert silent == judge(life(decided), decided, state(), LATER + timedelta(hours=1)), "said once"
    for other in ({"generation": 2}, {"runtime": "container"}):
        assert (
            judge(life(decided, observed("a", "running", **other)), decided, state(), NOW).state == "creating"
        )


def test_a_lost_node_is_told_unless_its_work_is_over() -> None:
    decided = decision("a")
    lost = judge(life(decided, observed("a", "running")), decided, state("a"), NOW)
    assert (lost.state, lost.reason) == ("lost", "NodeLost")
    assert judge(life(decided), decided, state("a"), NOW).state == "lost", "never heard of, and lost"
    assert judge(life(decided, observed("a", "completed")), decided, state("a"), NOW).state == "completed"


def test_replicas_without_a_place_are_told() -> None:
    decided = decision("a", replicas=3, outcome="unschedulable", message="no node matches")
    some = judge(life(decided, observed("a", "running")), decided, state(), NOW)
    assert (some.state, some.reason) == ("degraded", "ReplicasMissing")
    assert "2 of 3 cannot be placed: no node matches" in some.message
    none = decision(replicas=1, outcome="unschedulable", message="no node matches")
    assert judge(life(none), none, state(), NOW)[:3] == ("unschedulable", "NoNodeFits", "no node matches")
    before = life(none, desired("a", generation=0 + 1))
    newer = none.model_copy(update={"generation": 2})
    assert "generation 1 runs on" in judge(before, newer, state(), NOW).message


def test_what_was_tried_everywhere_has_failed() -> None:
    tried = [Attempt(replica=0, node="a", runtime="process", reason="ImageNotFound", message="no such file")]
    in_vain = Rejection(reason="was tried there: ImageNotFound", runtime="process", nodes=["a"])
    others = Rejection(reason="gpu is false, wanted true", nodes=["b"])
    full = Rejection(reason="cpu 0 unreserved < 1", runtime="process", nodes=["c"])
    over = decision(replicas=1, outcome="unschedulable", attempts=tried, rejected=[in_vain, others])
    verdict = judge(life(over), over, state(), NOW)
    assert (verdict.state, verdict.reason) == ("failed", "ImageNotFound")
    assert "a (process): no such file" in verdict.message
    hope = over.model_copy(update={"rejected": [in_vain, full]})
    assert not exhausted(hope)
    assert judge(life(hope), hope, state(), NOW).state == "unschedulable"


@pytest.mark.parametrize("reason", sorted(HOPELESS))
def test_what_can_never_start_there_is_an_attempt(reason: str) -> None:
    decided = decision("a", "b")
    seen = life(
        decided, observed("a", "failed", reason=reason), observed("b", "failed", 1, reason="OutOfMemory")
    )
    assert [(a.node, a.reason) for a in hopeless(seen, decided)] == [("a", reason)]


def test_who_is_placed_elsewhere_if_that_can_be() -> None:
    def who(seen: Life, *, lost: Any = (), since: int = 0, now: Any = NOW, **asked: Any) -> list[str]:
        decided = decision("a", "b", request=request(replicas=2, onLoss={"replaceAfter": 10}, **asked))
        return [a.reason for a in adrift(seen, decided, state(*lost, since=timedelta(seconds=since)), now)]

    up = life(decision("a", "b"), observed("a", "running"), observed("b", "running", 1))
    assert who(up) == []
    assert who(up, lost=["a"], since=9) == []
    assert who(up, lost=["a"], since=11) == ["NodeLost"]
    done = life(decision("a", "b"), observed("a", "completed"), observed("b", "failed", 1, **EXIT))
    assert who(done, lost=["a", "b"], since=11, restart="never") == []
    assert who(done, lost=["a", "b"], since=11, restart="always") == ["NodeLost"], "it would be restarted"
    silent = life(decision("a", "b"), observed("a", "running"))
    assert who(silent, now=LATER) == ["WorkerSilent"]


def test_a_singleton_is_never_placed_elsewhere() -> None:
    only = decision("a", request=request(onLoss={"singleton": True, "replaceAfter": 1}))
    lost = state("a", since=timedelta(days=1))
    assert adrift(life(only, observed("a", "running")), only, lost, NOW) == []


def test_an_end_is_told_when_every_worker_said_so() -> None:
    stopped = {"state": "stopped"}
    asked = life(None, observed("a", "running"), desired("a", **stopped), desired("b", 1, **stopped))
    waiting = judge_stopping(asked, state())
    assert (waiting.state, waiting.message) == ("stopping", "waiting for a, b")
    asked.observed["a", 0] = observed("a", "stopped")
    assert judge_stopping(asked, state()).message == "waiting for b"
    lost = judge_stopping(asked, state("b"))
    assert (lost.state, lost.message.startswith("stopped as asked; b lost")) == ("stopped", True)
    asked.observed["b", 1] = observed("b", "failed", 1)
    assert judge_stopping(asked, state())[:3] == ("stopped", "Cancelled", "stopped as asked")
    older = life(None, observed("a", "stopped"), desired("a", generation=2, **stopped))
    assert judge_stopping(older, state()).state == "stopping", "what it says is of an earlier generation"


def test_no_replicas_are_told_as_stopped_once_they_are() -> None:
    none = decision(replicas=0)
    assert judge(life(none), none, state(), NOW)[:2] == ("stopped", "ScaledToZero")
    going = life(none, observed("a", "running"), desired("a", state="stopped"))
    assert judge(going, none, state(), NOW)[:2] == ("stopping", "ScaledToZero")


def test_room_is_held_until_the_worker_says_that_it_ended() -> None:
    def nodes(seen: Life) -> list[str]:
        return [one.node for one in held(seen)]

    decided = decision("a")
    assert nodes(life(decided)) == ["a"], "decided, not yet told"
    moving = life(decided, desired("b"), observed("b", "running"))
    assert nodes(moving) == ["a", "b"], "where it was, too"
    moving.desired["b", 0] = desired("b", state="stopped")
    assert nodes(moving) == ["a", "b"], "told to stop"
    moving.observed["b", 0] = observed("b", "stopped")
    assert nodes(moving) == ["a"]
    done = life(decision("a", request=request(restart="never")), desired("a", restart="never"))
    done.observed["a", 0] = observed("a", "failed", **EXIT)
    assert nodes(done) == []
    done.observed["a", 0] = observed("a", "failed")
    assert nodes(done) == ["a"], "it did not even start; the worker tries again"
    cancelled = life(decided, desired("a", state="stopped"), observed("a", "running"))
    cancelled.cancel_revision = 9
    assert nodes(cancelled) == ["a"]
    cancelled.observed["a", 0] = observed("a", "stopped")
    assert nodes(cancelled) == []
