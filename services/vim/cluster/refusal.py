"""What a refusal of the API server means: a reason that statuses carry, and whether waiting may cure it.

In: an error, or the message of one that a controller met. Out: our reason. All are tried again with growing
pauses; those that no other place would cure either are lasting.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from services.vim.cluster.api import ApiError

_QUOTA: Final = re.compile(r"exceeded quota|limits? exceeded|quota", re.IGNORECASE)
_WEBHOOK: Final = re.compile(
    r"admission webhook|denied the request|violates PodSecurity|ValidatingAdmissionPolicy"
)
_LONGEST: Final = 1000


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal in our words.

    Attributes:
        reason: ``QuotaExceeded``, ``Refused``, ``OwnedByOthers``, ``Forbidden``, ``InvalidWorkload``, ``Conflict``.
        message: a sentence.
        lasting: whether the same can never be accepted.
    """

    reason: str
    message: str
    lasting: bool = False


def refusal_of(error: ApiError | str) -> Refusal:
    """What an error, or a controller's report of one, means."""
    message = (error if isinstance(error, str) else error.message)[:_LONGEST]
    if isinstance(error, ApiError) and error.owners:
        fields = ", ".join(str(cause.get("field")) for cause in error.owners[:5])
        holders = "; ".join(dict.fromkeys(str(cause.get("message")) for cause in error.owners[:5]))
        return Refusal("OwnedByOthers", f"{fields}: {holders}"[:_LONGEST])
    if _QUOTA.search(message):
        return Refusal("QuotaExceeded", message)
    if _WEBHOOK.search(message):
        return Refusal("Refused", message)
    if isinstance(error, ApiError):
        if error.http in (400, 422):
            return Refusal("InvalidWorkload", message, lasting=True)
        if error.http == 403:
            return Refusal("Forbidden", message)
        if error.http == 409:
            return Refusal("Conflict", message)
        return Refusal("ApiError", message)
    return Refusal("FailedCreate", message)
