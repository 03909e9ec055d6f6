"""``minicloud deploy``, ``deployments``, ``why``, ``whatif``, ``events``, ``logs`` and ``cancel``."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from minicloud.completion import deployment_argument
from minicloud.output import command, data_option, output_option, problem_lines, show, show_one, since
from minicloud.requestfile import read_request
from minicloud.story import decided_lines, decision_lines, endpoint_lines, status_line
from schemas.decision import Decision, DeploymentStatus
from schemas.errors import RequestTimeout

#: Why something is stopped that nobody has cancelled: it may be scaled up again.
_NONE_ASKED: Final = "ScaledToZero"

if TYPE_CHECKING:
    from minicloud.client import Minicloud, Until


@click.command(
    epilog="""\b
Examples:
  minicloud deploy examples/hello.yaml
  minicloud deploy examples/job.yaml --until ends      # the exit code says how the job went
  minicloud deploy examples/hello.yaml --no-wait
  cat request.json | minicloud deploy - -o json
"""
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--wait/--no-wait", default=True, show_default=True, help="Await that it runs or is refused.")
@click.option(
    "--until", type=click.Choice(["runs", "ends"]), default="runs", show_default=True, help="What to await."
)
@click.option("--timeout", default=300.0, show_default=True, help="Seconds to wait.")
@data_option
@output_option
@command
async def deploy(file: str, wait: bool, until: Until, timeout: float, data: Path | None, output: str) -> int:
    """Publish the deployment request in FILE (YAML or JSON; - for standard input) and follow it until it runs.

    The exit code is 0 if it runs (or completed), 1 if it was refused or failed. What is published again with
    other content is an update; the same content again changes nothing.
    """
    from minicloud.client import connect  # noqa: PLC0415

    request = read_request(file)
    begun = datetime.now(UTC)
    async with connect(data) as cloud:
        if not wait:
            deployment = await cloud.request(request)
            if output == "table":
                click.echo(f"requested {deployment}; follow it with `minicloud why {deployment}`")
            else:
                show_one({"deployment": deployment, "state": "requested"}, output)
            return 0
        if output == "table":
            from minicloud.progress import Progress  # noqa: PLC0415 - rich takes a while to load

            with Progress(request.deployment or "") as progress:
                status = await cloud.deploy(request, timeout=timeout, until=until, on_event=progress.tell)
            for line in [
                *endpoint_lines(status),
                *(f"              {p}" for p in problem_lines(status.problems)),
            ]:
                click.echo(line)
            if status.observed_at < begun:
                click.echo("              nothing changes: the same request was published before")
        else:
            status = await cloud.deploy(request, timeout=timeout, until=until)
            show_one(status.model_dump(mode="json", by_alias=True), output)
    came_up = status.state in ("running", "paused", "completed")
    return 0 if came_up and status.reason != "UpdateRejected" else 1


@click.command(epilog="\b\nExamples:\n  minicloud deployments\n  minicloud deployments -o json")
@data_option
@output_option
@command
async def deployments(data: Path | None, output: str) -> None:
    """List the deployments and where they run; AGE is how long each has been in its state."""
    from minicloud.client import connect  # noqa: PLC0415

    async with connect(data) as cloud:
        rows = await cloud.deployments()
    if output == "table":
        for row in rows:
            replicas = row["replicas"]
            row["age"] = since(row["updated"])
            row["nodes"] = sorted({replica["node"] for replica in replicas})
            row["runtime"] = sorted({replica["runtime"] for replica in replicas})
            row["restarts"] = sum(replica["restarts"] for replica in replicas)
            row["endpoints"] = [
                e.get("url") or f"{e['address']}:{e['port']}" for r in replicas for e in r["endpoints"]
            ]
    columns = [
        "deployment",
        "state",
        "age",
        "generation",
        "nodes",
        "runtime",
        "restarts",
        "endpoints",
        "message",
    ]
    show(rows, output, columns=columns, none="no deployments; publish one with `minicloud deploy FILE`")


@click.command(epilog="\b\nExamples:\n  minicloud why hello\n  minicloud why hello -o yaml")
@deployment_argument
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
        for line in decided_lines(decision):
            click.echo(line)
    for line in problem_lines(known["status"]["problems"]):
        click.echo(f"              {line}")


@click.command(
    epilog="""\b
Examples:
  minicloud whatif examples/hello.yaml
  minicloud whatif examples/hello.yaml -o json      # the whole decision
"""
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@data_option
@output_option
@command
async def whatif(file: str, data: Path | None, output: str) -> int:
    """Tell what would be decided of the request in FILE now: nothing is published, run or reserved.

    Every candidate with its score and every rejected node with its reason, as `minicloud why` tells them of what
    was decided. The exit code is 0 if every replica would find a place.
    """
    from minicloud.client import connect  # noqa: PLC0415

    request = read_request(file)
    async with connect(data) as cloud:
        decision = await cloud.whatif(request)
    if output != "table":
        show_one(decision.model_dump(mode="json", by_alias=True), output)
    else:
        for line in decided_lines(decision):
            click.echo(line)
    return 0 if decision.outcome == "scheduled" else 1


@click.command(
    epilog="""\b
Examples:
  minicloud events hello
  minicloud events hello --follow             # go on with what comes, until Ctrl-C
  minicloud events hello -o json              # a document a line
"""
)
@deployment_argument
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes.")
@click.option(
    "--since",
    "after",
    type=click.IntRange(min=0),
    help="Only what came after this revision (-o json tells it).",
)
@data_option
@output_option
@command
async def events(deployment: str, follow: bool, after: int | None, data: Path | None, output: str) -> None:
    """Tell the life of a deployment from its beginning: every status and every decision.

    -o json prints one document a line: {"revision": ..., "kind": "status" or "decision", "data": ...}.
    """
    from minicloud.client import connect  # noqa: PLC0415

    async with connect(data) as cloud:
        await cloud.deployment(deployment)  # a mistyped id must not look like one without a life
        async with aclosing(cloud.life(deployment, since=after, follow=follow)) as life:
            async for revision, event in life:
                _tell_event(revision, event, output)


def _tell_event(revision: int, event: DeploymentStatus | Decision, output: str) -> None:
    is_status = isinstance(event, DeploymentStatus)
    if output != "table":
        document = {
            "revision": revision,
            "kind": "status" if is_status else "decision",
            "data": event.model_dump(mode="json", by_alias=True),
        }
        if output == "json":
            click.echo(json.dumps(document))
        else:
            click.echo("---")
            show_one(document, output)
        return
    lines = [status_line(event)] if isinstance(event, DeploymentStatus) else decision_lines(event)
    for line in lines:
        click.echo(line)


@click.command(
    epilog="""\b
Examples:
  minicloud logs hello
  minicloud logs hello --follow               # until it ends, or Ctrl-C
  minicloud logs hello --replica 1 --tail 20 -o json
"""
)
@deployment_argument
@click.option("--replica", type=click.IntRange(min=0), help="Only this replica.")
@click.option(
    "--tail", default=100, show_default=True, type=click.IntRange(1, 5000), help="Last lines of each."
)
@click.option("--follow", "-f", is_flag=True, help="Go on with what they say, until the deployment ends.")
@data_option
@output_option
@command
async def logs(
    deployment: str, replica: int | None, tail: int, follow: bool, data: Path | None, output: str
) -> None:
    """Print what the replicas of a deployment said last.

    With --follow, -o json prints one document a line: {"workload": ..., "line": ...}.
    """
    from minicloud.client import connect  # noqa: PLC0415

    async with connect(data) as cloud:
        if follow:
            several = replica is None and len((await cloud.deployment(deployment))["replicas"]) > 1
            async for name, said in cloud.follow_logs(deployment, replica=replica, tail=tail):
                for line in said:
                    if output == "table":
                        click.echo(_said(name, line, named=several))
                    else:  # JSON is YAML, too
                        click.echo(
                            ("---\n" if output == "yaml" else "")
                            + json.dumps({"workload": name, "line": line})
                        )
            return
        lines = await cloud.logs(deployment, replica=replica, tail=tail)
    if output != "table":
        show([{"workload": name, "lines": said} for name, said in lines.items()], output)
        return
    for name, said in lines.items():
        for line in said:
            click.echo(_said(name, line, named=len(lines) > 1))


def _said(workload: str, line: str, *, named: bool) -> str:
    return f"{click.style(workload, fg='cyan')}  {line}" if named else line


@click.command(epilog="\b\nExamples:\n  minicloud cancel hello\n  minicloud cancel hello --no-wait")
@deployment_argument
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
        state = str(known["state"])
        ended = state in ("stopped", "rejected") and known["reason"] != _NONE_ASKED
        if not ended:
            await cloud.cancel(deployment, reason)
            state = "cancelled"
        if wait and not ended:
            state = await _ending(cloud, deployment, timeout)
    if output == "table":
        click.echo(f"{deployment} was {state} already" if ended else f"{deployment} {state}")
    else:
        show_one({"deployment": deployment, "state": state}, output)


async def _ending(cloud: Minicloud, deployment: str, timeout: float) -> str:
    """Await that a deployment is stopped."""
    last = "what it was"
    try:
        async with asyncio.timeout(timeout):
            async for event in cloud.events(deployment):
                if isinstance(event, DeploymentStatus):
                    last = f"{event.state}: {event.message}"
                    if event.state == "stopped" and event.reason != _NONE_ASKED:
                        return event.state
    except TimeoutError:
        pass
    raise RequestTimeout(
        f"{deployment} has not ended within {timeout:g} s; it is {last}", expected="its node and vim to run"
    )
