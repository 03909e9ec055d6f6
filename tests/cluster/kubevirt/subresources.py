"""An imitation of the part of virt-api that tells machines what to do: PUT pause, unpause, start, stop, restart.

In: requests that the API server passes on. Out: 202 without a body, or the 409 that KubeVirt would give; and the
change in the machine's or instance's status from which the Stages go on. Run as
``python -m tests.cluster.kubevirt.subresources KUBECONFIG CERTIFICATE KEY``, inside the cluster's space.
"""

from __future__ import annotations

import json
import re
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

PORT: Final = 8443
_GROUP: Final = "subresources.kubevirt.io"
_PATH: Final = re.compile(
    rf"/apis/{_GROUP}/v1/namespaces/([^/?]+)/(virtualmachines|virtualmachineinstances)/([^/?]+)/([a-z]+)"
)
_DISCOVERY: Final = {
    "/apis": {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [{"name": _GROUP, "versions": [{"groupVersion": f"{_GROUP}/v1", "version": "v1"}]}],
    },
    f"/apis/{_GROUP}": {
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": _GROUP,
        "versions": [{"groupVersion": f"{_GROUP}/v1", "version": "v1"}],
        "preferredVersion": {"groupVersion": f"{_GROUP}/v1", "version": "v1"},
    },
    f"/apis/{_GROUP}/v1": {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{_GROUP}/v1",
        "resources": [
            {
                "name": f"{plural}/{verb}",
                "singularName": "",
                "namespaced": True,
                "kind": kind,
                "verbs": ["update"],
            }
            for plural, kind, verbs in (
                ("virtualmachineinstances", "VirtualMachineInstance", ("pause", "unpause")),
                ("virtualmachines", "VirtualMachine", ("start", "stop", "restart")),
            )
            for verb in verbs
        ],
    },
}


class Refused(Exception):
    """A conflict, in KubeVirt's words."""


class Machines:
    """KubeVirt's objects, by the administrator's rights."""

    def __init__(self, kubeconfig: str) -> None:
        self._api = client.CustomObjectsApi(config.new_client_from_config(kubeconfig))

    def tell(self, namespace: str, name: str, verb: str) -> None:
        """Do it, or raise :class:`Refused`."""
        if verb in ("pause", "unpause"):
            self._pause(namespace, name, paused=verb == "pause")
            return
        machine = self._get("virtualmachines", namespace, name)
        strategy = machine["spec"].get("runStrategy")
        running = machine.get("status", {}).get("created", False)
        if verb == "start":
            if running:
                raise Refused("VM is already running")
            if strategy == "Halted":
                self._patch("virtualmachines", namespace, name, {"spec": {"runStrategy": "Always"}})
            else:
                self._request(namespace, name, ["Start"])
            return
        if not running:
            raise Refused("VM is not running")
        if verb == "restart":
            self._request(namespace, name, ["Stop", "Start"])
        elif strategy in ("Always", "Once"):
            self._patch("virtualmachines", namespace, name, {"spec": {"runStrategy": "Halted"}})
        else:
            self._request(namespace, name, ["Stop"])

    def _pause(self, namespace: str, name: str, *, paused: bool) -> None:
        instance = self._get("virtualmachineinstances", namespace, name)
        if instance.get("status", {}).get("phase") != "Running":
            raise Refused("VM is not running")
        is_paused = any(one["type"] == "Paused" for one in instance["status"].get("conditions", []))
        if is_paused == paused:
            raise Refused("VMI is already paused" if paused else "VMI is not paused")
        condition = {
            "type": "Paused",
            "status": "True",
            "reason": "PausedByUser",
            "message": "VMI was paused by user",
        }
        for plural in ("virtualmachineinstances", "virtualmachines"):
            before = self._get(plural, namespace, name).get("status", {}).get("conditions", [])
            conditions = [one for one in before if one["type"] != "Paused"] + ([condition] if paused else [])
            status: dict[str, Any] = {"conditions": conditions}
            if plural == "virtualmachines":
                status["printableStatus"] = "Paused" if paused else "Running"
            self._patch(plural, namespace, name, {"status": status}, status=True)

    def _request(self, namespace: str, name: str, actions: list[str]) -> None:
        requests = [{"action": action} for action in actions]
        body = {"status": {"stateChangeRequests": requests}}
        self._patch("virtualmachines", namespace, name, body, status=True)

    def _get(self, plural: str, namespace: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self._api.get_namespaced_custom_object(
            "kubevirt.io", "v1", namespace, plural, name
        )
        return found

    def _patch(
        self, plural: str, namespace: str, name: str, body: dict[str, Any], *, status: bool = False
    ) -> None:
        patch = (
            self._api.patch_namespaced_custom_object_status
            if status
            else self._api.patch_namespaced_custom_object
        )
        patch(
            "kubevirt.io", "v1", namespace, plural, name, body, _content_type="application/merge-patch+json"
        )


class Handler(BaseHTTPRequestHandler):
    """One request."""

    machines: Machines

    def do_GET(self) -> None:
        """What is served here."""
        found = _DISCOVERY.get(self.path.partition("?")[0].rstrip("/"))
        self._answer(200 if found else 404, found or _status(404, "NotFound", self.path))

    def do_PUT(self) -> None:
        """Tell a machine what to do."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        match = _PATH.fullmatch(self.path.partition("?")[0])
        if match is None:
            self._answer(404, _status(404, "NotFound", f"nothing is at {self.path}"))
            return
        try:
            self.machines.tell(match[1], match[3], match[4])
        except Refused as error:
            self._answer(409, _status(409, "Conflict", str(error)))
        except ApiException as error:
            self._answer(int(error.status), json.loads(error.body))
        else:
            self._answer(202, None)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the base class
        """One line a request."""
        sys.stderr.write(f"{format % args}\n")

    def _answer(self, code: int, document: dict[str, Any] | None) -> None:
        payload = b"" if document is None else json.dumps(document).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)


def _status(code: int, reason: str, message: str) -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
    }


def main(kubeconfig: str, certificate: str, key: str) -> None:
    """Serve until killed."""
    Handler.machines = Machines(kubeconfig)
    server = ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
