"""Deployment requests as people write them: YAML or JSON files with paths relative to the file.

A workload's file may be named instead of quoted (``files: [{path: app.py, from: ./app.py}]``): it is read
here, so that what is published is whole and runs on any node.
"""

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
    """Make paths that begin with ``./`` or ``../`` absolute, and read in the files that are named by ``from``.

    Raises:
        InvalidDocument: a named file cannot be read.
    """
    _read_files(document.get("files"), folder)
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


def _read_files(files: Any, folder: Path) -> None:
    for number, file in enumerate(files if isinstance(files, list) else ()):
        if isinstance(file, dict) and isinstance(file.get("from"), str) and "content" not in file:
            source = folder / file.pop("from")
            try:
                file["content"] = source.read_text()
            except (OSError, UnicodeDecodeError) as error:
                raise InvalidDocument(
                    f"{source} cannot be read: {error}", field=f"files.{number}.from", expected="a text file"
                ) from None
