"""Parts that are Debian packages: the installed ones, else unpacked without root, libraries included."""

from __future__ import annotations

import os
import re
import shutil
from functools import cached_property
from pathlib import Path
from typing import Final

from tests.parts.part import Part, PartMissing, cache, run_tool

_SKIPPED: Final = {"libc6", "adduser", "init-system-helpers", "systemd", "debconf", "dpkg", "sysvinit-utils"}

_SYSTEM_LISTS: Final = Path("/var/lib/apt/lists")


class DebianPart(Part):
    """A program out of one or more Debian packages.

    Args:
        name: the part's name.
        packages: the packages to unpack; what they depend on and is not installed comes along.
        program: path of the program inside the packages, such as ``usr/bin/mosquitto_pub``.
        arguments: arguments that the unpacked program always needs; ``{root}`` is the folder.
        use_installed: False unpacks even what the machine has (to test the unpacking).
    """

    recipe = 2

    def __init__(
        self,
        name: str,
        packages: tuple[str, ...],
        program: str,
        arguments: tuple[str, ...] = (),
        *,
        use_installed: bool = True,
    ) -> None:
        self.name = name
        self.packages = packages
        self.program = program
        self.arguments = arguments
        self.use_installed = use_installed

    @cached_property
    def version(self) -> str:
        """The candidate version of the first package."""
        policy = run_tool(["apt-cache", *self._apt, "policy", self.packages[0]])
        found = re.search(r"Candidate: (\S+)", policy)
        if found is None or found[1] == "(none)":
            raise PartMissing(f"Debian's lists here have no package {self.packages[0]}")
        return found[1]

    def installed(self) -> Path | None:
        if not self.use_installed:
            return None
        sbin = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
        found = shutil.which(Path(self.program).name, path=sbin)
        return Path(found) if found else None

    def entry(self, folder: Path) -> Path:
        return folder / "bin" / Path(self.program).name

    def build(self, into: Path) -> None:
        simulate = ["--print-uris", "--reinstall", "--no-install-recommends", "-qq", "-y"]
        listed = run_tool(
            ["apt-get", *self._apt, "-o", "Debug::NoLocking=1", "install", *simulate, *self.packages]
        )
        files = re.findall(r"^'\S+' (\S+?)_\S+ (\d+)", listed, re.MULTILINE)
        wanted = {name: int(size) for name, size in files if name not in _SKIPPED}
        if not set(self.packages) <= wanted.keys():
            raise PartMissing(f"apt-get offers no {', '.join(sorted(set(self.packages) - wanted.keys()))}")
        self.say(f"downloading {len(wanted)} packages, {sum(wanted.values()) / 1e6:.1f} MB")
        downloads = into / "debs"
        downloads.mkdir()
        # apt's own sandbox user could not write here; we are not installing anything anyway.
        run_tool(["apt-get", *self._apt, "-o", "APT::Sandbox::User=root", "download", *wanted], cwd=downloads)
        root = into / "root"
        for package in sorted(downloads.glob("*.deb")):
            run_tool(["dpkg", "-x", package, root])
        shutil.rmtree(downloads)
        self._write_wrapper(into)

    def _write_wrapper(self, into: Path) -> None:
        if not (into / "root" / self.program).exists():
            raise PartMissing(f"{', '.join(self.packages)} {self.version} has no {self.program}")
        wrapper = self.entry(into)
        wrapper.parent.mkdir()
        arguments = " ".join(f'"{argument}"' for argument in self.arguments).replace("{root}", "$root")
        wrapper.write_text(
            "#!/bin/sh\n"
            'root="$(dirname "$(dirname "$(readlink -f "$0")")")/root"\n'
            'libraries="$(echo "$root"/usr/lib/*-linux-gnu "$root"/lib/*-linux-gnu | tr " " ":")"\n'
            'libraries="$libraries:$root/usr/lib:$root/lib"\n'
            'export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"\n'
            f'exec "$root/{self.program}" {arguments} "$@"\n'
        )
        wrapper.chmod(0o755)

    @cached_property
    def _apt(self) -> list[str]:
        """Options for apt: none where its lists are there, else a private state folder with fresh lists."""
        if shutil.which("apt-get") is None:
            raise PartMissing(f"not a Debian machine: install {', '.join(self.packages)} in its own way")
        if any(_SYSTEM_LISTS.glob("*_Packages*")):
            return []
        state = cache() / "apt"
        (state / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        (state / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
        options = ["-o", f"Dir::State::lists={state / 'lists'}", "-o", f"Dir::Cache={state / 'cache'}"]
        if not any((state / "lists").glob("*_Packages*")):
            self.say("fetching Debian's package lists")
            run_tool(["apt-get", *options, "-o", "APT::Sandbox::User=root", "update", "-qq"])
        return options
