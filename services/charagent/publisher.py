"""One MQTT connection to the broker, from the first byte to the trust that what is sent arrives.

In: the settings and the node's presence. Out: publishing, acknowledgements, and a stage: connecting,
checking, trusted, closed. MQTT 3.1.1 cannot refuse a publish, the broker acknowledges and drops it: so the
agent first announces itself and waits until it hears its own presence. Each connection is a new object,
so paho resends nothing of its own; what must arrive lies in the spool.

Everything runs in the caller's thread: :meth:`Connection.turn` waits, reads and writes.
"""

from __future__ import annotations

import json
import logging
import select
import socket
import time
from collections import deque
from typing import Any, Final, NamedTuple

from services.charagent import event, lean
from services.charagent.settings import SettingError, Settings

log = logging.getLogger("charagent.publisher")

KEEPALIVE: Final = 10  # seconds; the broker sends the last will after one and a half of them
TRUST_WITHIN: Final = 10.0  # seconds from connecting to hearing oneself
_CONNECT_TIMEOUT: Final = 5.0  # seconds for TCP and TLS


class Heard(NamedTuple):
    """A presence that the broker delivered on the node's own topic.

    Attributes:
        state: ``online`` or ``offline``.
        session: which run of an agent it speaks of.
    """

    state: str
    session: str


class Connection:
    """A connection attempt and, if it succeeds, the connection.

    Args:
        settings: where and who.
        session: this run of the agent.

    Attributes:
        stage: ``connecting``, ``checking`` (announced, not heard yet), ``trusted`` or ``closed``.
        why: what closed it, for people.
        acknowledged: message ids that the broker acknowledged; whoever looks takes them out.
        heard: presences of the own topic, since the trust; whoever looks takes them out.
    """

    def __init__(self, settings: Settings, session: str) -> None:
        self._settings = settings
        self._session = session
        self._topic = event.topic(settings.minicloud, settings.node, event.PRESENCE)
        self._since = event.now()
        self.stage = "connecting"
        self.why = ""
        self.acknowledged: deque[int] = deque()
        self.heard: deque[Heard] = deque()
        self._deadline = time.monotonic() + TRUST_WITHIN
        paho = lean.import_paho(tls=settings.tls)
        self._client = client = paho.Client(
            # With the session in it, two agents of one name hear each other instead of each throwing the
            # other out for ever.
            paho.CallbackAPIVersion.VERSION2,
            client_id=f"agent-{settings.minicloud}-{settings.node}-{session}",
        )
        client.connect_timeout = _CONNECT_TIMEOUT
        client.max_inflight_messages_set(1000)  # the agent's own window is smaller
        if settings.tls:
            client.tls_set(ca_certs=settings.ca)
        client.will_set(self._topic, self._presence("offline", "connection lost"), qos=1)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_publish = lambda _c, _u, mid, _r, _p: self.acknowledged.append(mid)
        client.on_disconnect = self._on_disconnect

    def open(self) -> None:
        """Connect; waits for TCP, at most 5 s. What follows happens in :meth:`turn`."""
        try:
            self._client.username_pw_set(self._settings.user, self._settings.secret())
            self._client.connect(self._settings.host, self._settings.port, keepalive=KEEPALIVE)
        except SettingError as error:
            self._close(str(error))
        except (OSError, ValueError) as error:
            self._close(f"no MQTT broker answers at {self._settings.broker}: {error}")

    def turn(self, timeout: float, wake: socket.socket) -> None:
        """Wait up to ``timeout`` seconds for the network or for ``wake``, and handle what came."""
        link = self._client.socket()
        if link is None:
            self._close(self.why or "the connection is gone")
            return
        writing = [link] if self._client.want_write() else []
        pending = getattr(link, "pending", int)()  # TLS may hold bytes that select does not see
        readable, writable, _ = select.select([link, wake], writing, [], 0 if pending else timeout)
        if link in readable or pending:
            self._client.loop_read()
        if writable:
            self._client.loop_write()
        self._client.loop_misc()
        if self.stage in ("connecting", "checking") and time.monotonic() > self._deadline:
            self._close(self._distrust())

    def publish(self, topic: str, payload: bytes, qos: int) -> int:
        """Send; at QoS 1 the returned id appears in :attr:`acknowledged` later."""
        return int(self._client.publish(topic, payload, qos=qos).mid)

    def announce(self) -> None:
        """Say that the node is online."""
        self.publish(self._topic, self._presence("online", "started"), 1)

    def leave(self, wake: socket.socket, timeout: float = 1.0) -> None:
        """Say that the node goes offline and disconnect; waits at most ``timeout`` for the broker."""
        if self.stage == "trusted":
            mid = self.publish(self._topic, self._presence("offline", "stopping"), 1)
            deadline = time.monotonic() + timeout
            while mid not in self.acknowledged and self.stage == "trusted" and time.monotonic() < deadline:
                self.turn(0.05, wake)
        if self.stage != "closed":
            self._client.disconnect()
            self._close("left")

    def _presence(self, state: str, reason: str) -> bytes:
        data = {
            "node": self._settings.node,
            "state": state,
            "reason": reason,
            "session": self._session,
            "since": self._since,
        }
        return event.envelope(event.PRESENCE, self._settings.minicloud, self._settings.node, data)

    def _distrust(self) -> str:
        if self.stage == "connecting":
            return f"{self._settings.broker} accepts connections but does not speak MQTT in time"
        return (
            f"the broker does not let {self._settings.user!r} speak for node {self._settings.node!r} of "
            f"minicloud {self._settings.minicloud!r} (its own presence never came back): it should be a "
            f"credential of role agent for this node: minicloud credentials add agent {self._settings.node}"
        )

    def _close(self, why: str) -> None:
        if self.stage == "closed":
            return
        self.stage, self.why = "closed", why
        link = self._client.socket()
        if link is not None:
            link.close()

    # -- what paho calls, in the caller's thread ---------------------------------------------------

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._close(
                f"the broker refuses user {self._settings.user!r}: {reason}; it should be a credential that "
                f"is not revoked: minicloud credentials rotate agent {self._settings.node}"
            )
            return
        self.stage = "checking"
        # QoS 0: each subscription at QoS 1 would be a consumer in the broker, for every node.
        self._client.subscribe(self._topic, qos=0)

    def _on_subscribe(self, _client: Any, _data: Any, _mid: int, reasons: Any, _properties: Any) -> None:
        if any(reason.is_failure for reason in reasons):
            self._close(self._distrust())
        else:
            self.announce()

    def _on_message(self, _client: Any, _data: Any, message: Any) -> None:
        try:
            data = json.loads(message.payload)["data"]
            heard = Heard(data["state"], data["session"])
        except (ValueError, KeyError, TypeError):
            log.warning("a presence on %s cannot be read: %.200r", message.topic, message.payload)
            return
        if self.stage == "checking" and heard == Heard("online", self._session):
            self.stage = "trusted"
        else:
            self.heard.append(heard)

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self._close(f"the connection broke: {reason}")
