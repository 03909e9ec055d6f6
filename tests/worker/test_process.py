"""Processes: limits by the kernel, ports, files, restarts, stops, and who they run as."""

import asyncio
import os
import socket
import sys
from functools import partial
from pathlib import Path

import httpx
import pytest

from services.vim.worker.settings import EngineSettings
from services.vim.worker.workload import CannotRun, File, Health, Port, Workload
from tests.worker.conftest import Observed, Room, carrying, needs_root, process

SERVE = (sys.executable, "-m", "http.server", "--bind", "$(HOST)", "$(PORT)")
HTTP = Port("http", 8080)
SOON_ILL = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    count = 0
    def do_GET(self):
        Handler.count += 1
        self.send_response(200 if Handler.count < 3 else 500)
        self.end_headers()
http.server.HTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""


async def test_a_server_is_running_once_it_answers(room: Room) -> None:
    up = await room.run(process("python3", *SERVE[1:], ports=(HTTP,), health=Health(http="/")))
    assert up["reason"] == "Started"
    url = up["endpoints"][0]["url"]
    async with httpx.AsyncClient() as client:
        assert (await client.get(url)).status_code == 200
    assert [seen["state"] for seen in room.seen] == ["creating", "starting", "running"]


async def test_the_environment_says_where_to_listen(room: Room) -> None:
    await room.run(
        process("sh", "-c", "env; pwd; cat etc/app.conf", ports=(HTTP, Port("admin-api", 9090)),
                env={"GREETING": "it's \"hello\" $HOME\n`x`"}, files=(File("/etc/app.conf", "k=v\n", 0o400),),
                restart="never"),
        "completed",
    )  # fmt: skip
    lines = room.engine.logs("job-0")
    ports = {line.partition("=")[0]: line.partition("=")[2] for line in lines if line.startswith("PORT")}
    assert ports["PORT"] == ports["PORT_HTTP"] != ports["PORT_ADMIN_API"]
    assert "HOST=127.0.0.1" in lines
    assert 'GREETING=it\'s "hello" $HOME' in lines
    assert "k=v" in lines


@pytest.mark.parametrize(
    ("command", "restart", "state", "code", "signal"),
    [
        ("exit 0", "never", "completed", 0, None),
        ("exit 3", "never", "failed", 3, None),
        ("exit 0", "on-failure", "completed", 0, None),
        ("kill -9 $$", "never", "failed", 137, 9),
    ],
)
async def test_its_end_is_told(
    room: Room, command: str, restart: str, state: str, code: int, signal: int | None
) -> None:
    end = await room.run(process("sh", "-c", command, restart=restart), state)
    assert end["exit"] == {"code": code, "signal": signal, "oom": False}
    assert end["restarts"] == 0


async def test_a_crash_is_restarted_slower_each_time_and_counted(room: Room) -> None:
    room.engine.apply(process("sh", "-c", "exit 7", restart="always"))
    for count in (1, 2, 3):
        again = await room.until(partial(_restarted, count))
        assert again["reason"] == "ExitedWithError"
        assert again["exit"]["code"] == 7
        assert f"restart {count} in {0.02 * 2 ** (count - 1):g} s" in again["message"]


def _restarted(count: int, seen: Observed) -> bool:
    return bool(seen["restarts"] == count)


async def test_a_new_generation_replaces_the_old_and_a_repeat_changes_nothing(room: Room) -> None:
    first = process("sleep", "1000", env={"ROUND": f"{room.data}-1"})
    await room.run(first)
    told = len(room.seen)
    room.engine.apply(first)
    room.engine.apply(process("sleep", "1000", env={"ROUND": f"{room.data}-2"}, generation=2))
    up = await room.until_state("running")
    assert up["generation"] == 2
    assert [seen["state"] for seen in room.seen[told:]] == ["stopping", "creating", "starting", "running"]
    assert carrying(f"ROUND={room.data}-1") == []
    assert len(carrying(f"ROUND={room.data}-2")) == 1


async def test_removal_leaves_nothing(room: Room) -> None:
    command = "sleep 1000 & exec python3 -m http.server --bind $HOST $PORT"
    up = await room.run(
        process("sh", "-c", command, ports=(HTTP,), env={"MARK": str(room.data)}, health=Health(http="/"))
    )
    assert len(carrying(f"MARK={room.data}")) >= 2
    await room.engine.remove("job-0")
    assert room.seen[-1]["state"] == "stopped"
    assert carrying(f"MARK={room.data}") == []
    assert room.engine.observe() == []
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", up["endpoints"][0]["port"]))


async def test_one_that_ignores_sigterm_is_killed_after_the_grace(room: Room) -> None:
    program = (
        "import signal,time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(99)"
    )
    await room.run(
        process("python3", "-c", program, health=Health(console="deaf"))
    )  # fmt: skip
    await room.engine.remove("job-0")
    assert room.seen[-1]["exit"] == {"code": 137, "signal": 9, "oom": False}


async def test_a_pinned_port_that_is_taken_is_refused_and_tried_again(room: Room) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        refused = await room.run(process("python3", *SERVE[1:], ports=(Port("http", 80, number),)), "failed")
        assert refused["reason"] == "PortInUse"
        assert str(number) in refused["message"]
    up = await room.until_state("running")
    assert up["endpoints"][0]["port"] == number


async def test_two_replicas_get_two_ports_and_keep_them_over_a_restart(room: Room) -> None:
    for replica in (0, 1):
        room.engine.apply(
            process("python3", *SERVE[1:], workload=f"job-{replica}", replica=replica, ports=(HTTP,),
                    health=Health(http="/"))
        )  # fmt: skip
        await room.until_state("running")
    before = {seen["workload"]: seen["endpoints"][0]["port"] for seen in room.engine.observe()}
    assert len(set(before.values())) == 2
    victim = next(pid for pid in carrying("MINICLOUD_WORKLOAD=job-1") if _listens(pid, room))
    os.kill(victim, 9)
    await room.until(lambda seen: seen["workload"] == "job-1" and seen["restarts"] == 1)
    await room.until_state("running")
    assert {seen["workload"]: seen["endpoints"][0]["port"] for seen in room.engine.observe()} == before


def _listens(pid: int, room: Room) -> bool:
    return f"{room.engine.name}/".encode() in Path(f"/proc/{pid}/environ").read_bytes()


async def test_a_failing_health_check_degrades_then_restarts(room: Room) -> None:
    await room.run(
        process("python3", "-c", SOON_ILL, ports=(HTTP,), health=Health(http="/", every=0.05, failures=2))
    )
    degraded = await room.until_state("degraded", "HealthCheckFailed")
    assert "answered 500" in degraded["message"]
    again = await room.until(lambda seen: seen["restarts"] == 1)
    assert again["reason"] == "HealthCheckFailed"


async def test_what_cannot_start_says_why(room: Room, tmp_path: Path) -> None:
    refused = await room.run(process("no-such-program-here"), "failed")
    assert refused["reason"] == "CommandNotFound"
    assert "no-such-program-here" in refused["message"]
    await room.engine.remove("job-0")
    refused = await room.run(process("true", user="root"), "failed")
    assert refused["reason"] == "RootNotAllowed"


def test_a_file_may_not_leave_the_workload() -> None:
    with pytest.raises(CannotRun, match="leaves"):
        process("true", files=(File("/../etc/passwd", ""),))


def test_a_desired_document_is_read_back() -> None:
    made = process("true", ports=(HTTP,), files=(File("a", "b"),), health=Health(http="/"))
    assert Workload.from_document({**made.document(), "state": "running", "node": "pi-3"}) == made


@needs_root
class TestAsRoot:
    """What only root can give or take."""

    async def test_a_workload_is_nobody(self, room: Room) -> None:
        await room.run(process("sh", "-c", "id; grep -E '^(Cap(Eff|Bnd)|NoNewPrivs)' /proc/self/status",
                               restart="never"), "completed")  # fmt: skip
        said = room.engine.logs("job-0")
        assert said[0].startswith("uid=65534(nobody) gid=65534")
        assert "groups=65534" in said[0]
        assert [line.split()[1] for line in said[1:]] == ["0000000000000000", "0000000000000000", "1"]

    async def test_it_is_root_only_if_both_sides_want_it(self, tmp_path: Path) -> None:
        from services.vim.worker.engine import Engine

        engine = Engine(tmp_path / "data", EngineSettings(allow_root=True))
        room = Room(engine, tmp_path / "data")
        engine.listen(room.hear)
        async with engine:
            for user, uid in ((None, "65534"), ("root", "0")):
                await room.run(process("id", "-u", user=user, restart="never"), "completed")
                assert engine.logs("job-0") == [uid]
                await engine.remove("job-0")

    async def test_a_directory_that_its_user_may_not_read_is_named(self, room: Room, tmp_path: Path) -> None:
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o700)
        made = process("true")
        made.image["directory"] = str(closed)
        refused = await room.run(made, "failed")
        assert refused["reason"] == "DirectoryNotReadable"
        assert "uid 65534" in refused["message"]

    async def test_memory_beyond_the_limit_ends_it(self, room: Room) -> None:
        end = await room.run(
            process("python3", "-c", "x = bytearray(200 << 20)", memory=32 << 20, restart="never"), "failed"
        )
        assert end["reason"] == "OOMKilled"
        assert end["exit"] == {"code": 137, "signal": 9, "oom": True}
        assert end["limits"]["memory"].endswith("32 MiB")

    async def test_cpu_is_held_at_the_limit(self, room: Room) -> None:
        await room.run(process("sh", "-c", "while :; do :; done", cpu=0.2))
        group = room.engine.cgroups.group("job-0")
        assert group is not None
        loop = asyncio.get_running_loop()
        start, before = loop.time(), group.usage()
        async with asyncio.timeout(20):
            while group.usage().throttled < before.throttled + 8:
                await asyncio.sleep(0.02)
        used = (group.usage().cpu - before.cpu) / (loop.time() - start)
        assert used < 0.3

    async def test_a_fork_bomb_meets_the_limit(self, tmp_path: Path) -> None:
        from services.vim.worker.engine import Engine

        engine = Engine(tmp_path / "data", EngineSettings(pids_limit=16))
        room = Room(engine, tmp_path / "data")
        engine.listen(room.hear)
        async with engine:
            await room.run(process("python3", "-c", (
                "import os,time\ntry:\n while True:\n  if os.fork()==0: time.sleep(99)\n"
                "except BlockingIOError: print('held', flush=True); time.sleep(99)"
            ), health=Health(console="held")))  # fmt: skip
            group = engine.cgroups.group("job-0")
            assert group is not None
            assert len(group.members()) <= 16
            await engine.remove("job-0")
            assert group.members() == []


@needs_root
async def test_a_program_that_only_root_may_run_is_refused_or_passed_over(room: Room, tmp_path: Path) -> None:
    private, public = tmp_path / "private", tmp_path / "public"
    for folder in (private, public):
        folder.mkdir()
        (folder / "greet").write_text("#!/bin/sh\necho hello\n")
        (folder / "greet").chmod(0o755)
    private.chmod(0o700)
    path = f"{private}:/usr/bin:/bin"
    refused = await room.run(process("greet", env={"PATH": path}, restart="never"), "failed")
    assert refused["reason"] == "CommandNotExecutable"
    assert f"{private}/greet may not be run by uid 65534" in refused["message"]
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o011)
    path = f"{private}:{public}:/usr/bin:/bin"
    await room.run(process("greet", env={"PATH": path}, restart="never", generation=2), "completed")
    assert room.engine.logs("job-0") == ["hello"]
