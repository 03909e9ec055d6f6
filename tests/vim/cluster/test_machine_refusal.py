"""Each refusal of KubeVirt, told by the field of our request."""

from __future__ import annotations

from typing import Any

import pytest

from services.vim.cluster.api import ApiError
from services.vim.cluster.machine_refusal import failure_of, refused

DOMAIN = "spec.template.spec.domain"
REQUESTS, LIMITS = f"{DOMAIN}.resources.requests", f"{DOMAIN}.resources.limits"


@pytest.mark.parametrize(
    ("field", "message", "ours"),
    [
        (
            f"{DOMAIN}.devices.disks[0].name",
            "spec.template.spec.domain.devices.disks[0].Name 'root' not found.",
            "images.vm",
        ),
        (
            "spec.running",
            "Running and RunStrategy are mutually exclusive. Note that Running is deprecated",
            "restart",
        ),
        ("spec.runStrategy", "RunStrategy must be specified", "restart"),
        ("spec.runStrategy", "Invalid RunStrategy (X)", "restart"),
        (
            "spec.template.spec.volumes[0]",
            "spec.template.spec.volumes[0] must have exactly one source type set",
            "images.vm",
        ),
        (
            f"{DOMAIN}.resources.requests.memory",
            f"{REQUESTS}.memory '2Gi' is greater than {LIMITS}.memory '1Gi'",
            "resources.memory",
        ),
        ("spec.template.spec.volumes[0]", "HostDisk feature gate is not enabled", "images.vm"),
        (
            f"{DOMAIN}.firmware.kernelBoot",
            "kernel arguments cannot be provided without an external kernel",
            "images.vm.arguments",
        ),
        (
            "spec.template.spec.volumes[1].cloudInitNoCloud",
            "spec.template.spec.volumes[1].cloudInitNoCloud must have only one userdatasource set.",
            "images.vm.cloudInit",
        ),
        (
            "spec.template.spec.volumes[1].cloudInitNoCloud.userData",
            "userdata exceeds 2048 byte limit. Should use UserDataSecretRef for larger data.",
            "images.vm.cloudInit.userData",
        ),
        (
            "spec.template.spec.domain.cpu",
            "VM field(s) spec.template.spec.domain.cpu conflicts with selected instance type",
            "resources",
        ),
        (
            f"{DOMAIN}.devices.interfaces[0].name",
            "Masquerade interface only implemented with pod network",
            "ports",
        ),
        (f"{DOMAIN}.memory.guest", "must be larger than 4M", "resources.memory"),
        (
            "spec.template.spec.livenessProbe",
            "either spec.livenessProbe.tcpSocket or httpGet must be set",
            "health",
        ),
    ],
)
def test_a_cause_is_told_by_the_field_of_the_request(field: str, message: str, ours: str) -> None:
    causes = [{"reason": "FieldValueInvalid", "field": field, "message": message}]
    told = refused(ApiError(422, "Invalid", "admission webhook denied the request", causes))
    assert (told.reason, told.lasting) == ("InvalidWorkload", True)
    assert told.message == f"{ours}: {message}"


def test_what_maps_to_nothing_keeps_its_place() -> None:
    told = refused(ApiError(422, "Invalid", "x", [{"field": "metadata.name", "message": "too long"}]))
    assert told.message == "metadata.name: too long"


def test_an_unknown_field_is_refused_at_once_by_strict_validation() -> None:
    told = refused(ApiError(400, "BadRequest", 'strict decoding error: unknown field "spec.runStrategi"', []))
    assert told.reason == "InvalidWorkload"
    assert "runStrategi" in told.message


@pytest.mark.parametrize(
    ("http", "reason", "message", "ours"),
    [
        (403, "Forbidden", "pods is forbidden: exceeded quota: q, requested: memory=1Gi", "QuotaExceeded"),
        (403, "Forbidden", 'User "x" cannot patch resource "virtualmachines"', "Forbidden"),
        (404, "NotFound", "the server could not find the requested resource", "ApiError"),
        (422, "Invalid", "ValidatingAdmissionPolicy 'p' denied request: not on Fridays", "Refused"),
        (403, "Forbidden", "admission webhook denied the request: not on Fridays", "Refused"),
    ],
)
def test_other_refusals_say_whether_waiting_helps(http: int, reason: str, message: str, ours: str) -> None:
    told = refused(ApiError(http, reason, message, []))
    assert told.reason == ours
    assert message in told.message


def test_a_field_of_somebody_else_is_named_and_left_alone() -> None:
    cause = {
        "reason": "FieldManagerConflict",
        "field": ".spec.runStrategy",
        "message": 'conflict with "kubectl"',
    }
    told = refused(ApiError(409, "Conflict", "Apply failed with 1 conflict", [cause]))
    assert told.reason == "OwnedByOthers"
    assert ".spec.runStrategy" in told.message
    assert "kubectl" in told.message


@pytest.mark.parametrize(
    ("reason", "message", "ours", "says"),
    [
        ("FailedCreate", "admission webhook denied: memory request is too small", "Refused", "too small"),
        ("FailedCreate", "pods is forbidden: exceeded quota: q", "QuotaExceeded", "exceeded quota"),
        ("FailedFindInstancetype", 'virtualmachineinstancetypes "x" not found', "Refused", "FailedFindInstancetype"),
        ("FailedCreate", "no matches for kind DataVolume in version cdi.kubevirt.io/v1beta1", "Refused", "DataVolume"),
    ],
)  # fmt: skip
def test_a_failure_that_comes_later_keeps_kubevirts_words(
    reason: str, message: str, ours: str, says: str
) -> None:
    condition: dict[str, Any] = {"type": "Failure", "status": "True", "reason": reason, "message": message}
    told = failure_of(condition)
    assert told.reason == ours
    assert says in told.message
