"""Who may connect to the broker: one credential a principal, kept hashed, changed while it runs.

In: a role and a name. Out: a user name and a secret, shown once; a ``users.conf`` that the broker reads;
and a reload, so that a revoked credential is disconnected at once. Commands and a running stack may
change credentials at the same time: a file lock puts them in order.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import bcrypt

from bus.broker_config import ACCOUNT, LINK_ACCOUNT, USERS_FILE, broker_folder
from bus.broker_links import SYSTEM_ACCOUNT, SYSTEM_USER, cut_links
from bus.broker_process import reload_running
from bus.permissions import Permissions, Role, inbox_prefix, permissions, role_of, user_name
from schemas.errors import Conflict, InvalidDocument, NotFound
from schemas.names import token

# No look-alikes (0/o, 1/l/i), no capitals, nothing that a shell, URL or JSON must quote.
ALPHABET: Final = "23456789abcdefghjkmnpqrstuvwxyz"
SECRET_LENGTH: Final = 24  # 118 bits
# bcrypt runs at each connect: 1.5 ms at cost 4 against 61 ms at 10. Our secrets are random, so 4 is safe.
_BCRYPT_COST: Final = 4


@dataclass(frozen=True)
class Credential:
    """What a principal needs to connect; the only place where its secret is in the clear.

    Attributes:
        user: user name on NATS and MQTT, ``<role>.<name>``.
        password: the secret.
    """

    user: str
    password: str

    @property
    def inbox_prefix(self) -> str:
        """The ``inbox_prefix`` that a NATS client of this credential must use."""
        return inbox_prefix(self.user)


@dataclass(frozen=True)
class Entry:
    """A credential as it is stored: everything but the secret.

    Attributes:
        role: what it may do.
        name: whose it is.
        minicloud: where it holds.
        created: RFC 3339 UTC.
        rotated: RFC 3339 UTC of the last new secret, or None.
        hash: bcrypt hash of the secret.
    """

    role: Role
    name: str
    minicloud: str
    created: str
    rotated: str | None
    hash: str

    @property
    def user(self) -> str:
        """User name on the broker."""
        return user_name(self.role, self.name)


class Credentials:
    """The credentials of one data folder.

    Args:
        data: the data folder; made, with mode 0700, if it is not there.
        minicloud: the minicloud that new credentials belong to; None is the one that the folder was
            made for (``home`` in a new folder).
    """

    def __init__(self, data: Path, minicloud: str | None = None) -> None:
        self._data = data.absolute()
        self._file = self._data / "credentials.json"
        self._minicloud = None if minicloud is None else token(minicloud, "minicloud")

    @property
    def minicloud(self) -> str:
        """The minicloud that new credentials belong to."""
        return self._minicloud or self._read()[0] or "home"

    def add(self, role: str, name: str) -> Credential:
        """Make a credential and let the broker know it.

        Returns:
            User name and secret; the secret cannot be had again.

        Raises:
            InvalidName: ``role`` or ``name`` is not one.
            Conflict: there is one already.
        """
        return self.add_many([(role, name)])[0]

    def add_many(self, principals: Iterable[tuple[str, str]]) -> list[Credential]:
        """Make many credentials with one reload of the broker; all of them or none."""
        wanted = [(role_of(role), token(name, "name")) for role, name in principals]
        made: list[Credential] = []
        with self._changed() as entries:
            for role, name in wanted:
                user = user_name(role, name)
                if user in entries:
                    raise Conflict(
                        f"there is a credential {role} {name} already (minicloud {entries[user].minicloud})",
                        field="name",
                        expected="another name, or `rotate` for a new secret",
                    )
                credential, hashed = _secret(user)
                entries[user] = Entry(role, name, self.minicloud, _now(), None, hashed)
                made.append(credential)
        return made

    def rotate(self, role: str, name: str) -> Credential:
        """Give a credential a new secret; whoever is connected with the old one is disconnected.

        Raises:
            NotFound: there is no such credential.
        """
        with self._changed() as entries:
            entry = _entry(entries, role, name)
            credential, hashed = _secret(entry.user)
            entries[entry.user] = replace(entry, rotated=_now(), hash=hashed)
        return credential

    def revoke(self, role: str, name: str) -> None:
        """End a credential; whoever is connected with it is disconnected at once.

        Raises:
            NotFound: there is no such credential.
        """
        self.revoke_many([(role, name)])

    def revoke_many(self, principals: Iterable[tuple[str, str]]) -> None:
        """End many credentials with one reload of the broker; all of them or none."""
        with self._changed() as entries:
            for role, name in principals:
                del entries[_entry(entries, role, name).user]

    def list(self) -> list[Entry]:
        """Every credential of the folder, by user name."""
        return sorted(self._read()[1].values(), key=lambda entry: entry.user)

    def ensure(self, role: str, name: str) -> Credential:
        """The credential whose secret this machine keeps for itself, made at first use.

        For what the embedded stack needs: the secret lies in ``<data>/secrets/<role>.<name>``, mode 0600.
        A credential whose kept secret is missing or stale gets a new one.
        """
        user = user_name(role_of(role), name)
        kept = self._data / "secrets" / user
        entry = self._read()[1].get(user)
        if entry is not None and kept.is_file():
            password = kept.read_text().strip()
            if bcrypt.checkpw(password.encode(), entry.hash.encode()):
                return Credential(user, password)
        credential = self.add(role, name) if entry is None else self.rotate(role, name)
        write_private(kept, credential.password + "\n")
        return credential

    def write_users(self) -> None:
        """Write the broker's ``users.conf`` from what is stored, without a reload."""
        with self._locked():
            self._write_users(self._read()[1])

    def _write_users(self, entries: dict[str, Entry]) -> Credential:
        """Let the broker know them with its next reload; the system user is another one each time."""
        system, hashed = _secret(SYSTEM_USER)
        write_private(broker_folder(self._data) / USERS_FILE, render_users(entries.values(), hashed))
        return system

    def _read(self) -> tuple[str | None, dict[str, Entry]]:
        try:
            text = self._file.read_text()
        except FileNotFoundError:
            return None, {}
        try:
            stored: dict[str, Any] = json.loads(text)
            entries = [Entry(**entry) for entry in stored["credentials"]]
            return stored["minicloud"], {entry.user: entry for entry in entries}
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidDocument(
                f"cannot be read: {error}",
                field=str(self._file),
                expected="the file as this program wrote it",
            ) from error

    @contextmanager
    def _changed(self) -> Iterator[dict[str, Entry]]:
        """The entries to change; stored and told to the broker only if the block ends well."""
        with self._locked():
            home, entries = self._read()
            before = dict(entries)
            yield entries
            home = home or self._minicloud or "home"
            system = self._store(home, entries)
            try:
                running = reload_running(broker_folder(self._data))
            except InvalidDocument:
                self._store(home, before)
                raise
            if running and any(
                entry.role == "minicloud" and entries.get(user) != entry for user, entry in before.items()
            ):
                cut_links(broker_folder(self._data), system.password)

    def _store(self, home: str, entries: dict[str, Entry]) -> Credential:
        """What is stored is the truth; ``users.conf`` follows it, so a crash in between revives nobody."""
        stored = {"minicloud": home, "credentials": [asdict(entry) for _, entry in sorted(entries.items())]}
        write_private(self._file, json.dumps(stored, indent=1) + "\n")
        return self._write_users(entries)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._data.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self._data / "credentials.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def render_users(entries: Iterable[Entry], system: str) -> str:
    """The broker's ``users.conf``: each credential with its hash and permissions.

    Args:
        entries: the credentials.
        system: the hash of the system user's secret.
    """
    known = list(entries)
    real: dict[str, set[str]] = {}
    for entry in known:
        if entry.role in ("agent", "worker"):
            real.setdefault(entry.minicloud, set()).add(entry.name)
    # With no users at all the broker would let everybody in: nobody knows this one's secret.
    nobody = json.dumps(_secret("nobody")[1])
    lines = {
        ACCOUNT: [f"      {{user: nobody, password: {nobody}, permissions: {_render(Permissions())}}}"],
        LINK_ACCOUNT: [],
    }
    for entry in known:
        granted = permissions(entry.role, entry.name, entry.minicloud, real.get(entry.minicloud, ()))
        account = LINK_ACCOUNT if granted.link else ACCOUNT
        # Nobody but a minicloud links brokers: it would tie a stranger's broker to our own account.
        kinds = ["STANDARD", "LEAFNODE"] if granted.link else ["MQTT"]
        kinds += [] if granted.link or granted.mqtt_only else ["STANDARD"]
        lines[account].append(
            f"      {{user: {json.dumps(entry.user)}, password: {json.dumps(entry.hash)}, "
            f"permissions: {_render(granted)}, allowed_connection_types: {json.dumps(kinds)}}}"
        )
    users = {account: "users: [\n" + "\n".join(of) + "\n    ]" for account, of in lines.items()}
    return (
        "authorization {\n  timeout: 5\n}\naccounts {\n"
        f"  {ACCOUNT} {{\n    jetstream: enabled\n    {users[ACCOUNT]}\n  }}\n"
        f"  {LINK_ACCOUNT} {{\n    {users[LINK_ACCOUNT]}\n  }}\n"
        f"  {SYSTEM_ACCOUNT} {{\n"
        f"    users: [{{user: {SYSTEM_USER}, password: {json.dumps(system)}}}]\n  }}\n}}\n"
        f"system_account: {SYSTEM_ACCOUNT}\n"
    )


def _render(granted: Permissions) -> str:
    def side(allow: tuple[str, ...], deny: tuple[str, ...]) -> str:
        # An empty list means "no limit" to the broker, so nothing allowed is said by denying all.
        if not allow:
            return '{deny: [">"]}'
        denied = f", deny: {json.dumps(deny)}" if deny else ""
        return f"{{allow: {json.dumps(allow)}{denied}}}"

    publish = side(granted.publish, granted.publish_deny)
    subscribe = side(granted.subscribe, granted.subscribe_deny)
    # An answer may be many messages (logs are streamed), for as long as a request reasonably lasts.
    answers = ', allow_responses: {max: 4096, expires: "5m"}' if granted.answers else ""
    return f"{{publish: {publish}, subscribe: {subscribe}{answers}}}"


def _entry(entries: dict[str, Entry], role: str, name: str) -> Entry:
    entry = entries.get(user_name(role_of(role), name))
    if entry is None:
        of_role = sorted(other.name for other in entries.values() if other.role == role)
        known = f"one of {', '.join(of_role[:10])}" if of_role else f"`add {role} {name}` first"
        raise NotFound(f"there is no credential {role} {name}", field="name", expected=known)
    return entry


def _secret(user: str) -> tuple[Credential, str]:
    password = "".join(secrets.choice(ALPHABET) for _ in range(SECRET_LENGTH))
    salt = bcrypt.gensalt(rounds=_BCRYPT_COST, prefix=b"2a")
    return Credential(user, password), bcrypt.hashpw(password.encode(), salt).decode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def write_private(path: Path, text: str) -> None:
    """Replace a file whole, readable by its owner only, so that no reader ever sees half of it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp makes it 0600
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
