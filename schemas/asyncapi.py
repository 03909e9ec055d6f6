"""The AsyncAPI 3.0 document of the bus: its servers, subjects, events, verbs, and who does what.

Made from the table of ``schemas/channels.py`` and the models; nothing of it is written by hand
twice. An address is the NATS subject; the MQTT topic is the same with ``/`` for ``.``.
"""

from __future__ import annotations

from typing import Any, Final

from schemas.channels import CHANNELS, PARTIES, VERBS, Channel, Party, Verb
from schemas.event import EventData
from schemas.jsonschema import definitions, event_kinds, summary
from schemas.kept import MOST_NAMES
from schemas.names import TOKEN_PATTERN, topic

_CLOUDEVENT: Final = "application/cloudevents+json"
_JSON: Final = "application/json"
_PARAMETERS: Final = {
    "cluster": "The name of a Kubernetes cluster.",
    "minicloud": "The minicloud.",
    "node": "The node's name.",
    "workload": "A workload, <deployment>-<replica>.",
    "device": "The device's name.",
    "reading": "What the device reads, such as temperature.",
    "deployment": "The deployment's id.",
    "service": "The service.",
    "instance": "The one process that must answer.",
    "query": "The name of a kept query.",
}
_ABOUT_PARTIES: Final[dict[Party, str]] = {
    "agent": "The agent of one node; by MQTT, under its own node's name only.",
    "fleet": "A simulator of many agents; by MQTT.",
    "worker": "The worker of one node; by NATS, under its own node's name only.",
    "cluster": "The worker of a Kubernetes cluster; by NATS, for the nodes of its cluster.",
    "device": "A constrained device; by MQTT, under its own name only.",
    "user": "A person or program that deploys and reads; by NATS or MQTT.",
    "viewer": "A person or program that only reads; by NATS or MQTT.",
    "rid": "The resource index.",
    "vim": "The deployer.",
    "monitor": "The monitor of nodes.",
    "service": "Any service.",
    "minicloud": "The resource index of another minicloud; by NATS, on the links between them only.",
}
_ERROR: Final = "ErrorDocument"


def document(version: str) -> dict[str, Any]:
    """The whole document.

    Args:
        version: of the contract; the package's.
    """
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Minicloud",
            "version": version,
            "description": (
                "The bus of a minicloud. Events are CloudEvents 1.0 in JSON structured mode, on NATS and"
                " MQTT alike. The MQTT topic of a subject is the same with `/` for `.`, its wildcards `+`"
                " for `*` and `#` for `>`. Every token that varies holds 1 to 64 of a-z A-Z 0-9 _ -."
            ),
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
            "tags": [{"name": party, "description": _ABOUT_PARTIES[party]} for party in PARTIES],
        },
        "defaultContentType": _CLOUDEVENT,
        "servers": _servers(),
        "channels": {
            **{channel.name: _channel(channel) for channel in CHANNELS},
            **{_verb_name(verb): _asked(verb) for verb in VERBS},
            **{f"{_verb_name(verb)}Reply": _answered(verb) for verb in VERBS},
        },
        "operations": _operations(),
        "components": {
            "messages": {
                **{kind.__name__: _event_message(kind) for kind in event_kinds()},
                **{f"{c.data.__name__}Bare": _bare_message(c.data) for c in CHANNELS if c.bare and c.data},
            },
            "schemas": definitions("#/components/schemas/{model}"),
            "securitySchemes": {
                "credential": {
                    "type": "userPassword",
                    "description": "User `<role>.<name>` and the secret that `minicloud credentials add` showed.",
                }
            },
        },
    }


def _servers() -> dict[str, Any]:
    security = [{"$ref": "#/components/securitySchemes/credential"}]
    return {
        "nats": {
            "host": "127.0.0.1:4222",
            "protocol": "nats",
            "description": "NATS with JetStream, for services, workers, users and viewers. TLS where it is set.",
            "security": security,
        },
        "mqtt": {
            "host": "127.0.0.1:1883",
            "protocol": "mqtt",
            "protocolVersion": "3.1.1",
            "description": "MQTT of the same broker, for agents, devices, users and viewers. TLS where it is set.",
            "security": security,
        },
    }


def _parameters(names: tuple[str, ...]) -> dict[str, Any]:
    return {name: {"description": f"{_PARAMETERS[name]} `{TOKEN_PATTERN}`"} for name in names}


def _channel(channel: Channel) -> dict[str, Any]:
    if channel.data is None:
        messages: dict[str, Any] = {channel.name: _PLAIN[channel.name]}
    else:
        kind = channel.data.__name__
        messages = {kind: {"$ref": f"#/components/messages/{kind}"}}
        if channel.bare:
            messages[f"{kind}Bare"] = {"$ref": f"#/components/messages/{kind}Bare"}
    return {
        "address": channel.address,
        "description": channel.meaning,
        "parameters": _parameters(channel.parameters),
        "messages": messages,
        "x-mqtt-topic": topic(channel.address),
    }


def _event_message(kind: type[EventData]) -> dict[str, Any]:
    return {
        "name": kind.event_type,
        "title": kind.__name__,
        "summary": summary(kind),
        "contentType": _CLOUDEVENT,
        "headers": {
            "type": "object",
            "description": "On NATS; MQTT 3.1.1 has no headers.",
            "properties": {
                "Nats-Msg-Id": {
                    "type": "string",
                    "description": "The event's id again, so that the broker drops a repeat.",
                }
            },
        },
        "correlationId": {"location": "$message.payload#/id"},
        "payload": {"$ref": f"#/components/schemas/{kind.__name__}Event"},
    }


def _bare_message(kind: type[EventData]) -> dict[str, Any]:
    return {
        "name": f"{kind.event_type} without its envelope",
        "title": f"{kind.__name__}, bare",
        "summary": "The same document without the envelope, as people write it; its id is made of its content.",
        "contentType": _JSON,
        "payload": {"$ref": f"#/components/schemas/{kind.__name__}"},
    }


#: What is said without an envelope, by channel.
_PLAIN: Final[dict[str, dict[str, Any]]] = {
    "reading": {
        "name": "a device's reading",
        "title": "Reading",
        "summary": "A number, or flat JSON: as small as the device is.",
        "contentType": _JSON,
        "payload": {
            "anyOf": [
                {"type": "number"},
                {"type": "object", "additionalProperties": {"type": ["number", "string", "boolean"]}},
            ]
        },
    },
    "answer": {
        "name": "the answer of a kept query",
        "title": "KeptNames",
        "summary": "The names of the nodes that match, the best first.",
        "contentType": _JSON,
        "payload": {"type": "array", "items": {"type": "string"}, "maxItems": MOST_NAMES},
    },
}


def _operations() -> dict[str, Any]:
    made: dict[str, Any] = {}
    for channel in CHANNELS:
        for sender in channel.senders:
            made[f"{sender}.send.{channel.name}"] = _operation("send", sender, channel)
        for hearer in dict.fromkeys(channel.receivers):
            made[f"{hearer}.receive.{channel.name}"] = _operation("receive", hearer, channel)
    for verb in VERBS:
        name = _verb_name(verb)
        for asker in verb.askers:
            made[f"{asker}.ask.{name}"] = _question("send", asker, verb)
        made[f"{verb.service}.answer.{name}"] = _question("receive", verb.service, verb)
    return made


def _operation(action: str, party: Party, channel: Channel) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel.name}"},
        "summary": channel.meaning,
        "tags": [{"name": party}],
    }
    if action == "send" and (channel.by_mqtt(party) or party == "user"):
        mqtt = {"qos": channel.qos, "retain": channel.retained, "bindingVersion": "0.2.0"}
        operation["bindings"] = {"mqtt": mqtt}
    return operation


def _verb_name(verb: Verb) -> str:
    return f"{verb.service}.{verb.name}"


def _asked(verb: Verb) -> dict[str, Any]:
    kind = verb.asks.__name__
    return {
        "address": verb.address,
        "description": verb.meaning,
        "servers": [{"$ref": "#/servers/nats"}],
        "parameters": _parameters(verb.parameters),
        "messages": {kind: _json_message(kind, f"#/components/schemas/{kind}")},
    }


def _answered(verb: Verb) -> dict[str, Any]:
    answer = verb.answers.__name__ if verb.answers else "NodeAttributes"
    payload = {"$ref": f"#/components/schemas/{answer}"} if verb.answers else {"type": "object"}
    return {
        "address": None,
        "description": "The asker's own inbox. An error is told by the header `Nats-Service-Error-Code`.",
        "servers": [{"$ref": "#/servers/nats"}],
        "messages": {
            answer: {"name": answer, "contentType": _JSON, "payload": payload},
            _ERROR: {
                "name": _ERROR,
                "contentType": _JSON,
                "headers": {
                    "type": "object",
                    "properties": {
                        "Nats-Service-Error": {"type": "string"},
                        "Nats-Service-Error-Code": {"type": "string", "description": "The HTTP status."},
                    },
                },
                "payload": {"$ref": f"#/components/schemas/{_ERROR}"},
            },
        },
    }


def _json_message(name: str, reference: str) -> dict[str, Any]:
    return {"name": name, "contentType": _JSON, "payload": {"$ref": reference}}


def _question(action: str, party: Party, verb: Verb) -> dict[str, Any]:
    name = _verb_name(verb)
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{name}"},
        "summary": verb.meaning,
        "tags": [{"name": party}],
        "reply": {
            "address": {"location": "$message.header#/reply", "description": "The reply subject of NATS."},
            "channel": {"$ref": f"#/channels/{name}Reply"},
        },
        **(
            {"bindings": {"nats": {"queue": verb.service, "bindingVersion": "0.1.0"}}}
            if action == "receive" and not verb.instance
            else {}
        ),
    }
