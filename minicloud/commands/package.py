"""``minicloud package``: the image of a unikernel, for a registry or for the store of a cluster's nodes."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from pathlib import Path

import click

from minicloud.output import errors_told
from services.vim.packaging import qemu as packed
from services.vim.packaging.layout import Item
from services.vim.packaging.unikernel import Unikernel
from services.vim.packaging.unikernel import package as write
from services.vim.worker.kernel import machine_of
from services.vim.worker.machine import PROGRAMS


@click.command(
    epilog="""\b
Examples:
  minicloud package hello.elf registry.local:5000/hello:1 --into hello.tar -- 8080
  minicloud package hello.elf localhost/hello:1 --into layout --env GREETING=hey
  minicloud package hello.elf localhost/hello:1 --into layout --for-nodes   # without a QEMU: for no pod

\b
What to do with it:
  a folder   a deployment request's `layout:`, and what registry clients push (oci:FOLDER)
  a .tar     `ctr images import`, or a file in /var/lib/rancher/k3s/agent/images of a K3s node
"""
)
@click.argument("kernel", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("reference")
@click.argument("arguments", nargs=-1)
@click.option(
    "--into", required=True, type=click.Path(path_type=Path), help="A folder to be made, or a .tar."
)
@click.option("--initrd", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Its RAM disk.")
@click.option("--env", "pairs", multiple=True, metavar="NAME=VALUE", help="A default of its environment.")
@click.option("--for-nodes", is_flag=True, help="Leave out the QEMU that pods boot it with.")
@click.option("--qemu", type=click.Path(exists=True, path_type=Path), help="Which one to put in; the path's.")
@click.option("--busybox", type=click.Path(exists=True, path_type=Path), help="A static one; the path's.")
def package(
    kernel: Path,
    reference: str,
    arguments: tuple[str, ...],
    into: Path,
    initrd: Path | None,
    pairs: tuple[str, ...],
    for_nodes: bool,
    qemu: Path | None,
    busybox: Path | None,
) -> None:
    """Make the image REFERENCE of a unikernel from the file KERNEL, with default ARGUMENTS.

    One reference for every engine: a node's worker takes the kernel out of it, a pod boots it by the QEMU
    inside, urunc and KubeVirt find it at its usual place.
    """
    if into.exists():
        raise click.BadParameter(f"{into} exists already (expected a new name)", param_hint="--into")
    if wrong := [pair for pair in pairs if "=" not in pair]:
        raise click.BadParameter(f"{wrong[0]!r} is no NAME=VALUE", param_hint="--env")
    with errors_told():
        machine = machine_of(kernel, tuple(PROGRAMS))
        made = Unikernel(
            kernel.read_bytes(),
            machine,
            initrd.read_bytes() if initrd else None,
            arguments,
            dict(pair.split("=", 1) for pair in pairs),
        )
        inside = None if for_nodes else packed.files(machine, *_programs(machine, qemu, busybox))
        digest = _write(made, reference, into, inside)
    click.echo(f"{reference} {digest} {into}")


def _programs(machine: str, qemu: Path | None, busybox: Path | None) -> tuple[Path, Path]:
    found = []
    for given, name, debian in (
        (qemu, PROGRAMS[machine], "qemu-system-x86 or qemu-system-arm"),
        (busybox, "busybox", "busybox-static"),
    ):
        program = str(given) if given else shutil.which(name)
        if program is None:
            raise packed.CannotPackage(
                f"there is no {name} on this machine",
                expected=f"{debian} (Debian), its path in an option, or --for-nodes",
            )
        found.append(Path(program))
    return found[0], found[1]


def _write(made: Unikernel, reference: str, into: Path, qemu: dict[str, Item] | None) -> str:
    """The layout, or an archive of it."""
    if into.suffix != ".tar":
        return write(made, into, reference, qemu)
    with tempfile.TemporaryDirectory() as folder:
        digest = write(made, Path(folder), reference, qemu)
        with tarfile.open(into, "w") as tar:
            for path in sorted(Path(folder).iterdir()):
                tar.add(path, path.name)
    return digest
