"""``minicloud deploy``, ``deployments``, ``why``, ``logs`` and ``cancel``."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from minicloud.output import command, data_option, output_option, show, show_one
from minicloud.requestfile import read_request
from minicloud.story import decision_lines, endpoint_lines, status_line
from schemas.deployment import Decision, DeploymentStatus
from schemas.errors import NotFound


@click.command(
    epilog="""\b
Examples:
  minicloud deploy examples/hello.yaml
  minicloud deploy examples/hello.yaml --no-wait
  cat request.json | minicloud deploy - -o json
"""
)
@click.argument("file")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Await that it runs or is refused.")
@click.option("--timeout", default=300.0, show_default=True, help="Seconds to wait.")
@data_option
@output_option
@command
async def deploy(file: str, wait: bool, timeout: float, data: Path | None, output: str) -> int:
    """Publish the deployment request in FILE and follow it until it runs.

    The exit code is 0 if it runs (or completed), 1 if it was refused or failed.
    """
    from minicloud.client import connect  # noqa: PLC0415

    request = read_request(file)
    live = output == "table"

    def tell(event: DeploymentStatus | Decision) -> None:
        if not live:
            return
        for line in [status_line(event)] if isinstance(event, DeploymentStatus) else decision_lines(event):
            click.echo(line)

    async with connect(data) as cloud:
        if not wait:
            deployment = await cloud.request(request)
            if live:
                click.echo(f"requested {deployment}; follow it with `minicloud why {deployment}`")
            else:
                show_one({"deployment": deployment, "state": "requested"}, output)
            return 0
        status = await cloud.deploy(request, timeout=timeout, on_event=tell)
    if live:
        for line in endpoint_lines(status):
            click.echo(line)
        for problem in status.problems:
            right = f" (expected {problem['expected']})" if problem.get("expected") else ""
            click.echo(f"              {problem.get('field')}: {problem['message']}{right}")
    else:
        show_one(status.model_dump(mode="json", by_alias=True), output)
    return 0 if status.state in ("running", "completed") and status.reason != "UpdateRejected" else 1


@click.command(epilog="\b\nExamples:\n  minicloud deployments\n  minicloud deployments -o json")
@data_option
@output_option
@command
async def deployments(data: Path | None, output: str) -> None:
    """List the deployments and where they run."""
    from minicloud.client import connect  # noqa: PLC0415

    async with connect(data) as cloud:
        rows = await cloud.deployments()
    if output == "table":
        for row in rows:
            replicas = row["replicas"]
            row["nodes"] = sorted({replica["node"] for replica in replicas})
            row["runtime"] = sorted({replica["runtime"] for replica in replicas})
            row["restarts"] = sum(replica["restarts"] for replica in replicas)
            row["endpoints"] = [
                e.get("url") or f"{e['address']}:{e['port']}" for r in replicas for e in r["endpoints"]
            ]
    columns = ["deployment", "state", "generation", "nodes", "runtime", "restarts", "endpoints", "message"]
    show(rows, output, columns=columns, none="no deployments; publish one with `minicloud deploy FILE`")


@click.command(epilog="\b\nExamples:\n  minicloud why hello\n  minicloud why hello -o yaml")
@click.argument("deployment")
@data_option
@output_option
@command
async def why(deployment: str, data: Path | None, output: str) -> None:
    """Tell why a deployment is where it is: every candidate's score, every rejection's reason."""
    from minicloud.client import connect  # noqa: PLC0415

    async with connect(data) as cloud:
        known = await cloud.deployment(deployment)
    if output != "table":
        show_one(known, output)
        return
    click.echo(status_line(DeploymentStatus.model_validate(known["status"])))
    if known["decision"]:
        decision = Decision.model_validate(known["decision"])
        for line in decision_lines(decision, most=20):
            click.echo(line)
        for held in decision.enforced:
            click.echo(f"              {held.field}: enforced by {held.by}")
    for problem in known["status"]["problems"]:
        click.echo(f"              {problem.get('field')}: {problem['message']}")


@click.command(epilog="\b\nExamples:\n  minicloud logs hello\n  minicloud logs hello --replica 1 --tail 20")
@click.argument("deployment")
@click.option("--replica", type=click.IntRange(min=0), help="Only this replica.")
@click.option(
    "--tail", default=100, show_default=True, type=click.IntRange(1, 5000), help="Last lines of each."
)
@data_option
@output_option
@command
async def logs(deployment: str, replica: int | None, tail: int, data: Path | None, output: str) -> None:
    """Print what the replicas of a deployment said last."""
    from minicloud.client import connect  # noqa: PLC0415

    async with connect(data) as cloud:
        lines = await cloud.logs(deployment, replica=replica, tail=tail)
    if output != "table":
        show([{"workload": name, "lines": said} for name, said in lines.items()], output)
        return
    for name, said in lines.items():
        for line in said:
            click.echo(f"{click.style(name, fg='cyan')}  {line}" if len(lines) > 1 else line)


@click.command(epilog="\b\nExamples:\n  minicloud cancel hello\n  minicloud cancel hello --no-wait")
@click.argument("deployment")
@click.option("--reason", default="", help="Kept with its last status.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Await that it has ended.")
@click.option("--timeout", default=60.0, show_default=True, help="Seconds to wait.")
@data_option
@output_option
@command
async def cancel(
    deployment: str, reason: str, wait: bool, timeout: float, data: Path | None, output: str
) -> None:
    """End a deployment."""
    from minicloud.client import connect  # noqa: PLC0415

    async with connect(data) as cloud:
        known = await cloud.deployment(deployment)  # a mistyped id must not look like a success
        await cloud.cancel(deployment, reason)
        state = "cancelled"
        if wait and known["state"] not in ("stopped", "rejected"):
            async with asyncio.timeout(timeout):
                async for event in cloud.events(deployment):
                    if isinstance(event, DeploymentStatus):
                        state = event.state
                        if state == "stopped":
                            break
            if state != "stopped":
                raise NotFound(f"{deployment} has not ended")
    if output == "table":
        click.echo(f"{deployment} {state}")
    else:
        show_one({"deployment": deployment, "state": state}, output)
