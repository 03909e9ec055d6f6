"""Brokers of several miniclouds on loopback, joined by a link as two sites would join theirs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bus.broker import Broker, BrokerSettings, Join
from bus.credentials import Credentials
from tests.bus.clients import wait_until


def linked(broker: Broker, count: int = 1) -> bool:
    """Whether so many links of the broker stand."""
    return int(broker.monitor("leafz")["leafnodes"]) == count


@contextmanager
def sites(folder: Path, hub: str, *others: str) -> Iterator[dict[str, Broker]]:
    """A running broker a minicloud, the others joined to the hub."""
    brokers: dict[str, Broker] = {}
    try:
        known = Credentials(folder / hub, hub)
        known.ensure("minicloud", hub)
        brokers[hub] = Broker(folder / hub, BrokerSettings(name=hub, leaf_port=0))
        brokers[hub].start()
        for name in others:
            Credentials(folder / name, name).ensure("minicloud", name)
            there = known.add("minicloud", name)
            join = Join(brokers[hub].leaf_url, there.user, there.password)
            brokers[name] = Broker(folder / name, BrokerSettings(name=name, join=(join,)))
            brokers[name].start()
        wait_until(lambda: linked(brokers[hub], len(others)), "all links stand")
        yield brokers
    finally:
        for broker in reversed(brokers.values()):
            broker.stop()
