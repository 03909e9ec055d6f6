"""A catalogue of believable machines: what small boards, PCs, cloud VMs and edge servers are made of.

In: a seeded random generator. Out: the characterization of a machine that somebody could own, and the
habits (idle temperature, usual load) that its made-up metrics follow. The figures are the makers' own.
"""

from __future__ import annotations

import hashlib
import ipaddress
import random
from typing import Any, Final, NamedTuple

from services.charagent import VERSION, event

GIB: Final = 1024**3


class Model(NamedTuple):
    """A kind of machine.

    Attributes:
        name: how people call it; becomes the label ``model``.
        weight: how often it is met, relative to the others.
        arch: machine name of the kernel.
        bits: word size.
        cores: logical ones.
        processor: its model name.
        memory: sizes that are sold, GiB.
        disks: ``(device, kind, sizes in decimal GB)``.
        systems: ``(name, version, kernel)``.
        gpu: ``(name, vendor, memory in GiB or None)``.
        interface: its network interface.
        runtimes: names of what it offers.
        idle: degrees Celsius at rest; 0 for none to be read.
        busy: per cent of CPU that it hovers about.
        accelerated: whether KVM runs on it.
        battery: whether it has one.
    """

    name: str
    weight: int
    arch: str
    bits: int
    cores: int
    processor: str
    memory: tuple[float, ...]
    disks: tuple[tuple[str, str, tuple[int, ...]], ...]
    systems: tuple[tuple[str, str, str], ...]
    gpu: tuple[str, str, int | None] | None
    interface: str
    runtimes: tuple[str, ...]
    idle: float
    busy: float
    accelerated: bool = False
    battery: bool = False


_PI_SYSTEMS: Final = (
    ("raspbian", "11", "5.15.84-v7+"),
    ("raspbian", "12", "6.1.21-v7+"),
)
_PI64_SYSTEMS: Final = (
    ("debian", "12", "6.6.31+rpt-rpi-v8"),
    ("ubuntu", "24.04", "6.8.0-1013-raspi"),
)
_PC_SYSTEMS: Final = (
    ("debian", "12", "6.1.0-28-amd64"),
    ("ubuntu", "22.04", "5.15.0-122-generic"),
    ("ubuntu", "24.04", "6.8.0-47-generic"),
)
_SD: Final = ("/dev/mmcblk0p2", "sd", (16, 32, 64))


def _nvme(*sizes: int) -> tuple[str, str, tuple[int, ...]]:
    return "/dev/nvme0n1p2", "nvme", sizes


def _hdd(*sizes: int) -> tuple[str, str, tuple[int, ...]]:
    return "/dev/sda1", "hdd", sizes


_ALL: Final = ("process", "container", "vm", "unikernel")
_SMALL: Final = ("process", "container")

MODELS: Final = (
    Model("raspberry-pi-3b", 14, "armv7l", 32, 4, "Raspberry Pi 3 Model B Rev 1.2", (1,),
          (_SD,), _PI_SYSTEMS, None, "wlan0", _SMALL, 48.0, 22.0),
    Model("raspberry-pi-4b", 22, "aarch64", 64, 4, "Raspberry Pi 4 Model B Rev 1.4", (2, 4, 8),
          (_SD,), _PI64_SYSTEMS, None, "eth0", _ALL, 45.0, 20.0, accelerated=True),
    Model("raspberry-pi-5", 14, "aarch64", 64, 4, "Raspberry Pi 5 Model B Rev 1.0", (4, 8, 16),
          (_nvme(256, 512),), _PI64_SYSTEMS, None, "eth0", _ALL, 50.0, 18.0, accelerated=True),
    Model("jetson-orin-nano", 6, "aarch64", 64, 6, "NVIDIA Jetson Orin Nano Developer Kit", (8,),
          (_nvme(256, 500),), (("ubuntu", "22.04", "5.15.136-tegra"),),
          ("NVIDIA Jetson Orin Nano GPU", "nvidia", None), "eth0", _SMALL, 47.0, 35.0),
    Model("intel-nuc", 12, "x86_64", 64, 8, "11th Gen Intel(R) Core(TM) i5-1135G7 @ 2.40GHz", (8, 16, 32),
          (_nvme(250, 500, 1000),), _PC_SYSTEMS, ("Intel Iris Xe Graphics", "intel", None),
          "enp89s0", _ALL, 40.0, 15.0, accelerated=True),
    Model("desktop-pc", 10, "x86_64", 64, 12, "AMD Ryzen 5 5600X 6-Core Processor", (16, 32),
          (_nvme(500, 1000), _hdd(2000, 4000)), _PC_SYSTEMS, ("NVIDIA GeForce RTX 3060", "nvidia", 12),
          "enp5s0", _ALL, 38.0, 10.0, accelerated=True),
    Model("laptop", 6, "x86_64", 64, 8, "Intel(R) Core(TM) i7-8650U CPU @ 1.90GHz", (8, 16),
          (_nvme(256, 512),), _PC_SYSTEMS, ("Intel UHD Graphics 620", "intel", None),
          "wlp2s0", _ALL, 44.0, 12.0, accelerated=True, battery=True),
    Model("cloud-vm", 12, "x86_64", 64, 2, "Intel(R) Xeon(R) Platinum 8370C CPU @ 2.80GHz", (4, 8),
          (("/dev/sda1", "ssd", (30, 64, 128)),), _PC_SYSTEMS, None, "eth0", _ALL, 0.0, 25.0),
    Model("edge-server", 4, "x86_64", 64, 32, "AMD EPYC 7313P 16-Core Processor", (64, 128),
          (_nvme(960, 1920), _hdd(8000, 16000)), _PC_SYSTEMS, ("NVIDIA A2", "nvidia", 16),
          "eno1", _ALL, 42.0, 40.0, accelerated=True),
)  # fmt: skip

REGIONS: Final = (
    ("GR", "Athens"), ("GR", "Thessaloniki"), ("IT", "Pisa"), ("IT", "Milan"), ("FR", "Paris"),
    ("FR", "Lyon"), ("DE", "Berlin"), ("DE", "Munich"), ("ES", "Barcelona"), ("ES", "Madrid"),
    ("PT", "Lisbon"), ("NL", "Amsterdam"), ("FI", "Helsinki"), ("SE", "Stockholm"), ("PL", "Warsaw"),
    ("CZ", "Prague"), ("AT", "Vienna"), ("IE", "Dublin"), ("CY", "Nicosia"), ("SI", "Ljubljana"),
)  # fmt: skip

_PYTHONS: Final = {"11": "3.9.2", "12": "3.11.2", "22.04": "3.10.12", "24.04": "3.12.3"}
_OPTIONAL: Final = {"docker": ("24.0.7", "27.3.1"), "ffmpeg": ("5.1.6", "6.1.1"), "git": ("2.39.5", "2.43.0")}


def machine(rng: random.Random, index: int, minicloud: str, node: str) -> tuple[Model, dict[str, Any]]:
    """A machine of the catalogue and its characterization, as an agent on it would send it.

    Args:
        rng: where its particulars come from; the same state gives the same machine.
        index: its number in the fleet, for an address of its own.
        minicloud: token of the minicloud.
        node: token of the node.
    """
    (model,) = rng.choices(MODELS, [each.weight for each in MODELS])
    country, city = rng.choice(REGIONS)
    system, version, kernel = rng.choice(model.systems)
    memory = rng.choice(model.memory)
    offered = [_runtime(name, model, kernel) for name in model.runtimes]
    return model, {
        "node": node,
        "id": hashlib.blake2b(f"{minicloud}/{node}/{rng.random()}".encode(), digest_size=16).hexdigest(),
        "minicloud": minicloud,
        "agent": {"version": VERSION},
        "addresses": [
            {
                "interface": model.interface,
                "family": "ipv4",
                "address": str(ipaddress.ip_address("10.64.0.0") + index + 1),
            }
        ],
        "cpu": {"arch": model.arch, "bits": model.bits, "cores": model.cores, "model": model.processor},
        # The firmware keeps a few per cent for itself, as /proc/meminfo shows on every machine.
        "memory": {"total": int(memory * GIB * rng.uniform(0.93, 0.98)) // 4096 * 4096},
        "disks": [_disk(rng, position, *disk) for position, disk in enumerate(model.disks)],
        "gpus": [_gpu(*model.gpu)] if model.gpu else [],
        "battery": {"charge": 80.0, "plugged": rng.random() < 0.7} if model.battery else None,
        "os": {"name": system, "version": version, "kernel": kernel},
        "k3s": {"role": "agent"} if "container" in model.runtimes and rng.random() < 0.15 else None,
        "region": {"country": country, "city": city},
        "rack": f"{city.lower()}-{rng.randrange(1, 5)}" if model.name == "edge-server" else None,
        "labels": {"simulated": "true", "model": model.name},
        "software": _software(rng, version),
        "runtimes": offered,
        "silent": {} if model.battery else {"battery": "no battery in /sys/class/power_supply"},
        "probed_at": event.now(),
    }


def _disk(
    rng: random.Random, position: int, device: str, kind: str, sizes: tuple[int, ...]
) -> dict[str, Any]:
    # A file system is smaller than what is printed on the box.
    total = int(rng.choice(sizes) * 1_000_000_000 * 0.93) // 4096 * 4096
    return {
        "device": device,
        "mount": "/" if position == 0 else f"/srv/disk{position}",
        "filesystem": "ext4",
        "total": total,
        "kind": kind,
        "read_only": False,
    }


def _gpu(name: str, vendor: str, memory: int | None) -> dict[str, Any]:
    return {"name": name, "vendor": vendor, "memory": None if memory is None else memory * GIB}


def _runtime(name: str, model: Model, kernel: str) -> dict[str, Any]:
    if name == "process":
        return {"name": name, "engine": f"linux {kernel}", "acceleration": None}
    if name == "container":
        return {"name": name, "engine": "runc 1.1.5", "acceleration": None}
    return {"name": name, "engine": "qemu 7.2.13", "acceleration": "kvm" if model.accelerated else "tcg"}


def _software(rng: random.Random, version: str) -> dict[str, str]:
    found = {"python3": _PYTHONS[version]}
    found.update({name: rng.choice(versions) for name, versions in _OPTIONAL.items() if rng.random() < 0.6})
    return found
