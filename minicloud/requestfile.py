"""Deployment requests as people write them: YAML or JSON files with paths relative to the file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from schemas.deployment import DeploymentRequest
from schemas.errors import InvalidDocument
from schemas.event import read_document

_PATHS = ("kernel", "initrd", "layout", "rootfs", "disk", "directory")


def read_request(file: str) -> DeploymentRequest:
    """The request in a file (``-`` for standard input), its relative paths made absolute.

    Raises:
        InvalidDocument: it cannot be read, or breaks the schema; with every problem by field.
    """
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text()
        document = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidDocument(
            f"cannot be read: {error}", field=file, expected="a deployment request in YAML or JSON"
        ) from None
    if not isinstance(document, dict):
        raise InvalidDocument("is no mapping", field=file, expected="a deployment request in YAML or JSON")
    resolve_paths(document, Path.cwd() if file == "-" else Path(file).absolute().parent)
    request: DeploymentRequest = read_document(document, DeploymentRequest)
    return request


def resolve_paths(document: dict[str, Any], folder: Path) -> None:
    """Make paths that begin with ``./`` or ``../`` absolute: the node's worker has a folder of its own."""
    images = document.get("images")
    for image in images.values() if isinstance(images, dict) else ():
        if not isinstance(image, dict):
            continue
        for field in _PATHS:
            if isinstance(image.get(field), str) and image[field].startswith("."):
                image[field] = str((folder / image[field]).resolve())
        command = image.get("command")
        if isinstance(command, list):
            image["command"] = [
                str((folder / part).resolve())
                if isinstance(part, str) and part.startswith(("./", "../"))
                else part
                for part in command
            ]
