"""Probes on trees of /proc and /sys as other machines have them (written by hand), and on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from services.charagent import kvm, programs, runtimes, software
from services.charagent.characterize import changed
from services.charagent.metrics import Sampler
from services.charagent.probes import (
    addresses,
    battery,
    cpu,
    disks,
    gpus,
    identity,
    k3s,
    memory,
    system,
)
from services.charagent.probes.silent import Silent

HERE = Path("/")


def tree(root: Path, files: dict[str, str]) -> Path:
    for path, text in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


@pytest.fixture
def pi(tmp_path: Path) -> Path:
    """A Raspberry Pi 4 as Raspberry Pi OS shows it: SD card, docker's leftovers, a snap, a bind mount."""
    root = tree(
        tmp_path / "pi",
        {
            "proc/cpuinfo": "processor\t: 0\nBogoMIPS\t: 108.00\n\nprocessor\t: 1\n\nprocessor\t: 2\n\n"
            "processor\t: 3\n\nRevision\t: c03114\nSerial\t: 10000000abcdef01\n"
            "Model\t\t: Raspberry Pi 4 Model B Rev 1.4\n",
            "proc/sys/kernel/arch": "aarch64\n",
            "proc/sys/kernel/osrelease": "6.6.31+rpt-rpi-v8\n",
            "proc/meminfo": "MemTotal:        3884360 kB\nMemFree: 1 kB\nMemAvailable:    3021244 kB\n",
            "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
            "proc/device-tree/serial-number": "10000000abcdef01\0",
            "proc/self/mountinfo": (
                "24 1 179:2 / / rw,noatime shared:1 - ext4 /dev/mmcblk0p2 rw\n"
                "25 24 0:5 / /dev rw - devtmpfs udev rw\n"
                "30 24 179:1 / /boot/firmware rw,relatime - vfat /dev/mmcblk0p1 rw\n"
                "31 24 179:2 /var/lib/thing /mnt/bind rw - ext4 /dev/mmcblk0p2 rw\n"
                "32 24 7:0 / /snap/core/1 ro - squashfs /dev/loop0 ro\n"
                "33 24 0:44 / /var/lib/docker/overlay2/x rw - overlay overlay rw\n"
                "34 24 179:2 / /again rw - ext4 /dev/mmcblk0p2 rw\n"
                "35 24 0:50 / /mnt/my\\040share rw - nfs4 nas:/export rw\n"
                "36 24 0:51 / /gone rw - nfs4 nas:/gone rw\n"
            ),
            "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12"\nID=debian\nVERSION_ID="12"\n',
            "sys/devices/system/cpu/online": "0-3\n",
            "sys/devices/mmc/block/mmcblk0/queue/rotational": "0\n",
            "sys/devices/mmc/block/mmcblk0/mmcblk0p2/partition": "2\n",
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
            "sys/class/thermal/thermal_zone0/temp": "51121\n",
            "proc/stat": "cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 1\ncpu1 1\ncpu2 1\ncpu3 1\nintr 1\n",
            "proc/loadavg": "0.52 0.58 0.59 1/400 1234\n",
            "proc/diskstats": " 179 0 mmcblk0 1 0 1 1 1 0 1 1 0 1 1\n"
            " 179 2 mmcblk0p2 100 0 1 500 100 0 1 500 0 1 1\n",
            "proc/net/dev": "Inter-|\n face |\n"
            "  lo: 9 0 0 0 0 0 0 0 9 0\n  eth0: 1000 1 0 0 0 0 0 0 2000 1\n",
            "boot/firmware/x": "",
            "mnt/bind/x": "",
            "mnt/my share/x": "",
            "again/x": "",
        },
    )
    block = root / "sys/dev/block"
    block.mkdir(parents=True)
    (block / "179:2").symlink_to("../../devices/mmc/block/mmcblk0/mmcblk0p2")
    return root


def test_reads_a_raspberry_pi(pi: Path, tmp_path: Path) -> None:
    assert cpu.read(pi) == {
        "arch": "aarch64",
        "bits": 64,
        "cores": 4,
        "model": "Raspberry Pi 4 Model B Rev 1.4",
    }
    assert memory.read(pi) == {"total": 3884360 * 1024}
    assert system.read(pi) == {"name": "debian", "version": "12", "kernel": "6.6.31+rpt-rpi-v8"}
    first = identity.read(pi, tmp_path)
    assert first == identity.read(pi, tmp_path / "other")  # the board's serial number decides
    assert len(first) == 32
    assert "abcdef01" not in first


def test_lists_each_disk_once(pi: Path) -> None:
    found = {disk["mount"]: (disk["device"], disk["kind"]) for disk in disks.read(pi)}
    assert found == {
        "/": ("/dev/mmcblk0p2", "sd"),
        "/boot/firmware": ("/dev/mmcblk0p1", "unknown"),
        "/mnt/my share": ("nas:/export", "network"),
    }


def test_samples_a_raspberry_pi(pi: Path) -> None:
    sampler = Sampler(pi)
    tree(
        pi,
        {
            "proc/stat": "cpu  150 0 150 900 0 0 0 0 0 0\ncpu0 1\ncpu1 1\ncpu2 1\ncpu3 1\nintr 1\n",
            "proc/diskstats": " 179 2 mmcblk0p2 150 0 1 900 150 0 1 900 0 1 1\n",
            "proc/net/dev": "Inter-|\n face |\n"
            "  lo: 99 0 0 0 0 0 0 0 99 0\n  eth0: 5000 1 0 0 0 0 0 0 4000 1\n",
        },
    )
    values = sampler.sample()
    assert values["cpu.used"] == 50
    assert values["cpu.free"] == 2
    assert values["load.5m"] == 0.58
    assert values["memory.available"] == 3021244 * 1024
    assert values["disk.latency"] == pytest.approx(0.008)  # 800 ms in 100 operations
    assert values["temperature"] == 51.1
    assert values["network.rx"] == pytest.approx(2 * values["network.tx"], rel=0.01)
    assert "battery.charge" not in values
    assert "disk.latency" not in sampler.sample()  # nothing was read or written meanwhile


def test_reads_a_laptop_with_a_battery_and_a_card(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "sys/class/power_supply/AC/type": "Mains\n",
            "sys/class/power_supply/AC/online": "0\n",
            "sys/class/power_supply/BAT0/type": "Battery\n",
            "sys/class/power_supply/BAT0/capacity": "83\n",
            "sys/class/power_supply/hid-mouse/type": "Battery\n",
            "sys/class/power_supply/hid-mouse/scope": "Device\n",
            "sys/class/power_supply/hid-mouse/capacity": "5\n",
            "sys/class/drm/card0/device/vendor": "0x1002\n",
            "sys/class/drm/card0/device/device": "0x73bf\n",
            "sys/class/drm/card0/device/mem_info_vram_total": "17163091968\n",
            "sys/class/drm/card0-DP-1/status": "connected\n",
            "sys/class/drm/card1/device/vendor": "0x1234\n",  # the console of a virtual machine
            "sys/class/drm/card1/device/device": "0x1111\n",
            "usr/share/misc/pci.ids": "1002  AMD\n"
            "\t73bf  Navi 21 [Radeon RX 6800]\n\t\t1002 0e3a  x\n8086  Intel\n",
            "proc/123/comm": "k3s-agent\n",
        },
    )
    assert battery.read(root) == {"charge": 83.0, "plugged": False}
    assert gpus.read(root) == [{"name": "Navi 21 [Radeon RX 6800]", "vendor": "amd", "memory": 17163091968}]
    assert k3s.read(root) == {"role": "agent"}
    assert Sampler(root).sample()["battery.charge"] == 83.0


def test_reads_a_jetson_and_a_card_of_nvidia(tmp_path: Path) -> None:
    jetson = tree(
        tmp_path / "jetson",
        {
            "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0",
            "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
        },
    )
    assert gpus.read(jetson)[0]["name"] == "NVIDIA Jetson Orin Nano Developer Kit GPU"
    server = tree(
        tmp_path / "server",
        {
            "proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA A2\nIRQ: 1\n",
            "sys/class/drm/card0/device/vendor": "0x10de\n",
        },
    )
    assert gpus.read(server) == [{"name": "NVIDIA A2", "vendor": "nvidia", "memory": None}]


@pytest.mark.parametrize("probe", [cpu, memory, disks, gpus, battery, k3s, system])
def test_an_empty_tree_is_silence_with_a_reason(probe: Any, tmp_path: Path) -> None:
    with pytest.raises(Silent) as said:
        probe.read(tmp_path)
    assert str(said.value)


def test_samples_nothing_of_an_empty_tree(tmp_path: Path) -> None:
    assert Sampler(tmp_path).sample() == {}


def test_reads_this_machine(tmp_path: Path) -> None:
    assert cpu.read(HERE)["cores"] == len(os.sched_getaffinity(0))
    assert memory.read(HERE)["total"] == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert cpu.read(HERE)["arch"] == os.uname().machine
    assert system.read(HERE)["kernel"] == os.uname().release
    assert identity.read(HERE, tmp_path) == identity.read(HERE, tmp_path)
    try:
        found = addresses.read(HERE)
    except Silent:
        found = []
    assert not [entry for entry in found if entry["address"].startswith("127.")]
    try:
        devices = [disk["device"] for disk in disks.read(HERE)]
    except Silent:
        devices = []
    assert len(devices) == len(set(devices))


def test_makes_an_id_where_the_machine_has_none(tmp_path: Path) -> None:
    empty = tree(tmp_path / "root", {"etc/machine-id": "uninitialized\n"})
    tree(empty, {"sys/class/dmi/id/product_uuid": "00000000-0000-0000-0000-000000000000\n"})
    first = identity.read(empty, tmp_path / "data")
    assert first == identity.read(empty, tmp_path / "data")
    assert first != identity.read(empty, tmp_path / "elsewhere")


def test_offers_the_runtimes_that_it_can_run() -> None:
    found, silent = runtimes.read(HERE)
    names = [runtime["name"] for runtime in found]
    assert names[0] == "process"
    for name in ("container", "vm", "unikernel"):
        assert (name in names) != (f"runtimes.{name}" in silent)
    assert ("container" in names) <= (programs.find("runc") is not None and os.geteuid() == 0)


def test_tries_kvm_by_running_it() -> None:
    works, reason = kvm.available()
    assert reason
    if not Path("/dev/kvm").exists():
        assert not works
    _, silent = runtimes.read(HERE)
    assert works or "runtimes.kvm" in silent or "runtimes.vm" in silent


def test_a_program_that_hangs_or_fails_is_left_out(tmp_path: Path) -> None:
    for name, body in {
        "hangs": "exec sleep 60",
        "fails": "echo 1.2.3; exit 1",
        "says": "echo v4.5.6-rc1",
    }.items():
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\nexec 2>&1\n{body}\n")
        program.chmod(0o755)
    assert programs.output([str(tmp_path / "hangs")], timeout=0.2) is None
    assert programs.version([str(tmp_path / "fails")]) is None
    assert programs.version([str(tmp_path / "says")]) == "4.5.6-rc1"
    assert programs.version(["no-such-program"]) is None
    assert set(software.read(software.commands(["git", "no-such-program"]))) <= {"git"}


def test_a_charge_is_no_change_but_a_new_disk_is() -> None:
    before = {"battery": {"charge": 80.0, "plugged": True}, "disks": [1], "k3s": None}
    assert changed(before, {"battery": {"charge": 20.0, "plugged": True}, "disks": [1], "k3s": None}) == []
    assert changed(before, {"battery": {"charge": 80.0, "plugged": False}, "disks": [1, 2], "k3s": None}) == [
        "battery",
        "disks",
    ]
