"""What the status of a pod means, and which pod is which replica: pure parts, with statuses as they were seen."""

from __future__ import annotations

from typing import Any

import pytest

from services.vim.cluster.match import best_first, match
from services.vim.cluster.pod import image_name
from services.vim.cluster.podstate import pod_state
from services.vim.cluster.refusal import refusal_of
from services.vim.worker.workload import CannotRun


def pod(
    name: str = "p",
    *,
    node: str | None = "n1",
    ready: bool = False,
    state: dict[str, Any] | None = None,
    last: dict[str, Any] | None = None,
    phase: str = "Running",
    started: bool = True,
    restarts: int = 0,
    **status: Any,
) -> dict[str, Any]:
    container = {"name": "main", "ready": ready, "restartCount": restarts, "started": started}
    container |= {"state": state or {}, "lastState": last or {}}
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {
        "metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"nodeName": node} if node else {},
        "status": {
            "phase": phase,
            "conditions": status.pop("conditions", conditions),
            "containerStatuses": [container] if state or last else [],
            **status,
        },
    }


RUNNING = {"running": {"startedAt": "2026-01-01T00:00:01Z"}}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


def ended(code: int, reason: str = "Error", **more: Any) -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, **more}}


@pytest.mark.parametrize(
    ("seen", "state", "reason"),
    [
        (pod(state=RUNNING, ready=True), "running", "Started"),
        (pod(state=RUNNING, started=False), "starting", "Started"),
        (pod(state=RUNNING), "starting", "Started"),
        (pod(state=waiting("ContainerCreating"), phase="Pending"), "creating", "Preparing"),
        (pod(node=None, phase="Pending", conditions=[]), "creating", "Scheduling"),
        (
            pod(
                node=None,
                phase="Pending",
                conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3"}],
            ),
            "creating",
            "Unschedulable",
        ),
        (pod(state=waiting("InvalidImageName", "x")), "failed", "ImageInvalid"),
        (pod(state=waiting("ErrImageNeverPull", "x")), "failed", "ImageNotFound"),
        (
            pod(state=waiting("ErrImagePull", 'failed to resolve "r/x:1": r/x:1: not found')),
            "failed",
            "ImageNotFound",
        ),
        (
            pod(state=waiting("ImagePullBackOff", "pull access denied, repository does not exist or denied")),
            "creating",
            "ImagePullFailed",
        ),
        (pod(state=waiting("ErrImagePull", "dial tcp: connection refused")), "creating", "ImagePullFailed"),
        (
            pod(state=waiting("CrashLoopBackOff"), last=ended(3), restarts=2),
            "starting",
            "CrashLoopBackOff",
        ),
        (
            pod(state=waiting("CrashLoopBackOff"), last=ended(137, "OOMKilled"), restarts=2),
            "starting",
            "OOMKilled",
        ),
        (
            pod(
                state=waiting("CrashLoopBackOff"),
                last=ended(128, "StartError", message='exec: "/x": stat /x: no such file or directory'),
            ),
            "failed",
            "CommandNotFound",
        ),
        (
            pod(
                state=waiting(
                    "CreateContainerConfigError", "container has runAsNonRoot and image will run as root"
                )
            ),
            "failed",
            "NeedsRoot",
        ),
        (pod(state=ended(1)), "starting", "ExitedWithError"),
        (pod(phase="Failed", reason="Evicted", message="low on disk"), "failed", "Evicted"),
    ],
)  # fmt: skip
def test_a_pod_in_our_words(seen: dict[str, Any], state: str, reason: str) -> None:
    found = pod_state(seen)
    assert (found.state, found.reason) == (state, reason)


def test_a_probe_that_fails_means_another_thing_before_and_after_it_served() -> None:
    assert pod_state(pod(state=RUNNING), served=False).state == "starting"
    found = pod_state(pod(state=RUNNING), served=True)
    assert (found.state, found.reason) == ("degraded", "HealthCheckFailed")


def test_a_job_ends_as_its_container_did_though_its_pod_still_says_running() -> None:
    found = pod_state(pod(state=ended(0, "Completed")), job=True)
    assert (found.state, found.reason) == ("completed", "Completed")
    found = pod_state(pod(state=ended(7)), job=True)
    assert (found.state, found.exit.code if found.exit else None) == ("failed", 7)
    found = pod_state(pod(state=ended(137, "OOMKilled")), job=True)
    assert found.exit is not None
    assert (found.reason, found.exit.oom) == ("OOMKilled", True)
    found = pod_state(pod(state=ended(143)), job=True)
    assert found.exit is not None
    assert found.exit.signal == 15


def test_nothing_is_known_of_a_pod_whose_node_is_away_and_a_pod_that_ends_says_so() -> None:
    assert pod_state(pod(state=RUNNING, ready=True), node_ready=False).reason == "NodeLost"
    going = pod(state=RUNNING, ready=True)
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:09Z"
    assert pod_state(going).state == "stopping"


def test_pods_stay_the_replica_that_they_were_and_new_ones_go_to_their_node() -> None:
    a, b, c = pod("a", node="n1"), pod("b", node="n2"), pod("c", node="n3")
    found = match([a, b, c], {0: "n2", 1: "n1", 2: "n9"}, {})
    assert {replica: one["metadata"]["name"] for replica, one in found.items()} == {0: "b", 1: "a", 2: "c"}
    # vim took over where c is; that another pod came to the first one's node changes nothing.
    before = {"b": 0, "a": 1, "c": 2}
    d = pod("d", node="n2")
    found = match([d, c, b, a], {0: "n2", 1: "n1", 2: "n3"}, before)
    assert {replica: one["metadata"]["name"] for replica, one in found.items()} == {0: "b", 1: "a", 2: "c"}


def test_of_too_many_pods_those_that_serve_count_first() -> None:
    ready, placed, unplaced = pod("z", ready=True), pod("y"), pod("x", node=None)
    assert [one["metadata"]["name"] for one in sorted([unplaced, placed, ready], key=best_first)] == [
        "z",
        "y",
        "x",
    ]
    only = match(sorted([unplaced, ready], key=best_first), {0: None}, {})
    assert only[0]["metadata"]["name"] == "z"


@pytest.mark.parametrize(
    "image",
    [
        "busybox", "busybox:1.36", "library/busybox", "docker.io/library/busybox:stable", "localhost/a:1",
        "localhost:5000/a", "registry.local:5000/a/b-c/d_e:v1.2", "ghcr.io/x/y@sha256:" + "a" * 64, "r:5000/x",
    ],
)  # fmt: skip
def test_references_of_images(image: str) -> None:
    assert image_name(image) == image


@pytest.mark.parametrize(
    "image",
    ["", "Upper/Case", "a b", "a;b", "$(x)", "-a", "a/../b", "http://x/y", "a:tag:tag", "a@sha256:12"],
)
def test_what_is_no_reference_of_an_image(image: str) -> None:
    with pytest.raises(CannotRun) as refused:
        image_name(image)
    assert (refused.value.reason, refused.value.lasting) == ("ImageInvalid", True)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ('pods "x" is forbidden: exceeded quota: small, requested: pods=1', "QuotaExceeded"),
        ('admission webhook "w" denied the request: no', "Refused"),
        ('pods "x" is forbidden: violates PodSecurity "restricted:latest": privileged', "Refused"),
        ("something else", "FailedCreate"),
    ],
)
def test_what_a_controller_met(message: str, reason: str) -> None:
    assert refusal_of(message).reason == reason
