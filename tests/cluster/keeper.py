"""The parent of a cluster: it starts the cluster's space and sees to it that nothing of it is left at the end.

The end is a SIGTERM, the death of the space, or, where its standard input is a pipe, the death of whoever
holds the other end. It stands outside of the space, so that it can remove what the kernel does not: files
and cgroups. If it is killed itself the space dies with it, and the next ``sweep`` removes the rest.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psutil

from tests.cluster import space
from tests.parts.part import cache

_PATIENCE_S: Final = 20.0
_CHECKOUT: Final = str(Path(__file__).parents[2])
_CGROUPS: Final = Path("/sys/fs/cgroup")


def clusters() -> Path:
    """The folder of the clusters that are up on this machine, one folder each."""
    return cache().parent / "clusters"


def start(name: str, *, lifeline: bool) -> tuple[Path, subprocess.Popen[bytes]]:
    """A new cluster's folder, and its keeper; with a lifeline it goes down when we die.

    Raises:
        FileExistsError: a cluster of that name is up.
    """
    sweep()
    folder = clusters() / name
    named = filter(None, [os.environ.get("PYTHONPATH")])
    with _all():
        folder.mkdir()
        with _lock(folder).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # The keeper and the space inherit the lock: it is free when both are dead.
            with (folder / "keeper.log").open("wb") as log:
                keeper = subprocess.Popen(
                    [sys.executable, "-m", "tests.cluster.keeper", str(folder), str(lock.fileno())],
                    stdin=subprocess.PIPE if lifeline else subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[lock.fileno()],
                    start_new_session=True,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join([_CHECKOUT, *named])},
                )
            (folder / "keeper.pid").write_text(str(keeper.pid))
    return folder, keeper


def stop(folder: Path) -> None:
    """End a cluster and remove what is left of it, whoever started it and whatever of it is dead already."""
    deadline = time.monotonic() + _PATIENCE_S
    keeper = _keeper(folder)
    while folder.exists():
        with _all():
            if _is_dead(folder):
                clear(folder)
            elif keeper is not None:
                with contextlib.suppress(psutil.NoSuchProcess):
                    keeper.terminate()
        if time.monotonic() > deadline:
            raise AssertionError(f"the cluster in {folder} does not end")
        time.sleep(0.02)
    while keeper is not None and lives(keeper):
        time.sleep(0.01)


def sweep() -> None:
    """Remove what is left of clusters that died with their keepers."""
    clusters().mkdir(parents=True, exist_ok=True)
    with _all():
        for folder in clusters().iterdir():
            if folder.is_dir() and _is_dead(folder):
                clear(folder)


def clear(folder: Path) -> None:
    """Remove the cgroups and the files of a cluster whose processes are dead or dying."""
    deadline = time.monotonic() + _PATIENCE_S
    _wait_for_the_space(folder)
    for top in (_CGROUPS / cgroup(folder.name), *_CGROUPS.glob(f"*/{cgroup(folder.name)}")):
        for group in (*sorted(top.rglob("*/"), reverse=True), top):
            _remove(group, deadline)
    while folder.exists():  # what still dies may still write
        try:
            shutil.rmtree(folder)
        except OSError:
            if time.monotonic() > deadline:
                raise


def lives(process: psutil.Process) -> bool:
    """Whether a process runs; not so if it only waits for its parent to bury it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def cgroup(name: str) -> str:
    """The cgroup that all pods of a cluster are below."""
    return f"minicloud-cluster-{name}"


def _wait_for_the_space(folder: Path) -> None:
    """Its pid 1 is gone only once everything else in it is."""
    with contextlib.suppress(FileNotFoundError, psutil.NoSuchProcess):
        dying = psutil.Process(int((folder / "init.pid").read_text()))
        if str(folder) in dying.cmdline():  # else the number is somebody else's by now
            dying.kill()
            dying.wait(_PATIENCE_S)


def _keeper(folder: Path) -> psutil.Process | None:
    with contextlib.suppress(FileNotFoundError, ValueError, psutil.NoSuchProcess):
        found = psutil.Process(int((folder / "keeper.pid").read_text()))
        if str(folder) in found.cmdline():  # else the number is somebody else's by now
            return found
    return None


def _remove(group: Path, deadline: float) -> None:
    while True:
        try:
            group.rmdir()
        except FileNotFoundError:
            return
        except OSError:  # busy: its last process is not quite dead
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _lock(folder: Path) -> Path:
    return folder / "lock"


def _is_dead(folder: Path) -> bool:
    try:
        with _lock(folder).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return True
    return True


@contextmanager
def _all() -> Iterator[None]:
    """Nobody else makes or removes a cluster meanwhile."""
    with (clusters() / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _note_pid_1(running: subprocess.Popen[bytes], folder: Path) -> None:
    """Write down the pid outside of the space's pid 1, which is the one child of what we run."""
    while running.poll() is None:
        for child in psutil.Process(running.pid).children():
            (folder / "init.pid").write_text(str(child.pid))
            return
        time.sleep(0.005)


def _keep(folder: Path, lock: int) -> None:
    """Run the space until its end, then clear up."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    told, telling = os.pipe()
    os.set_blocking(telling, False)
    signal.set_wakeup_fd(telling)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    running = subprocess.Popen(space.command(folder), stdin=subprocess.DEVNULL, pass_fds=[lock])
    _note_pid_1(running, folder)
    with selectors.DefaultSelector() as ends:
        ends.register(told, selectors.EVENT_READ)
        if not os.path.samestat(os.fstat(0), Path(os.devnull).stat()):
            ends.register(0, selectors.EVENT_READ)
        ends.select()
    with _all():
        clear(folder)
    running.kill()
    running.wait()


if __name__ == "__main__":
    _keep(Path(sys.argv[1]), int(sys.argv[2]))
