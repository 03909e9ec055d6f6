"""The tiny parent of each workload, which outlives the worker.

In comes what to start; out come its pid and, when it ends, its exit code, both as files in the run's
folder, so that a worker that was killed and comes back finds them. The parent is a shell of about
one megabyte; it holds the workload's lock, and whoever can take that lock knows that nothing runs.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import shlex
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.vim.worker.workload import CannotRun

#: Set in every workload, so that its processes are found even where there are no control groups.
MARKER: Final = "MINICLOUD_INSTANCE"
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# The parent. Its standard input is the lock; nobody but a stop signals it, and the workload is waited
# for in the foreground, so that POSIX lets it keep its signals.
_PARENT: Final = r"""
read -r stat <"/proc/$$/stat"; echo "$stat" >"$1/shim" || exit 125
trap : HUP INT TERM
/bin/sh -c "$2" sh "$@"
echo "$?" >"$1/exit"
"""

# The child, still with the worker's rights: it says who it is, joins its groups, and becomes the
# workload through the start script, which is read after the rights are dropped.
_CHILD: Final = r"""
run=$1; cwd=$3; groups=$4; shift 4
read -r stat <"/proc/$$/stat"; echo "$stat" >"$run/child" || exit 125
for group in $groups; do echo 0 >"$group" || exit 125; done
cd "$cwd" || exit 126
exec "$@" <"$run/start"
"""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a workload runs as; None keeps the worker's own user. ``groups`` are supplementary ones."""

    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Launch:
    """What the shim starts.

    ``place`` is entered with the worker's rights, ``directory`` with the workload's; ``address_space``
    in bytes is the limit of last resort, where the kernel offers no groups.
    """

    command: tuple[str, ...]
    env: dict[str, str]
    place: Path
    directory: str | None = None
    identity: Identity = Identity()
    groups: tuple[Path, ...] = ()
    address_space: int | None = None


@dataclass(frozen=True, slots=True)
class Proc:
    """A process that cannot be mistaken for a later one with the same pid."""

    pid: int
    started: int

    @property
    def alive(self) -> bool:
        """True while this very process runs (a zombie does not)."""
        found = _stat(Path(f"/proc/{self.pid}/stat"))
        return found is not None and found[0] == self and found[1] not in "ZX"

    def signal(self, number: int) -> None:
        """Send a signal to this very process; nothing if it is gone."""
        try:
            handle = os.pidfd_open(self.pid)
        except OSError:
            return
        try:
            if self.alive:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)

    def signal_group(self, number: int) -> None:
        """Send a signal to the session that this process leads."""
        if self.alive:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)


class Lock:
    """A workload's lock: free means that no shim of it lives."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def take(self) -> int | None:
        """The locked file, to be handed to a shim or closed; None if a shim holds it."""
        handle = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        return handle

    @property
    def held(self) -> bool:
        """True while a shim holds it."""
        handle = self.take()
        if handle is None:
            return True
        os.close(handle)
        return False


def start(launch: Launch, run: Path, lock: int, log: Path) -> subprocess.Popen[bytes]:
    """Start the shim over ``launch``; it writes ``shim``, ``child`` and at last ``exit`` into ``run``.

    ``lock`` is closed here once the shim holds it.

    Raises:
        CannotRun: if the system lets no process start.
    """
    script = run / "start"
    script.write_text(_script(launch))
    script.chmod(0o600)
    command = [
        "/bin/sh", "-c", _PARENT, "sh",
        str(run), _CHILD, str(launch.place), " ".join(map(str, launch.groups)),
        *_becoming(launch.identity), "/bin/sh", "-s",
    ]  # fmt: skip
    try:
        with log.open("ab") as output:
            return subprocess.Popen(
                command,
                stdin=lock,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                env={"PATH": _PATH},  # never the workload's: this shell may be root
                start_new_session=True,
            )
    except OSError as error:
        raise CannotRun("CannotStart", f"the system starts no process: {error.strerror}") from error
    finally:
        os.close(lock)


def _becoming(identity: Identity) -> list[str]:
    if identity.uid is None:
        return ["setsid"]
    groups = f"--groups={','.join(map(str, identity.groups))}" if identity.groups else "--clear-groups"
    return [
        "setsid", "setpriv", f"--reuid={identity.uid}", f"--regid={identity.gid}", groups,
        "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all",
    ]  # fmt: skip


def _script(launch: Launch) -> str:
    # Fed through standard input, so it needs to be readable by nobody else; the last line is one
    # command because it takes that input away from the shell that reads it.
    lines = [f"export {name}={shlex.quote(value)}" for name, value in launch.env.items()]
    if launch.address_space:
        lines.append(f"ulimit -v {launch.address_space // 1024}")
    if launch.directory:
        lines.append(f"cd {shlex.quote(launch.directory)} || exit 126")
    return "\n".join([*lines, f"exec {shlex.join(launch.command)} </dev/null", ""])


def shim_of(run: Path) -> Proc | None:
    """The shim that works in ``run``; None before it said so."""
    return _read(run / "shim")


def child_of(run: Path) -> Proc | None:
    """The workload's first process; None before it started."""
    return _read(run / "child")


def exit_of(run: Path) -> int | None:
    """The workload's exit code as a shell gives it (128 + signal if killed); None while none is known."""
    try:
        text = (run / "exit").read_text()
    except OSError:
        return None
    return int(text) if text.endswith("\n") else None


def marked(instance: str) -> list[int]:
    """The pids whose environment carries this instance's marker."""
    wanted = f"{MARKER}={instance}".encode()
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def signal_marked(instance: str, number: int) -> None:
    """Send a signal to every process whose environment carries this instance's marker, until all had it."""
    told: set[int] = set()
    while fresh := set(marked(instance)) - told:  # what was forked meanwhile carries it, too
        for pid in fresh:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        told |= fresh


def is_marked(process: Proc, instance: str) -> bool:
    """Whether ``process`` has become the workload: what prepares it does not carry the marker."""
    try:
        return f"{MARKER}={instance}".encode() in Path(f"/proc/{process.pid}/environ").read_bytes().split(
            b"\0"
        )
    except PermissionError:  # a program with rights of its own, which no shell of ours has
        return True
    except OSError:
        return False


async def ended(process: Proc) -> None:
    """Return when ``process`` is gone; told by the kernel, not by polling, where it can."""
    loop = asyncio.get_running_loop()
    try:
        handle = os.pidfd_open(process.pid)
    except OSError as error:
        if error.errno == errno.ESRCH:
            return
        while process.alive:  # a kernel before 5.3
            await asyncio.sleep(0.05)
        return
    try:
        if not process.alive:
            return
        gone = asyncio.Event()
        loop.add_reader(handle, gone.set)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(handle)
    finally:
        os.close(handle)


def _read(file: Path) -> Proc | None:
    found = _stat(file)
    return found[0] if found else None


def _stat(file: Path) -> tuple[Proc, str] | None:
    """A process and its state letter from a line of ``/proc/<pid>/stat`` (proc_pid_stat(5))."""
    try:
        text = file.read_text()
    except OSError:
        return None
    before, _, after = text.rpartition(")")
    fields = after.split()
    if not text.endswith("\n") or len(fields) < 20:
        return None  # not written to its end yet
    return Proc(int(before.split()[0]), int(fields[19])), fields[0]
