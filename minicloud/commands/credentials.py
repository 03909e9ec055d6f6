"""``minicloud credentials``: who may connect to the broker.

Works on a data folder; a broker that runs from it learns of every change at once. A secret is shown
once, when it is made. ``node`` stands for the agent and the worker of one machine together: making it
prints the text that ``minicloud join`` takes there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from bus.credentials import Credential, Credentials
from bus.permissions import ROLES
from minicloud.invitation import NODE_ROLES, Invitation
from minicloud.named_commands import NamedCommands
from minicloud.output import data_option, errors_told, output_option, show, show_one
from minicloud.site import Site, data_folder
from schemas.errors import NotFound, Unavailable

_EPILOG: Final = """
\b
Examples:
  minicloud credentials add node pi-3         # the text that `minicloud join` takes on pi-3
  minicloud credentials add user ada          # user name user.ada and its secret
  minicloud credentials add device thermo-1 --output json
  minicloud credentials list
  minicloud credentials rotate user ada       # a new secret; the old one is dead at once
  minicloud credentials revoke node pi-3      # disconnects it at once

\b
Roles:
  node            the agent and the worker of one machine, in one step
  user            publishes requests and reads
  viewer          reads
  device          its own readings and commands, by MQTT
  agent           what a node is and does, under its own name, by MQTT
  worker          runs the workloads of the node it is named after
  fleet           simulated nodes, by MQTT; never under the name of a node with an agent of its own
  minicloud       another minicloud that joins this one: queries and answers between the rids, nothing else
  admin, service  everything
"""

_ROLE: Final = click.argument("role", type=click.Choice(["node", *ROLES]), metavar="ROLE")
_NAME: Final = click.argument("name")
_MINICLOUD: Final = click.option(
    "--minicloud", default=None, help="The minicloud it belongs to; the data folder's own by default."
)


@click.group("credentials", cls=NamedCommands, epilog=_EPILOG)
def credentials() -> None:
    """Make, list, rotate and revoke the credentials of the broker."""


@credentials.command(
    "add",
    epilog="""\b
Examples:
  minicloud credentials add node pi-3
  minicloud credentials add user ada
  minicloud credentials add agent pi-3 --output json
  ssh hub minicloud credentials add node pi-3 | minicloud join -
""",
)
@_ROLE
@_NAME
@_MINICLOUD
@data_option
@output_option
@errors_told()
def add(role: str, name: str, minicloud: str | None, data: Path | None, output: str) -> None:
    """Make a credential of ROLE for NAME; its secret is shown now and never again."""
    folder = data_folder(data)
    if role == "node":
        site = Site.of(folder)  # before anything is made: a node must know where to go
        made = Credentials(folder, minicloud).add_many([(each, name) for each in NODE_ROLES])
        _show_invitation(Invitation.to(site, name, made), output)
    else:
        _show_secret(Credentials(folder, minicloud).add(role, name), folder, output)


@credentials.command(
    "rotate",
    epilog="""\b
Examples:
  minicloud credentials rotate user ada
  minicloud credentials rotate node pi-3      # then `minicloud join -` there with the new text
""",
)
@_ROLE
@_NAME
@data_option
@output_option
@errors_told()
def rotate(role: str, name: str, data: Path | None, output: str) -> None:
    """Give a credential a new secret; whoever uses the old one is disconnected."""
    folder = _existing(data)
    stored = Credentials(folder)
    if role == "node":
        site = Site.of(folder)
        _show_invitation(
            Invitation.to(site, name, [stored.rotate(each, name) for each in NODE_ROLES]), output
        )
    else:
        _show_secret(stored.rotate(role, name), folder, output)


@credentials.command(
    "revoke",
    epilog="""\b
Examples:
  minicloud credentials revoke user ada
  minicloud credentials revoke node pi-3
""",
)
@_ROLE
@_NAME
@data_option
@output_option
@errors_told()
def revoke(role: str, name: str, data: Path | None, output: str) -> None:
    """End a credential; whoever uses it is disconnected."""
    roles = NODE_ROLES if role == "node" else (role,)
    Credentials(_existing(data)).revoke_many((each, name) for each in roles)
    if output == "table":
        click.echo(f"revoked: {role} {name}")
    else:
        show([{"role": each, "name": name, "revoked": True} for each in roles], output)


@credentials.command(
    "list",
    epilog="""\b
Examples:
  minicloud credentials list
  minicloud credentials list --output yaml
""",
)
@data_option
@output_option
@errors_told()
def list_all(data: Path | None, output: str) -> None:
    """Show every credential; secrets are not stored, so there is none to show."""
    entries = Credentials(_existing(data)).list()
    shown = ("user", "role", "name", "minicloud", "created", "rotated")
    rows = [{field: getattr(entry, field) for field in shown} for entry in entries]
    show(rows, output, none="no credentials; make one with `minicloud credentials add ROLE NAME`")


def _show_secret(credential: Credential, folder: Path, output: str) -> None:
    role, _, name = credential.user.partition(".")
    if output != "table":
        document = {"role": role, "name": name, "user": credential.user, "password": credential.password}
        show_one(document, output)
        return
    click.echo(f"user      {credential.user}\npassword  {credential.password}")
    click.echo("Keep the password: it is stored hashed and not shown again.", err=True)
    if role in ("user", "viewer"):
        _tell_use(credential, folder)


def _tell_use(credential: Credential, folder: Path) -> None:
    """How a person on another machine uses it."""
    try:
        site = Site.of(folder)
    except Unavailable:
        return
    trust, setting = (f" and a copy of {site.ca}", " MINICLOUD_CA=ca.pem") if site.ca else ("", "")
    click.echo(f"On another machine, with the password in the file `secret`{trust}:", err=True)
    click.echo(
        f"  export MINICLOUD_BROKER={site.broker_elsewhere} MINICLOUD_MINICLOUD={site.minicloud} "
        f"MINICLOUD_USER={credential.user} MINICLOUD_PASSWORD_FILE=secret{setting}",
        err=True,
    )


def _show_invitation(invitation: Invitation, output: str) -> None:
    if output != "table":
        show_one(
            {"node": invitation.node, "minicloud": invitation.minicloud, "join": invitation.text()}, output
        )
        return
    click.echo(invitation.text())
    click.echo(
        f"On {invitation.node}, type `minicloud join` and paste that line. It holds secrets.", err=True
    )
    if invitation.local_only:
        click.echo(
            f"The broker listens on {invitation.broker} only: for other machines, "
            "start it with `minicloud up --host 0.0.0.0`.",
            err=True,
        )


def _existing(data: Path | None) -> Path:
    """The data folder, if it has credentials: a mistyped path must not look like an empty site."""
    folder = data_folder(data)
    if not (folder / "credentials.json").is_file():
        raise NotFound(
            f"no credentials in {folder}",
            expected="the data folder, by --data or MINICLOUD_DATA, "
            "or a first `minicloud credentials add ROLE NAME`",
        )
    return folder
