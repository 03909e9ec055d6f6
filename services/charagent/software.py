"""Installed software with versions, from a list that settings may change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from services.charagent.programs import qemu, version

# What a deployment may want of a node. The program is asked, never a package list: what counts is what runs.
DEFAULT: Final[Mapping[str, Sequence[str]]] = {
    "python3": ("python3", "--version"),
    "docker": ("docker", "--version"),
    "podman": ("podman", "--version"),
    "k3s": ("k3s", "--version"),
    "containerd": ("containerd", "--version"),
    "runc": ("runc", "--version"),
    "qemu": (qemu(), "--version"),
    "ffmpeg": ("ffmpeg", "-version"),
    "git": ("git", "--version"),
    "node": ("node", "--version"),
    "java": ("java", "-version"),
    "go": ("go", "version"),
    "nvidia-smi": ("nvidia-smi", "--version"),
}


def commands(names: Sequence[str] | None) -> dict[str, Sequence[str]]:
    """The question for each name; a name that is not known here is asked with ``--version``."""
    wanted = DEFAULT if names is None else names
    return {name: DEFAULT.get(name, (name, "--version")) for name in wanted}


def read(questions: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """``{name: version}`` of what is there; what is not there, or says no version, is left out."""
    found = {name: version(command) for name, command in questions.items()}
    return {name: said for name, said in found.items() if said is not None}
