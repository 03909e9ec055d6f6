"""``minicloud tour``: the first journey, from a request event to a running workload, told event by event."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import click
import httpx
import yaml

from minicloud.client import Minicloud, connect
from minicloud.output import command, data_option
from minicloud.requestfile import resolve_paths
from minicloud.site import data_folder
from minicloud.stack import Stack, StackSettings
from minicloud.story import decision_lines
from schemas.decision import Decision, DeploymentStatus
from schemas.deployment import DeploymentRequest
from schemas.errors import RequestTimeout
from schemas.event import read_document
from schemas.node import Characterization

EXAMPLE: Final = Path(__file__).parents[2] / "examples" / "hello.yaml"


@click.command(
    epilog="\b\nExamples:\n  minicloud tour\n  minicloud tour --once       # ends by itself; exit code 0 if the page came"
)
@click.option("--once", is_flag=True, help="Stop everything after the page came.")
@click.option(
    "--fleet", default=5, show_default=True, type=click.IntRange(0), help="Simulated nodes beside us."
)
@click.option(
    "--request", "file", type=click.Path(path_type=Path, exists=True, dir_okay=False), default=EXAMPLE
)
@data_option
@command
async def tour(once: bool, fleet: int, file: Path, data: Path | None) -> int:
    """Start the embedded stack, publish one deployment request and follow it to its HTTP page."""
    temporary = tempfile.mkdtemp(prefix="minicloud-") if once and data is None else None
    folder = Path(temporary) if temporary else data_folder(data)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    stack = Stack(StackSettings(data=folder, fleet=fleet), lambda line: _say("stack", line))
    journey = asyncio.ensure_future(_journey(stack, file, folder))
    stop = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait({journey, stop}, return_when=asyncio.FIRST_COMPLETED)
        if not journey.done():
            return 130
        page = journey.result()
        if not once:
            _next_commands(folder, page)
            await stop
        return 0 if page else 1
    finally:
        journey.cancel()
        _say("stack", "stopping")
        await stack.stop()
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)


async def _journey(stack: Stack, file: Path, folder: Path) -> str | None:
    begun = time.monotonic()
    await stack.start()
    async with connect(folder, timeout=20.0) as cloud:
        await _characterized(cloud, stack.settings.node)
        await _queryable(cloud, stack.settings.node, begun)
        request = _request(file)
        _say(
            "request",
            f"publishing {request.deployment} on mc.{cloud.bus.minicloud}.deployment.{request.deployment}.request",
        )
        published = time.monotonic()
        status = await cloud.deploy(request, timeout=120.0, on_event=_tell)
        if status.state not in ("running", "completed"):
            for line in _logs(folder):
                click.echo(f"    {line}")
            return None
        return await _page(status, published)


def _request(file: Path) -> DeploymentRequest:
    """The example, less the runtimes whose image was not built on this machine."""
    document: dict[str, Any] = yaml.safe_load(file.read_text())
    resolve_paths(document, file.absolute().parent)
    kept = []
    for runtime in document["runtimes"]:
        image = document["images"][runtime]
        missing = [
            image[key]
            for key in ("kernel", "layout", "rootfs")
            if key in image and not Path(image[key]).exists()
        ]
        if missing:
            _say(
                "request",
                f"without {runtime}: {Path(missing[0]).name} is not built here (`make -C examples` says why)",
            )
            del document["images"][runtime]
        else:
            kept.append(runtime)
    document["runtimes"] = kept
    command = document["images"].get("process", {}).get("command", [])
    if command[:1] == ["python3"] and os.geteuid() != 0:
        command[0] = sys.executable  # ours surely runs; root's may not be for the user of workloads
    request: DeploymentRequest = read_document(document, DeploymentRequest)
    return request


async def _characterized(cloud: Minicloud, node: str) -> None:
    subject = cloud.bus.subjects.characterization(node)
    try:
        async with asyncio.timeout(60), cloud.bus.watch({subject: Characterization}) as items:
            async for item in items:
                if item.event:
                    facts: Characterization = item.event.data
                    break
    except TimeoutError:
        raise RequestTimeout(
            f"the agent of {node} has not spoken within 60 s", expected="see logs/agent.log"
        ) from None
    runtimes = ", ".join(
        f"{r.name}{f' by {r.acceleration}' if r.acceleration else ''}" for r in facts.runtimes
    )
    _say(
        "characterized",
        f"{node}: {facts.cpu.cores} x {facts.cpu.arch}, {facts.memory.total / 2**30:.1f} GiB, {facts.os.name}",
    )
    _say("characterized", f"{node} offers {runtimes or 'no runtime'}")
    for what, reason in facts.silent.items():
        if what.startswith("runtime"):
            _say("characterized", f"{node}: no {what.removeprefix('runtime.')}: {reason}")


async def _queryable(cloud: Minicloud, node: str, begun: float) -> None:
    """The index answers with this node, ready for workloads."""
    deadline = time.monotonic() + 60
    while True:
        try:
            answer = await cloud.query(f"name={node},worker,state=alive", fields=["name"])
            if answer.nodes:
                break
        except Exception:
            if time.monotonic() > deadline:
                raise
        if time.monotonic() > deadline:
            raise RequestTimeout(
                f"{node} is not queryable within 60 s", expected="see logs/rid.log, logs/worker.log"
            )
        await asyncio.sleep(0.05)
    everyone = await cloud.query("", fields=["name"])
    _say(
        "queried",
        f"{node} is one of {len(everyone.nodes)} nodes in the index, {time.monotonic() - begun:.1f} s after the start",
    )


def _tell(event: DeploymentStatus | Decision) -> None:
    if isinstance(event, Decision):
        _say("decided", f"{event.outcome}: {event.considered} nodes considered")
        for line in list(decision_lines(event))[1:]:
            _say("", line.strip())
    else:
        _say(event.state, f"{event.reason}: {event.message}".rstrip(": "))


async def _page(status: DeploymentStatus, published: float) -> str | None:
    for replica in status.replicas:
        for endpoint in replica.endpoints:
            url = endpoint.get("url")
            if url:
                async with httpx.AsyncClient(timeout=10, trust_env=False) as http:
                    answer = await http.get(url)
                answer.raise_for_status()
                took = time.monotonic() - published
                _say(
                    "page",
                    f"GET {url} -> {answer.status_code} {answer.text.strip()[:100]!r}, {took:.2f} s after the request",
                )
                return str(url)
    _say("page", "the workload has no HTTP endpoint")
    return None


def _logs(folder: Path) -> list[str]:
    """The last lines of every service, to see what went wrong."""
    lines = []
    for log in sorted((folder / "logs").glob("*.log")):
        lines += [f"{log.stem}: {line}" for line in log.read_text(errors="replace").splitlines()[-5:]]
    return lines


def _next_commands(folder: Path, page: str | None) -> None:
    where = "" if folder == data_folder() else f" --data {folder}"
    click.echo("\nIt stays up until Ctrl-C. In another terminal:")
    program = "minicloud" if shutil.which("minicloud") else ".venv/bin/minicloud"
    for line in (
        "nodes",
        "query 'cpu.cores>=2,!battery'",
        "why hello",
        "logs hello",
        "watch",
        "cancel hello",
    ):
        click.echo(f"  {program} {line}{where}")
    if page:
        click.echo(f"  curl {page}")


def _say(what: str, line: str) -> None:
    click.echo(f"{click.style(f'{what:<14}', fg='cyan')}{line}")
