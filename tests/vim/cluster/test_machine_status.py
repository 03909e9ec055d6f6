"""What KubeVirt prints is never believed alone: each of its sequences, in our words."""

from __future__ import annotations

from typing import Any

import pytest

from services.vim.cluster.machine_plan import migration_name
from services.vim.cluster.machine_status import Seen, observe, observe_end
from services.vim.cluster.machine_view import Ground, Level, View
from tests.vim.cluster.machines import GROUNDS, NOW, PATIENCE, condition, level, migration, running, vm, vmi

DEAD = {**GROUNDS, "ka": Ground("a", ready=False)}
FENCED = {**GROUNDS, "ka": Ground("a", ready=False, fenced=True)}


def seen(view: View, *levels: Level, before: str | None = None) -> Seen:
    """How the last of the levels is."""
    return observe((levels or (level(),))[-1], view, NOW, PATIENCE, before)


def ends(view: View) -> str | None:
    told = observe_end(view)
    return told and f"{told.state} {told.reason}"


def printed(word: str | None, *, instance: Any = None, ready: str | None = None, **status: Any) -> View:
    """A machine with this printed word; its instance, unless there is none, is where it was placed."""
    conditions = [condition("Ready", "False", ready)] if ready else []
    wish = level()
    more = [*conditions, *status.pop("conditions", [])]
    return View(vm(wish, word, conditions=more, **status), instance, grounds=GROUNDS)


class TestCreate:
    """None, Stopped for a moment, Starting, Running without ready, ready."""

    def test_what_is_not_there_yet_is_being_made(self) -> None:
        assert seen(View()).state == "creating"

    def test_what_has_no_word_yet_is_being_made(self) -> None:
        assert seen(printed(None)).state == "creating"

    def test_stopped_in_passing_is_no_end(self) -> None:
        assert seen(printed("Stopped", ready="VMINotExists")).state == "creating"

    def test_starting(self) -> None:
        assert seen(printed("Starting", instance=vmi(level(), None, "Scheduling"))).state == "starting"

    @pytest.mark.parametrize("reason", [None, "VMIConditionMissing", "GuestNotRunning"])
    def test_running_that_is_not_ready_is_starting(self, reason: str | None) -> None:
        view = printed("Running", instance=vmi(level()), ready=reason, created=True)
        assert (seen(view).state, seen(view).reason) == ("starting", "NotReady")

    def test_ready_is_running_with_its_address(self) -> None:
        assert seen(running()) == Seen("running", "Started", addresses=("10.0.0.7",))


class TestRestart:
    def test_stopped_in_passing_says_so(self) -> None:
        for word in ("Stopped", "Stopping"):
            told = seen(printed(word), before="running")
            assert (told.state, told.reason) == ("starting", "Restarting")

    def test_stopped_for_too_long_is_told(self) -> None:
        view = printed("Stopped", conditions=[condition("Ready", "False", "VMINotExists", ago=61)])
        assert (seen(view).state, seen(view).reason) == ("unknown", "NotStarted")

    def test_what_was_up_and_is_not_ready_is_degraded(self) -> None:
        view = printed("Running", instance=vmi(level()), ready="PodTerminating", created=True)
        assert (seen(view, before="running").state, seen(view).state) == ("degraded", "starting")

    def test_a_machine_that_never_comes_up_says_when_it_is_tried_again(self) -> None:
        failure = {"consecutiveFailCount": 3, "retryAfterTimestamp": "2026-01-01T12:01:30Z"}
        told = seen(printed("CrashLoopBackOff", startFailure=failure))
        assert (told.state, told.reason) == ("degraded", "CrashLoopBackOff")
        assert "3 times" in told.message
        assert "12:01:30" in told.message

    def test_an_instance_of_an_earlier_wish_is_not_the_one_that_is_wanted(self) -> None:
        told = seen(running(), level(cpu=2.0))
        assert (told.state, told.reason) == ("starting", "Updating")


class TestEnd:
    def test_a_guest_that_shuts_down_needs_no_word(self) -> None:
        assert ends(printed("Stopping", instance=vmi(level()), created=True)) is None

    def test_a_start_under_way_that_would_undo_the_halt_is_told(self) -> None:
        view = running(vm=vm(level(), created=True, stateChangeRequests=[{"action": "Start"}]))
        assert ends(view) == "stopping StartUnderWay"

    def test_an_instance_without_its_machine_runs_on_and_is_told(self) -> None:
        assert ends(View(None, vmi(level()), grounds=GROUNDS)) == "stopping Orphaned"

    def test_a_machine_on_a_dead_node_is_not_known_to_have_stopped(self) -> None:
        assert ends(running(grounds=DEAD)) == "stopping NodeLost"

    @pytest.mark.parametrize(
        ("restart", "phase", "state"),
        [
            ("never", "Succeeded", "completed"),
            ("on-failure", "Succeeded", "completed"),
            ("never", "Failed", "failed"),
            ("on-failure", "Failed", "creating"),
            ("always", "Succeeded", "creating"),
            ("always", "Failed", "creating"),
        ],
    )
    def test_a_guest_that_ended_by_itself(self, restart: str, phase: str, state: str) -> None:
        wish = level(restart=restart)
        told = seen(View(vm(wish, "Stopped", created=True), vmi(wish, phase=phase), grounds=GROUNDS), wish)
        assert told.state == state
        assert (told.exit is not None) is (state in ("completed", "failed"))


class TestPause:
    def test_ready_stays_true_while_it_is_paused(self) -> None:
        paused = [condition("Paused", "True", "PausedByUser"), condition("Ready", "True")]
        view = running(
            vmi=vmi(level(), conditions=paused), vm=vm(level(), "Paused", created=True, ready=True)
        )
        assert (seen(view, level(state="paused")).state, seen(view).state) == ("paused", "paused")

    def test_what_kubevirt_paused_itself_is_degraded(self) -> None:
        view = running(vmi=vmi(level(), conditions=[condition("Paused", "True", "PausedIOError")]))
        assert (seen(view).state, seen(view).reason) == ("degraded", "PausedIOError")


class TestDeadNode:
    """The machine stays printed as Running, for ever; it is not started elsewhere before fencing."""

    def test_printed_running_is_unknown_and_says_what_to_do(self) -> None:
        told = seen(running(grounds=DEAD))
        assert (told.state, told.reason) == ("unknown", "NodeLost")
        assert (
            "kubectl taint nodes ka node.kubernetes.io/out-of-service=nodeshutdown:NoExecute" in told.message
        )

    def test_a_node_that_is_no_longer_there_is_as_dead(self) -> None:
        assert seen(running(grounds={"kb": Ground("b")})).reason == "NodeLost"

    def test_moved_by_vim_it_waits_for_fencing(self) -> None:
        told = seen(running(grounds=DEAD), level("b", revision=2))
        assert (told.state, told.reason) == ("creating", "FencingNeeded")

    def test_once_fenced_it_is_on_its_way(self) -> None:
        assert seen(running(grounds=FENCED)).reason == "Fenced"

    def test_freed_it_is_followed_to_where_it_runs(self) -> None:
        told = seen(running(grounds=FENCED, vmi=vmi(level(), "kb")))
        assert (told.state, told.moved_to) == ("running", "b")


class TestLater:
    """Accepted, and failing later."""

    def test_no_memory(self) -> None:
        failed = [
            condition("Failure", "True", "FailedCreate", "admission webhook: memory must be at least 4M")
        ]
        told = seen(printed("Stopped", conditions=failed))
        assert (told.state, told.reason) == ("failed", "Refused")
        assert "at least 4M" in told.message

    def test_a_missing_claim(self) -> None:
        missing = [condition("Synchronized", "False", "FailedPvcNotFound", "PVC ns/x does not exist")]
        told = seen(printed("ErrorPvcNotFound", instance=vmi(level(), None, "Pending"), conditions=missing))
        assert (told.state, told.reason, told.message) == (
            "failed",
            "VolumeNotFound",
            "PVC ns/x does not exist",
        )

    def test_data_volume_templates_without_cdi(self) -> None:
        failed = [condition("Failure", "True", "FailedCreate", "no matches for kind DataVolume")]
        assert seen(printed("Stopped", conditions=failed)).state == "failed"

    def test_a_missing_instancetype(self) -> None:
        failed = [condition("Failure", "True", "FailedFindInstancetype", "x not found")]
        assert "FailedFindInstancetype" in seen(printed("Stopped", conditions=failed)).message

    def test_no_node_fits(self) -> None:
        text = "0/3 nodes are available: 3 Insufficient memory."
        why = [condition("PodScheduled", "False", "Unschedulable", text)]
        told = seen(printed("ErrorUnschedulable", instance=vmi(level(), None, "Scheduling", conditions=why)))
        assert (told.state, told.reason, told.message) == ("creating", "Unschedulable", text)

    @pytest.mark.parametrize(
        ("word", "state", "reason"),
        [
            ("ErrImagePull", "creating", "ErrImagePull"),
            ("ImagePullBackOff", "failed", "ImagePullFailed"),
            ("DataVolumeError", "failed", "VolumeFailed"),
            ("Provisioning", "creating", "Provisioning"),
            ("WaitingForVolumeBinding", "creating", "WaitingForVolumeBinding"),
            ("WaitingForReceiver", "starting", "WaitingForReceiver"),
            ("Terminating", "starting", "Terminating"),
            ("Unknown", "unknown", "Unknown"),
        ],
    )
    def test_every_other_word(self, word: str, state: str, reason: str) -> None:
        told = seen(printed(word))
        assert (told.state, told.reason) == (state, reason)
        assert told.message


class TestMove:
    """From a, where it runs and was settled, to b."""

    levels = (level("b", revision=2),)

    def migrating(self, phase: str | None, age: float = 0, **state: Any) -> View:
        view = running()
        view.migrations = [migration(migration_name(view, self.levels[0]), phase, age, **state)]
        return view

    @pytest.mark.parametrize("phase", [None, "Pending", "Scheduling", "Scheduled", "TargetReady", "Running"])
    def test_on_its_way(self, phase: str | None) -> None:
        assert seen(self.migrating(phase), *self.levels).state == "migrating"

    @pytest.mark.parametrize(("age", "state"), [(119, "migrating"), (121, "failed")])
    def test_stuck_without_a_reason_is_given_up_in_our_own_time(self, age: int, state: str) -> None:
        told = seen(self.migrating("Pending", age), *self.levels)
        assert told.state == state
        assert told.reason == ("MigrationStuck" if state == "failed" else "Migrating")
        assert "gives no reason" in told.message or state == "migrating"

    @pytest.mark.parametrize(("age", "state"), [(899, "migrating"), (901, "failed")])
    def test_one_that_never_ends_too(self, age: int, state: str) -> None:
        assert seen(self.migrating("Running", age), *self.levels).state == state

    def test_a_failed_one_says_why_and_that_it_stays(self) -> None:
        told = seen(self.migrating("Failed", failureReason="no route"), *self.levels)
        assert (told.state, told.reason) == ("failed", "MigrationFailed")
        assert told.message == "it stays on a: no route"

    def test_what_cannot_migrate_says_why(self) -> None:
        no = condition("LiveMigratable", "False", "DisksNotLiveMigratable", "PVC x is not shared")
        view = running(vmi=vmi(level(), conditions=[no]))
        assert (seen(view, *self.levels).reason, "not shared" in seen(view, *self.levels).message) == (
            "NotMigratable",
            True,
        )

    def test_another_migration_under_way_is_waited_for(self) -> None:
        view = running(migrations=[migration("kubevirt-evacuation-x", "Running")])
        assert seen(view, *self.levels).reason == "MigrationWaits"

    def test_arrived_it_runs_there_under_its_new_address(self) -> None:
        there = vmi(level(), "kb")
        there["status"]["interfaces"][0]["ipAddress"] = "10.0.0.8"
        told = seen(running(vmi=there), *self.levels)
        assert (told.state, told.addresses, told.moved_to) == ("running", ("10.0.0.8",), None)

    def test_where_the_cluster_itself_put_it_is_followed(self) -> None:
        told = seen(running(vmi=vmi(level(), "kc")))
        assert (told.state, told.moved_to) == ("running", "c")
