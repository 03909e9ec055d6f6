"""Kubeconfig files: where the API server is, whom to trust, and who one is."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import yaml


def write(
    path: Path, server: str, authority: bytes, user: dict[str, Any], namespace: str = "default"
) -> Path:
    """Write a kubeconfig that needs no other file; only its owner may read it."""
    cluster = {"server": server, "certificate-authority-data": _encoded(authority)}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "cluster", "cluster": cluster}],
        "users": [{"name": "user", "user": user}],
        "contexts": [
            {"name": "context", "context": {"cluster": "cluster", "user": "user", "namespace": namespace}}
        ],
        "current-context": "context",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.touch(mode=0o600)
    new.write_text(yaml.safe_dump(document, sort_keys=False))
    new.rename(path)
    return path


def by_certificate(certificate: Path, key: Path) -> dict[str, Any]:
    """Whoever holds a client certificate."""
    return {
        "client-certificate-data": _encoded(certificate.read_bytes()),
        "client-key-data": _encoded(key.read_bytes()),
    }


def by_token(token: str) -> dict[str, Any]:
    """Whoever holds a token, such as a service account."""
    return {"token": token}


def authority_of(cluster: dict[str, Any], folder: Path) -> bytes:
    """The authority that a ``cluster`` of a kubeconfig in ``folder`` names, by content or by file."""
    if "certificate-authority-data" in cluster:
        return base64.b64decode(cluster["certificate-authority-data"])
    return (folder / cluster["certificate-authority"]).read_bytes()


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()
