"""How the node is doing: one sample of every metric that can be had, in base units (contract, seed Table 1).

Rates are over the time since the sample before, so the first sample has none. A value that cannot be had
is absent.
"""

from __future__ import annotations

import time
from pathlib import Path

from services.charagent.probes import addresses, battery, disks, memory
from services.charagent.probes.silent import Silent, children, number, text

_PROCESSOR_SENSORS = ("cpu", "x86_pkg_temp", "soc", "k10temp", "coretemp", "package", "acpitz")


class Sampler:
    """Counters of the sample before, below one ``root``."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._at = 0.0
        self._cpu: tuple[int, int] | None = None
        self._network: dict[str, tuple[int, int]] = {}
        self._disks: tuple[int, int] | None = None
        self.sample()

    def sample(self) -> dict[str, float]:
        """The values now, by attribute name."""
        moment = time.monotonic()
        passed, self._at = moment - self._at, moment
        values: dict[str, float] = {}
        self._read_cpu(values)
        self._read_load(values)
        self._read_memory(values)
        self._read_disks(values)
        self._read_network(values, passed)
        self._read_temperature(values)
        self._read_battery(values)
        return values

    def _read_cpu(self, values: dict[str, float]) -> None:
        lines = (text(self._root / "proc/stat") or "").splitlines()
        if not lines or not lines[0].startswith("cpu "):
            return
        # user nice system idle iowait irq softirq steal; guest time is inside user already (proc(5))
        ticks = [int(field) for field in lines[0].split()[1:9]]
        now = (sum(ticks), ticks[3] + ticks[4])
        cores = sum(line.startswith("cpu") for line in lines) - 1
        if self._cpu is not None and now[0] > self._cpu[0]:
            idle = max(0.0, min(1.0, (now[1] - self._cpu[1]) / (now[0] - self._cpu[0])))
            values["cpu.used"] = round(100 * (1 - idle), 2)
            values["cpu.free"] = round(idle * cores, 3)
        self._cpu = now

    def _read_load(self, values: dict[str, float]) -> None:
        loads = (text(self._root / "proc/loadavg") or "").split()[:3]
        for minutes, load in zip((1, 5, 15), loads, strict=False):
            values[f"load.{minutes}m"] = float(load)

    def _read_memory(self, values: dict[str, float]) -> None:
        available = memory.fields(self._root).get("MemAvailable")
        if available is not None:
            values["memory.available"] = available

    def _read_disks(self, values: dict[str, float]) -> None:
        mounts = disks.mounts(self._root)
        spaces = [disks.usage(self._root, mount) for mount in mounts if not mount.read_only]
        known = [space for space in spaces if space is not None]
        if known:
            values["disk.free"] = sum(space.f_bavail * space.f_frsize for space in known)
        ours = {mount.number for mount in mounts}
        operations = spent = 0
        for line in (text(self._root / "proc/diskstats") or "").splitlines():
            # major minor name reads . . ms_reading writes . . ms_writing ...  (kernel's iostats.rst)
            fields = line.split()
            if f"{fields[0]}:{fields[1]}" in ours:
                operations += int(fields[3]) + int(fields[7])
                spent += int(fields[6]) + int(fields[10])
        before, self._disks = self._disks, (operations, spent)
        if before is not None and operations > before[0]:
            values["disk.latency"] = round((spent - before[1]) / (operations - before[0]) / 1000, 6)

    def _read_network(self, values: dict[str, float], passed: float) -> None:
        now: dict[str, tuple[int, int]] = {}
        for line in (text(self._root / "proc/net/dev") or "").splitlines()[2:]:
            name, _, counters = line.partition(":")
            fields = counters.split()
            if len(fields) >= 9 and not addresses.is_of_workloads(name.strip()):
                now[name.strip()] = (int(fields[0]), int(fields[8]))
        # By interface, since one that is new brings the bytes of its whole life.
        both = [(now[name], self._network[name]) for name in now if name in self._network]
        if both and passed > 0:
            for position, name in enumerate(("network.rx", "network.tx")):
                grown = sum(max(0, after[position] - before[position]) for after, before in both)
                values[name] = round(grown / passed, 1)
        self._network = now

    def _read_temperature(self, values: dict[str, float]) -> None:
        found = []
        for zone in children(self._root / "sys/class/thermal"):
            if (text(zone / "type") or "").lower().startswith(_PROCESSOR_SENSORS):
                found += [number(zone / "temp")]
        for chip in children(self._root / "sys/class/hwmon") if not found else []:
            if (text(chip / "name") or "").lower().startswith(_PROCESSOR_SENSORS):
                found += [number(sensor) for sensor in children(chip) if sensor.match("temp*_input")]
        known = [value for value in found if value is not None and -40_000 < value < 150_000]
        if known:
            values["temperature"] = round(max(known) / 1000, 1)

    def _read_battery(self, values: dict[str, float]) -> None:
        try:
            charge = battery.read(self._root)["charge"]
        except Silent:
            return
        if charge is not None:
            values["battery.charge"] = charge
