"""The next step for a machine: one at a time, each of which may be taken again."""

from __future__ import annotations

from typing import Any

import pytest

from services.vim.cluster.machine import HALTED
from services.vim.cluster.machine_plan import (
    Delete,
    Forget,
    Halt,
    Migrate,
    Step,
    Tell,
    Wait,
    Write,
    migration_name,
    plan,
    plan_end,
    settled_on,
)
from services.vim.cluster.machine_view import Ground, Level, View
from tests.vim.cluster.machines import (
    GROUNDS,
    NOW,
    PATIENCE,
    condition,
    level,
    migration,
    running,
    vm,
    vmi,
)

A, B = level("a"), level("b", revision=2)
PAUSED = condition("Paused", "True", "PausedByUser")
DEAD = {**GROUNDS, "ka": Ground("a", ready=False)}


def step(view: View, *levels: Level) -> Step:
    """The next step by the last of the levels."""
    return plan((levels or (A,))[-1], view, NOW, PATIENCE)


def halted(**status: Any) -> dict[str, Any]:
    made = vm(A, "Stopped", **status)
    made["spec"]["runStrategy"] = HALTED
    return made


def test_what_is_missing_is_made() -> None:
    assert step(View()) == Write()


def test_what_is_as_it_should_be_is_left_alone() -> None:
    assert isinstance(step(running()), Wait)


def test_a_machine_that_somebody_deletes_is_waited_for_then_made_again() -> None:
    view = running()
    assert view.vm is not None
    view.vm["metadata"]["deletionTimestamp"] = "2026-01-01T12:00:00Z"
    assert isinstance(step(view), Wait)
    assert step(View()) == Write()


def test_the_end_is_a_halt_then_a_deletion_once_nothing_runs() -> None:
    assert plan_end(running()) == Halt()
    assert isinstance(plan_end(View(halted(created=True), vmi(A))), Wait)
    assert isinstance(plan_end(View(halted(created=True))), Wait)  # Stopped is printed too early
    assert isinstance(plan_end(View(halted(), vmi(A, phase="Succeeded"))), Wait)
    assert plan_end(View(halted())) == Delete()
    assert isinstance(plan_end(View()), Wait)


def test_a_start_that_would_undo_the_halt_is_waited_for() -> None:
    starting = vm(A, "Stopped", stateChangeRequests=[{"action": "Stop"}, {"action": "Start"}])
    assert isinstance(plan_end(View(starting)), Wait)
    stopping = vm(A, "Running", stateChangeRequests=[{"action": "Stop"}])
    assert plan_end(View(stopping)) == Halt()


def test_a_halt_that_was_turned_back_is_repeated() -> None:
    assert plan_end(View(vm(A, "Starting"))) == Halt()


def test_a_halted_machine_that_is_wanted_again_is_started() -> None:
    assert step(View(halted())) == Write()


def test_another_wish_is_applied_and_then_the_instance_is_restarted_once() -> None:
    update = level(cpu=2.0, generation=2)
    assert step(running(), update) == Write()
    applied = running(vm=vm(update, created=True, ready=True))
    assert step(applied, update) == Tell("restart")
    assert applied.vm is not None
    applied.vm["status"]["stateChangeRequests"] = [{"action": "Stop"}, {"action": "Start"}]
    assert isinstance(step(applied, update), Wait)
    assert isinstance(step(running(update), update), Wait)


def test_more_replicas_are_no_other_wish_for_this_machine() -> None:
    assert isinstance(step(running(), level(generation=2)), Wait)


class TestPause:
    wish = level(state="paused")

    def test_what_runs_is_paused_once(self) -> None:
        assert step(running(), self.wish) == Tell("pause")
        assert isinstance(step(running(vmi=vmi(A, conditions=[PAUSED])), self.wish), Wait)

    def test_what_should_run_goes_on(self) -> None:
        assert step(running(vmi=vmi(A, conditions=[PAUSED]))) == Tell("unpause")

    def test_what_kubevirt_paused_itself_is_not_ours_to_resume(self) -> None:
        broken = condition("Paused", "True", "PausedIOError")
        assert isinstance(step(running(vmi=vmi(A, conditions=[broken]))), Wait)

    def test_what_does_not_run_yet_is_paused_later(self) -> None:
        view = running(vmi=vmi(A, None, "Scheduling"))
        assert isinstance(step(view, self.wish), Wait)

    def test_a_paused_machine_ends_as_any_other(self) -> None:
        assert plan_end(running(vmi=vmi(A, conditions=[PAUSED]))) == Halt()


class TestMove:
    def made(self, phase: str | None, age: float = 0) -> View:
        view = moved()
        view.migrations = [migration(migration_name(view, B), phase, age)]
        return view

    def test_a_level_on_another_node_is_a_live_migration(self) -> None:
        view = moved()
        assert step(view, A, B) == Migrate(migration_name(view, B), "b")

    def test_the_same_migration_is_asked_for_under_the_same_name(self) -> None:
        assert migration_name(moved(), B) == migration_name(moved(), B)
        assert migration_name(moved(), B) != migration_name(moved(), level("b", revision=3))

    @pytest.mark.parametrize("phase", [None, "Pending", "Running", "Failed", "Succeeded"])
    def test_one_migration_is_enough(self, phase: str | None) -> None:
        assert isinstance(step(self.made(phase), A, B), Wait)

    def test_a_stuck_one_is_taken_away_once_nobody_wants_it(self) -> None:
        view = self.made("Pending", age=500)
        assert isinstance(step(view, A, B), Wait)  # the status says that it failed; vim decides anew
        name = migration_name(view, B)
        assert step(back(view), A) == Forget(name)

    def test_migrations_of_others_are_waited_for_and_left_alone(self) -> None:
        view = moved()
        view.migrations = [migration("kubevirt-evacuation-x", "Running")]
        assert isinstance(step(view, A, B), Wait)
        done = running(migrations=[migration("kubevirt-evacuation-x", "Succeeded")])
        assert isinstance(step(done), Wait)

    def test_arrived_it_settles_there_and_forgets_the_migration(self) -> None:
        there = running(vmi=vmi(A, "kb"))
        assert step(there, A, B) == Write()
        assert settled_on(there, B) == "b"
        assert settled_on(moved(), B) == "a"  # not before it is there
        settled = running(vm=vm(B, created=True, ready=True, settled="b"), vmi=vmi(A, "kb"))
        settled.migrations = [migration("u-1-old", "Succeeded")]
        assert step(settled, A, B) == Forget("u-1-old")

    def test_where_the_cluster_put_it_nothing_is_moved_back(self) -> None:
        view = running(vmi=vmi(A, "kc"))
        assert isinstance(step(view), Wait)

    def test_from_a_dead_node_nothing_moves_before_fencing(self) -> None:
        view = moved()
        view.grounds = DEAD
        assert isinstance(step(view, A, B), Wait)

    def test_what_cannot_migrate_is_not_asked_to(self) -> None:
        view = moved()
        view.vmi = vmi(A, conditions=[condition("LiveMigratable", "False", "DisksNotLiveMigratable")])
        assert isinstance(step(view, A, B), Wait)


def moved() -> View:
    """It runs on a, and all but the place is as b's level wants it."""
    return running()


def back(view: View) -> View:
    """The same, wanted on a again."""
    return running(migrations=view.migrations)
