"""What a user says of Kubernetes clusters: ``[NAME=]FILE``, each the kubeconfig of one cluster.

In: what was said on the command line. Out: the files by the clusters' names in the minicloud; a cluster that
was given no name has that of the file's current context.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from schemas.errors import InvalidDocument
from schemas.names import token

_FIELD = "kubeconfig"


def clusters_of(said: Iterable[str]) -> dict[str, Path]:
    """The kubeconfigs by name.

    Raises:
        InvalidDocument: a file is no kubeconfig, or two clusters have one name.
        InvalidName: a name is none.
    """
    found: dict[str, Path] = {}
    for one in said:
        name, given, file = one.rpartition("=")
        path = Path(file).expanduser().absolute()
        context = _current_context(path)
        name = token(name, _FIELD) if given else re.sub(r"[^A-Za-z0-9_-]", "-", context)[:64]
        if name in found:
            raise InvalidDocument(
                f"two clusters are called {name!r}", field=_FIELD, expected=f"--kubeconfig NAME={file}"
            )
        found[name] = path
    return found


def _current_context(path: Path) -> str:
    try:
        document: Any = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InvalidDocument(f"{path} cannot be read: {error}", field=_FIELD) from None
    context = document.get("current-context") if isinstance(document, dict) else None
    if not isinstance(context, str) or not context:
        raise InvalidDocument(
            f"{path} has no current context", field=_FIELD, expected="a file as `kubectl` uses"
        )
    return context
