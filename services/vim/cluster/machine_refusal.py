"""What Kubernetes and KubeVirt hold against a machine, in the words of our request.

In: what the API server answered, or the condition in which KubeVirt says why it does not go on. Out: a reason
of ours and a message that names the field of the request, so that its author knows what to change.
"""

from __future__ import annotations

import re
from typing import Any, Final

from services.vim.cluster.api import ApiError
from services.vim.cluster.refusal import Refusal, refusal_of

#: What KubeVirt's own messages are about, the first that matches.
_MESSAGES: Final = tuple(
    (re.compile(pattern), field)
    for pattern, field in (
        (r"(?i)userdata exceeds|user ?data .*limit", "images.vm.cloudInit.userData"),
        (r"(?i)networkdata exceeds|network ?data .*limit", "images.vm.cloudInit.networkData"),
        (r"(?i)only one userdatasource|only one networkdatasource", "images.vm.cloudInit"),
        (r"(?i)requests\.memory .* greater than \S*limits\.memory", "resources.memory"),
        (r"(?i)requests\.cpu .* greater than \S*limits\.cpu", "resources.cpu"),
        (r"(?i)runstrategy|mutually exclusive", "restart"),
        (r"(?i)kernel arguments cannot be provided", "images.vm.arguments"),
        (r"(?i)hostdisk feature gate|exactly one source type", "images.vm"),
        (r"(?i)conflicts with selected instance type", "resources"),
        (r"(?i)masquerade interface|bridge interface|pod network", "ports"),
        (r"(?i)disks\[\d+\]\.name .* not found", "images.vm"),
    )
)
#: What of our request a part of the machine is made from, the longest that matches.
_PARTS: Final = (
    ("spec.runStrategy", "restart"),
    ("spec.running", "restart"),
    ("spec.instancetype", "resources"),
    ("spec.dataVolumeTemplates", "images.vm"),
    ("spec.template.spec.domain.memory", "resources.memory"),
    ("spec.template.spec.domain.resources.requests.memory", "resources.memory"),
    ("spec.template.spec.domain.cpu", "resources.cpu"),
    ("spec.template.spec.domain.resources.requests.cpu", "resources.cpu"),
    ("spec.template.spec.domain.resources", "resources"),
    ("spec.template.spec.domain.firmware.kernelBoot.kernelArgs", "images.vm.arguments"),
    ("spec.template.spec.domain.firmware", "images.vm"),
    ("spec.template.spec.domain.devices.interfaces", "ports"),
    ("spec.template.spec.domain.devices", "images.vm"),
    ("spec.template.spec.networks", "ports"),
    ("spec.template.spec.volumes", "images.vm"),
    ("spec.template.spec.readinessProbe", "health"),
    ("spec.template.spec.livenessProbe", "health"),
)
_QUOTA: Final = re.compile(r"(?i)exceeded quota")
_UNKNOWN_FIELD: Final = "field not declared in schema"
_MOST: Final = 4


def field_of(path: str, message: str) -> str | None:
    """The field of our request that a complaint about ``path`` of the machine is about."""
    for pattern, field in _MESSAGES:
        if pattern.search(message):
            return field
    path = re.sub(r"\[[^\]]*\]", "", path)
    found = [(len(part), field) for part, field in _PARTS if path.startswith(part)]
    return max(found)[1] if found else None


def refused(error: ApiError) -> Refusal:
    """What an answer of the API server means; what no waiting cures says which field has to change."""
    if _UNKNOWN_FIELD in error.message:  # by server-side apply this is an error of the server, HTTP 500
        return Refusal("InvalidWorkload", error.message, lasting=True)
    causes = [cause for cause in error.causes if cause.get("field")]
    if error.http != 422 or not causes:  # a site's policy names no field, and may be lifted
        return refusal_of(error)
    problems = [_named(str(cause["field"]), str(cause.get("message") or "")) for cause in causes[:_MOST]]
    return Refusal("InvalidWorkload", "; ".join(problems), lasting=True)


def failure_of(condition: dict[str, Any]) -> Refusal:
    """What the condition ``Failure`` of a machine means: it was accepted, and cannot be started."""
    message = str(condition.get("message") or "")
    if _QUOTA.search(message):
        return Refusal("QuotaExceeded", message)
    kind = str(condition.get("reason") or "Failure")
    field = field_of("", message)
    return Refusal("Refused", f"{f'{field}: ' if field else ''}{kind}: {message}" if message else kind)


def _named(path: str, message: str) -> str:
    field = field_of(path, message)
    if field is None:
        return f"{path}: {message}" if path and path not in message else message
    return f"{field}: {message}"
