"""Made-up metrics that behave: each value wanders about what is usual for its machine, none jumps.

In: a machine of the catalogue. Out, a call: the values of one sample, as an agent's ``metrics.py`` names
them.
"""

from __future__ import annotations

import math
import random
from typing import Any, Final

from minicloud.hardware import Model

_LATENCY: Final = {"sd": 0.008, "hdd": 0.006, "ssd": 0.0006, "nvme": 0.00015}  # seconds an operation


class Walk:
    """The state of one simulated machine.

    Args:
        rng: where chance comes from.
        model: what it is.
        characterization: its sizes.
        interval: seconds between two samples; slower sampling makes longer steps.
    """

    def __init__(
        self, rng: random.Random, model: Model, characterization: dict[str, Any], interval: float
    ) -> None:
        self._rng = rng
        self._model = model
        self._interval = interval
        self._cores = model.cores
        self._memory = characterization["memory"]["total"]
        self._disk = sum(disk["total"] for disk in characterization["disks"])
        self._latency = _LATENCY.get(characterization["disks"][0]["kind"], 0.001)
        self._battery = characterization["battery"]
        self._usual = min(90.0, max(1.0, rng.gauss(model.busy, model.busy / 3)))
        self._used = self._usual
        self._loads = [self._usual / 100 * self._cores] * 3
        self._occupied = rng.uniform(0.2, 0.6)
        self._full = rng.uniform(0.15, 0.8)
        self._traffic = math.exp(rng.gauss(9.5, 1.2))  # about 13 kB/s, some a hundred times that
        self._heat = model.idle + self._used * 0.25
        self._charge = rng.uniform(30.0, 100.0)

    def step(self) -> dict[str, float]:
        """The next sample."""
        rng, seconds = self._rng, self._interval
        # Mean-reverting over about a minute, with a rare burst of work.
        pull = min(1.0, seconds / 60)
        self._used += pull * (self._usual - self._used) + rng.gauss(0, 3.0) * math.sqrt(
            min(seconds, 10.0) / 5
        )
        if rng.random() < 0.004 * seconds / 5:
            self._used += rng.uniform(20, 60)
        self._used = min(100.0, max(0.3, self._used))
        running = self._used / 100 * self._cores
        for position, minutes in enumerate((1, 5, 15)):
            # As the kernel makes them: exponentially damped (kernel/sched/loadavg.c).
            kept = math.exp(-seconds / (60 * minutes))
            self._loads[position] = self._loads[position] * kept + running * (1 - kept)
        self._occupied = min(0.95, max(0.08, self._occupied + rng.gauss(0, 0.003)))
        self._full = min(0.97, max(0.05, self._full + rng.gauss(0.00002, 0.0002)))
        traffic = self._traffic * math.exp(rng.gauss(0, 0.4)) * (0.5 + self._used / 50)
        values = {
            "cpu.used": round(self._used, 2),
            "cpu.free": round(self._cores - running, 3),
            "load.1m": round(self._loads[0], 2),
            "load.5m": round(self._loads[1], 2),
            "load.15m": round(self._loads[2], 2),
            "memory.available": int(self._memory * (1 - self._occupied)),
            "disk.free": int(self._disk * (1 - self._full)),
            "disk.latency": round(self._latency * math.exp(rng.gauss(0, 0.3)) * (1 + self._used / 100), 6),
            "network.rx": round(traffic, 1),
            "network.tx": round(traffic * 0.4, 1),
        }
        if self._model.idle:
            self._heat += min(1.0, seconds / 30) * (self._model.idle + self._used * 0.25 - self._heat)
            values["temperature"] = round(self._heat + rng.gauss(0, 0.2), 1)
        if self._battery:
            drift = 0.004 if self._battery["plugged"] else -0.003  # per cent a second
            self._charge = min(100.0, max(5.0, self._charge + drift * seconds))
            values["battery.charge"] = round(self._charge, 1)
        return values
