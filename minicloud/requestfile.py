"""Deployment requests as people write them: YAML or JSON files with paths relative to the file.

A workload's file may be named instead of quoted (``files: [{path: app.py, from: ./app.py}]``): it is read
here, so that what is published is whole and runs on any node.
"""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Any, Final

import yaml

from schemas.deployment import DeploymentRequest
from schemas.errors import InvalidDocument
from schemas.event import read_document

_PATHS: Final = ("kernel", "initrd", "layout", "rootfs", "disk", "directory")
_WANTED: Final = "a deployment request in YAML or JSON"


def read_request(file: str) -> DeploymentRequest:
    """The request in a file (``-`` for standard input), its relative paths made absolute.

    Raises:
        InvalidDocument: it cannot be read, or breaks the schema; with every problem by field.
    """
    document = _parse(file)
    if not isinstance(document, dict):
        raise InvalidDocument(f"holds {_kind(document)}, not fields and values", field=file, expected=_WANTED)
    resolve_paths(document, Path.cwd() if file == "-" else Path(file).absolute().parent)
    try:
        request: DeploymentRequest = read_document(document, DeploymentRequest)
    except InvalidDocument as error:
        raise _with_near_names(error) from None
    return request


def _parse(file: str) -> Any:
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text()
        return yaml.safe_load(text)
    except OSError as error:
        raise InvalidDocument(
            f"cannot be read: {error.strerror or error}", field=file, expected=_WANTED
        ) from None
    except UnicodeDecodeError as error:
        raise InvalidDocument(
            f"is no text: byte {error.start} is not UTF-8", field=file, expected=_WANTED
        ) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise InvalidDocument(
            f"{where}{error.problem or error.context}", field=file, expected=_WANTED
        ) from None
    except yaml.YAMLError as error:
        raise InvalidDocument(f"is no YAML: {error}", field=file, expected=_WANTED) from None


def _kind(document: Any) -> str:
    if document is None:
        return "nothing"
    return "a list" if isinstance(document, list) else f"only {str(document)[:40]!r}"


def _with_near_names(error: InvalidDocument) -> InvalidDocument:
    """A field that does not exist is told with the nearest one that does."""
    for problem in error.problems:
        path = str(problem.get("field") or "").split(".")
        if problem.get("expected") == "only fields of the schema":
            known = _fields(path[:-1])
            near = difflib.get_close_matches(path[-1], known, 1, cutoff=0.6)
            problem["message"] = "there is no such field"
            problem["expected"] = near[0] if near else f"one of {', '.join(known)}" if known else None
    if len(error.problems) == 1:
        (only,) = error.problems
        return InvalidDocument(
            only["message"], field=only["field"], expected=only["expected"], problems=error.problems
        )
    return error


def _fields(path: list[str]) -> list[str]:
    """The names that are known at a place of the request; none where any are."""
    schema = DeploymentRequest.model_json_schema()
    here: dict[str, Any] = schema
    for part in path:
        here = here.get("items", {}) if part.isdigit() else here.get("properties", {}).get(part, {})
        for choice in (here, *here.get("anyOf", ()), *here.get("allOf", ())):
            if "$ref" in choice:
                here = schema["$defs"][choice["$ref"].rsplit("/", 1)[1]]
                break
    return list(here.get("properties", {}))


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
