"""Containers by a real runc: isolation, images, limits, files, clean ends."""

import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.vim.worker.engine import Engine
from services.vim.worker.settings import EngineSettings
from services.vim.worker.workload import File, Health, Port, Workload
from tests.parts.runc import Runc
from tests.worker.conftest import Room, carrying, leftovers, needs_root, workload
from tests.worker.oci_layout import LayoutWriter, layer, link

HTTP = Port("http", 8080)


@pytest.fixture
def settings(runc: Runc) -> EngineSettings:
    return EngineSettings(stop_grace=3.0, backoff=0.02, runc=str(runc.obtain()))


def container(rootfs: Path, *command: str, **fields: Any) -> Workload:
    return workload("container", {"rootfs": str(rootfs), "command": list(command)}, **fields)


@needs_root
class TestContainers:
    """What needs root."""

    async def test_it_serves_on_the_nodes_network(self, room: Room, rootfs: Path) -> None:
        up = await room.run(
            container(rootfs, "sh", "-c", "exec httpd -f -p $HOST:$PORT -h /www", ports=(HTTP,),
                      files=(File("/www/index.html", "hello from a file"),), health=Health(http="/"))
        )  # fmt: skip
        assert up["engine"].startswith("runc ")
        async with httpx.AsyncClient() as client:
            assert (await client.get(up["endpoints"][0]["url"])).text == "hello from a file"
        assert not (rootfs / "www").exists(), "the image is shared and stays as it is"

    async def test_it_is_walled_in(self, room: Room, rootfs: Path) -> None:
        script = (
            "id -u; hostname; ps | grep -c .;"
            "grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status;"
            "touch /bin/x 2>&1; touch /tmp/x && echo tmp; mount -t tmpfs x /tmp 2>&1; cat /proc/kcore 2>&1;"
            "cat /etc/shadow 2>&1; ls /dev"
        )
        await room.run(container(rootfs, "sh", "-c", script, restart="never"), "completed")
        said = room.engine.logs("job-0")
        assert said[:2] == ["65534", "job-0"]
        assert int(said[2]) <= 5, "it sees its own processes only"
        status = dict(line.split(":\t") for line in said[3:7])
        assert status == {
            "CapEff": "0000000000000000", "CapBnd": "0000000000000000", "NoNewPrivs": "1", "Seccomp": "2"
        }  # fmt: skip
        text = "\n".join(said)
        assert "/bin/x: Read-only file system" in text
        assert "tmp" in said
        assert "mounting" in text or "permission denied" in text
        assert "sda" not in said

    async def test_memory_beyond_the_limit_ends_it(self, room: Room, rootfs: Path) -> None:
        end = await room.run(
            container(
                rootfs, "dd", "if=/dev/zero", "of=/dev/null", "bs=200M", memory=16 << 20, restart="never"
            ),
            "failed",
        )
        assert (end["reason"], end["exit"]["oom"]) == ("OOMKilled", True)

    @pytest.mark.parametrize(
        ("command", "state", "code"), [("exit 0", "completed", 0), ("exit 9", "failed", 9)]
    )
    async def test_its_end_is_told(
        self, room: Room, rootfs: Path, command: str, state: str, code: int
    ) -> None:
        end = await room.run(container(rootfs, "sh", "-c", command, restart="never"), state)
        assert end["exit"]["code"] == code

    async def test_a_command_that_is_not_there_is_named(self, room: Room, rootfs: Path) -> None:
        end = await room.run(container(rootfs, "no-such-program", restart="never"), "failed")
        assert end["reason"] == "CommandNotFound"
        assert "no-such-program" in end["message"]
        assert "running" not in [seen["state"] for seen in room.seen]

    async def test_it_stops_by_its_own_handler_or_at_once(self, room: Room, rootfs: Path) -> None:
        polite = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.1; done"
        await room.run(container(rootfs, "sh", "-c", polite, health=Health(console="up")))
        log = room.data / "workloads/job-0/output.log"
        copy = room.data.parent / "log"
        os.link(log, copy)
        await room.engine.remove("job-0")
        assert room.seen[-1]["exit"]["code"] == 0
        assert "bye" in copy.read_text()
        await room.run(container(rootfs, "sleep", "1000", env={"MARK": str(room.data)}))
        await room.engine.remove("job-0")
        assert room.seen[-1]["exit"]["signal"] == 9, "no handler: it would only sit out the grace"
        assert carrying(f"MARK={room.data}") == []
        assert not list((room.data / "runc").iterdir())

    async def test_a_layout_brings_its_command_environment_and_user(
        self, room: Room, tmp_path: Path, rootfs: Path
    ) -> None:
        program = (rootfs / "bin/busybox").read_bytes()
        files = {"bin/": None, "bin/busybox": program, "bin/sh": link("busybox"), "bin/id": link("busybox"),
                 "srv/": None}  # fmt: skip
        config = {
            "Entrypoint": ["sh", "-c"],
            "Cmd": ["id -u; pwd; echo $FROM $TOO; : > /scratch/x && echo written"],
            "Env": ["FROM=image", "TOO=image", "PATH=/bin"],
            "User": "1234",
            "WorkingDir": "/srv",
            "Volumes": {"/scratch": {}},
        }
        writer = LayoutWriter(tmp_path / "layout")
        writer.tag(writer.image([layer(files, compressed=True)], config), "1")
        made = workload(
            "container", {"layout": f"{tmp_path}/layout:1"}, env={"TOO": "request"}, restart="never"
        )
        await room.run(made, "completed")
        assert room.engine.logs("job-0") == ["1234", "/srv", "image request", "written"]

    async def test_root_inside_needs_both_sides(
        self, tmp_path: Path, rootfs: Path, settings: EngineSettings
    ) -> None:
        data = tmp_path / "data"
        engine = Engine(data, EngineSettings(allow_root=True, runc=settings.runc))
        room = Room(engine, data)
        engine.listen(room.hear)
        async with engine:
            script = "id -u; touch /bin/x && echo own"
            await room.run(container(rootfs, "sh", "-c", script, user="root", restart="never"), "completed")
            assert engine.logs("job-0") == ["0", "own"]
            assert not (rootfs / "bin/x").exists()
            await engine.remove("job-0")
        assert leftovers(data) == []
