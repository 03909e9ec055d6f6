"""Topics and envelopes as the agent makes them: CloudEvents 1.0 in JSON, without ``schemas/``.

The tests hold what is made here against the models of ``schemas/``.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from typing import Any, Final

CHARACTERIZED: Final = "minicloud.node.characterized.v1"
MEASURED: Final = "minicloud.node.measured.v1"
PRESENCE: Final = "minicloud.node.presence.v1"

_ASPECTS: Final = {CHARACTERIZED: "characterization", MEASURED: "metrics", PRESENCE: "presence"}
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


def is_token(name: str) -> bool:
    """Whether a name may be part of a topic. The broker disconnects whoever uses a bad one, every time."""
    return _TOKEN.fullmatch(name) is not None


def topic(minicloud: str, node: str, kind: str) -> str:
    """The MQTT topic of a kind of event about a node."""
    return f"mc/{minicloud}/node/{node}/{_ASPECTS[kind]}"


def now() -> str:
    """This moment as RFC 3339 in UTC, to the microsecond."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds // 1000:06d}Z"


def envelope(kind: str, minicloud: str, node: str, data: Mapping[str, Any]) -> bytes:
    """An event about ``node`` as it travels."""
    return json.dumps(
        {
            "specversion": "1.0",
            "id": os.urandom(16).hex(),
            "source": f"/{minicloud}/node/{node}",
            "type": kind,
            "subject": node,
            "time": now(),
            "datacontenttype": "application/json",
            "data": data,
        },
        separators=(",", ":"),
        ensure_ascii=False,
    ).encode()
