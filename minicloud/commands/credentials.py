"""``minicloud credentials``: who may connect to the broker.

Works on a data folder; a broker that runs from it learns of every change at once. A secret is shown
once, when it is made.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click
import yaml

from bus.credentials import Credential, Credentials
from bus.permissions import ROLES
from schemas.errors import MinicloudError

_EPILOG: Final = """
\b
Examples:
  minicloud credentials add agent pi-3        # user name agent.pi-3 and its secret
  minicloud credentials add device thermo-1 --output json
  minicloud credentials list
  minicloud credentials rotate user ada       # a new secret; the old one is dead at once
  minicloud credentials revoke agent pi-3     # disconnects it at once

\b
Roles:
  admin, service  everything
  agent           what a node is and does, under its own name, by MQTT
  worker          runs the workloads of the node it is named after
  device          its own readings and commands, by MQTT
  user            publishes requests and reads
  viewer          reads
  fleet           simulated nodes, by MQTT; never under the name of a node with an agent of its own
  minicloud       another minicloud that joins this one: queries and answers between the rids, nothing else
"""

Command = Callable[..., None]


def _options(command: Command) -> Command:
    data = click.option(
        "--data",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path(".data"),
        envvar="MINICLOUD_DATA",
        show_default=True,
        show_envvar=True,
        help="The data folder of the broker.",
    )
    output = click.option(
        "--output", type=click.Choice(["table", "json", "yaml"]), default="table", show_default=True
    )
    return data(output(command))


_ROLE: Final = click.argument("role", type=click.Choice(ROLES))
_NAME: Final = click.argument("name")
_MINICLOUD: Final = click.option(
    "--minicloud", default=None, help="The minicloud it belongs to; the data folder's own by default."
)


@click.group("credentials", epilog=_EPILOG)
def credentials() -> None:
    """Make, list, rotate and revoke the credentials of the broker."""


@credentials.command("add", epilog="Example:  minicloud credentials add agent pi-3")
@_ROLE
@_NAME
@_MINICLOUD
@_options
def add(role: str, name: str, minicloud: str | None, data: Path, output: str) -> None:
    """Make a credential; its secret is shown now and never again."""
    with _told():
        _show_secret(Credentials(data, minicloud).add(role, name), output)


@credentials.command("rotate", epilog="Example:  minicloud credentials rotate user ada")
@_ROLE
@_NAME
@_options
def rotate(role: str, name: str, data: Path, output: str) -> None:
    """Give a credential a new secret; whoever uses the old one is disconnected."""
    with _told():
        _show_secret(Credentials(_existing(data)).rotate(role, name), output)


@credentials.command("revoke", epilog="Example:  minicloud credentials revoke agent pi-3")
@_ROLE
@_NAME
@_options
def revoke(role: str, name: str, data: Path, output: str) -> None:
    """End a credential; whoever uses it is disconnected."""
    with _told():
        Credentials(_existing(data)).revoke(role, name)
    if output == "table":
        click.echo(f"revoked: {role} {name}")
    else:
        _show([{"role": role, "name": name, "revoked": True}], output)


@credentials.command("list", epilog="Example:  minicloud credentials list --output yaml")
@_options
def list_all(data: Path, output: str) -> None:
    """Show every credential; secrets are not stored, so there is none to show."""
    with _told():
        entries = Credentials(_existing(data)).list()
    shown = ("user", "role", "name", "minicloud", "created", "rotated")
    _show([{field: getattr(entry, field) for field in shown} for entry in entries], output)


def _show_secret(credential: Credential, output: str) -> None:
    role, _, name = credential.user.partition(".")
    if output != "table":
        document = {"role": role, "name": name, "user": credential.user, "password": credential.password}
        _show([document], output, one=True)
        return
    click.echo(f"user      {credential.user}\npassword  {credential.password}")
    click.echo("Keep the password: it is stored hashed and not shown again.", err=True)


def _show(rows: Sequence[Mapping[str, Any]], output: str, *, one: bool = False) -> None:
    documents: Any = dict(rows[0]) if one else [dict(row) for row in rows]
    if output == "json":
        click.echo(json.dumps(documents, indent=2))
    elif output == "yaml":
        click.echo(yaml.safe_dump(documents, sort_keys=False).rstrip())
    elif not rows:
        click.echo("no credentials; make one with `minicloud credentials add ROLE NAME`")
    else:
        table = [
            list(rows[0]),
            *(["-" if cell is None else str(cell) for cell in row.values()] for row in rows),
        ]
        widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
        for line in table:
            click.echo(
                "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            )


def _existing(data: Path) -> Path:
    """The data folder, if it has credentials: a mistyped path must not look like an empty site."""
    if not (data / "credentials.json").is_file():
        raise click.ClickException(
            f"no credentials in {data.absolute()}: name the data folder with --data or MINICLOUD_DATA, "
            "or make the first credential with `minicloud credentials add ROLE NAME`"
        )
    return data


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except MinicloudError as error:
        raise click.ClickException(str(error)) from error
    except PermissionError as error:
        raise click.ClickException(
            f"{error.filename}: not readable or writable by this user; run it as the owner of the data folder"
        ) from error
