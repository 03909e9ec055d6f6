"""What a cluster runs in: doors that are shut while nobody is behind them, and an end that leaves nothing."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import psutil
import pytest

from tests.cluster import keeper
from tests.cluster.any_cluster import until
from tests.cluster.space import Space, SpaceError
from tests.parts.namespaces import Namespaces, NodeMachine
from tests.parts.part import Part, PartMissing
from tests.parts.process import accepts

_CHECKOUT: Final = Path(__file__).parents[2]
#: A program that holds a port until it is killed, and greets whoever comes.
_GREETER: Final = """
import socket
server = socket.create_server(("127.0.0.1", 7))
while True:
    connection, _ = server.accept()
    connection.sendall(b"hello")
    connection.close()
"""
#: An owner of a space, who says where it is and waits to be killed.
_OWNER: Final = """
import sys, time
from tests.cluster import keeper
folder, kept = keeper.start(sys.argv[1], lifeline=True)
print(kept.pid, flush=True)
time.sleep(600)
"""


class Kept:
    """A space below its keeper, with a program and a cgroup as a cluster has them."""

    def __init__(self, folder: Path, keeper_pid: int) -> None:
        self.folder = folder
        self.keeper = psutil.Process(keeper_pid)
        self.space = Space(folder)
        until(self.space.started, "the space", 10)
        self.space.start("sleeper", ["sleep", "infinity"])
        self.space.run("ip", "link", "set", "lo", "up")
        self.inside = self.keeper.children(recursive=True)
        assert "sleep" in {process.name() for process in self.inside}
        self.init = psutil.Process(int((folder / "init.pid").read_text()))
        self._join_a_cgroup()

    def _join_a_cgroup(self) -> None:
        (sleeper,) = (process for process in self.inside if process.name() == "sleep")
        self.cgroup = Path(
            "/sys/fs/cgroup/memory" if Path("/sys/fs/cgroup/memory").is_dir() else "/sys/fs/cgroup"
        )
        self.cgroup /= keeper.cgroup(self.folder.name)
        if NodeMachine().available() is None:
            (self.cgroup / "pod").mkdir(parents=True)
            (self.cgroup / "pod/cgroup.procs").write_text(str(sleeper.pid))

    def nothing_is_left(self) -> bool:
        alive = [process for process in self.inside if keeper.lives(process)]
        return not alive and not self.folder.exists() and not self.cgroup.exists()


@pytest.fixture
def name(part: Callable[[Part], Part]) -> Iterator[str]:
    part(Namespaces())
    name = f"t{os.urandom(4).hex()}"
    yield name
    keeper.stop(keeper.clusters() / name)


@pytest.fixture
def kept(name: str) -> Iterator[Kept]:
    folder, process = keeper.start(name, lifeline=True)
    yield Kept(folder, process.pid)
    keeper.stop(folder)
    assert process.stdin is not None
    process.stdin.close()
    process.wait(20)


def test_stopping_leaves_nothing(kept: Kept) -> None:
    keeper.stop(kept.folder)
    assert kept.nothing_is_left()


def test_when_pid_1_is_killed_the_keeper_leaves_nothing(kept: Kept) -> None:
    kept.init.kill()
    until(kept.nothing_is_left, "the end")


def test_when_the_keeper_is_killed_all_in_the_space_dies_and_stopping_leaves_nothing(kept: Kept) -> None:
    kept.keeper.kill()
    psutil.wait_procs(kept.inside, 10)
    assert kept.folder.exists()
    keeper.stop(kept.folder)
    assert kept.nothing_is_left()


def test_what_a_killed_keeper_left_is_swept_up_by_the_next_cluster(kept: Kept, name: str) -> None:
    kept.keeper.kill()
    psutil.wait_procs(kept.inside, 10)
    folder, process = keeper.start(f"{name}-next", lifeline=True)
    assert kept.nothing_is_left()
    keeper.stop(folder)
    assert process.stdin is not None
    process.stdin.close()
    process.wait(20)


def test_nothing_runs_or_is_left_of_an_owner_who_was_killed(name: str) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER, name],
        cwd=_CHECKOUT, env={**os.environ, "PYTHONPATH": str(_CHECKOUT)}, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert owner.stdout is not None
    kept = Kept(keeper.clusters() / name, int(owner.stdout.readline()))
    owner.kill()
    owner.wait()
    owner.stdout.close()
    until(kept.nothing_is_left, "the end")


def test_a_cluster_that_is_up_is_not_swept_up_and_its_name_is_taken(kept: Kept, name: str) -> None:
    keeper.sweep()
    assert "sleeper" in kept.space.running()
    with pytest.raises(FileExistsError):
        keeper.start(name, lifeline=True)
    assert "sleeper" in kept.space.running()


def test_two_that_stop_the_same_cluster_at_once_both_succeed(kept: Kept) -> None:
    failures: list[BaseException] = []

    def stop() -> None:
        try:
            keeper.stop(kept.folder)
        except BaseException as error:  # noqa: BLE001 - told below
            failures.append(error)

    stopping = [threading.Thread(target=stop) for _ in range(4)]
    for thread in stopping:
        thread.start()
    for thread in stopping:
        thread.join()
    assert failures == []
    assert kept.nothing_is_left()


def test_a_door_is_shut_while_nobody_listens_behind_it_and_opens_again(kept: Kept) -> None:
    port = kept.space.let_in("127.0.0.1", 7)

    def greeted() -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                return connection.recv(10) == b"hello"
        except OSError:
            return False

    assert not greeted()
    until(lambda: not accepts(port), "a shut door")
    kept.space.start("greeter", [sys.executable, "-c", _GREETER])
    until(greeted, "a greeting")
    kept.space.kill("greeter")
    assert not greeted()
    until(lambda: not accepts(port), "a shut door")
    kept.space.start_again("greeter")
    until(greeted, "a greeting again")


def test_what_is_inside_reaches_a_server_outside_by_a_socket_that_listens_inside(kept: Kept) -> None:
    with kept.space.listen("127.0.0.1", 7) as server:
        asked = threading.Thread(target=lambda: server.accept()[0].sendall(b"from outside\n"))
        asked.start()
        said = kept.space.run("bash", "-c", "read line < /dev/tcp/127.0.0.1/7; echo $line")
        asked.join()
    assert said == "from outside\n"


def test_a_program_that_fails_is_told_with_what_it_wrote(kept: Kept) -> None:
    with pytest.raises(SpaceError, match="no such thing"):
        kept.space.run("sh", "-c", "echo no such thing; exit 3")
    with pytest.raises(SpaceError, match="it runs already"):
        kept.space.start("sleeper", ["sleep", "infinity"])
    with pytest.raises(PartMissing, match="no-such-program"):
        kept.space.run("no-such-program")


def test_orphans_inside_are_buried(kept: Kept) -> None:
    pid = int(kept.space.run("sh", "-c", "sleep 0.01 > /dev/null & echo $!"))
    until(lambda: str(pid) not in kept.space.run("ls", "/proc").split(), "the burial")
