"""The bus beside nats-py alone and FastStream: live events, durable ones, and publishing, on one broker.

Every receiver and every sender has a process of its own, and every message is checked: it came once, in
order and whole. nats-py alone only moves bytes; the bus and FastStream read each into a typed event.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import multiprocessing
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any, Final

from bench import contenders, load
from bench.contenders import Receiver, nats_client
from bench.figures import WrongAnswer, check, goal, say, table
from bench.load import Place, Tally, message
from bus.broker import Broker
from bus.bus import Bus, gather_published
from bus.credentials import Credentials
from bus.frame import configure_logs
from bus.port import Endpoint
from tests.parts.nats_server import NatsServer

LIVE: Final = {
    "Bus.subscribe": contenders.bus_subscribe,
    "nats-py, callback, bytes": contenders.natspy_subscribe,
    "FastStream, typed": contenders.faststream_subscribe,
}
DURABLE: Final = {
    "Bus.consume": contenders.bus_consume,
    "nats-py, fetch + ack, bytes": contenders.natspy_consume,
    "FastStream, pull, typed": contenders.faststream_consume,
}
_IN_FLIGHT: Final = 2000
_processes = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Figure:
    """What one run took.

    Attributes:
        rate: messages a second.
        cpu: microseconds of CPU a message, of the process that is measured.
    """

    rate: float
    cpu: float


def main(count: int = 100_000, rounds: int = 3) -> dict[str, float]:
    """Measure everything, print the tables; the figures by name."""
    configure_logs("error", "text")
    with tempfile.TemporaryDirectory() as folder, NatsServer().start(Path(folder)) as broker:
        live = _best(LIVE, rounds, lambda receiver: _live(_place(broker, "live"), receiver, count))
        stored = _place(broker, "stored")
        publish = asyncio.run(_publishing(stored, count))
        durable = _best(DURABLE, rounds, lambda receiver: _durable(stored, receiver, count))
    size = len(message(0).to_json())
    print(f"{count} events of {size} bytes; best of {rounds} rounds; all came once, in order and whole\n")
    _show("received live", live)
    _show("consumed with acknowledgements", durable)
    _show("published, stored and acknowledged", publish)
    ratio = live["Bus.subscribe"].rate / live["FastStream, typed"].rate
    print("On a machine that others use too, messages a CPU second tell more than messages a second.")
    goal("typed messages received a second", live["Bus.subscribe"].rate, lambda v: v >= 1e5, ">= 100000")
    goal("times FastStream", ratio, lambda v: v >= 5, ">= 5")
    goal("consumed with acks a second", durable["Bus.consume"].rate, lambda v: v >= 8e4, ">= 80000")
    return {
        "received/s": live["Bus.subscribe"].rate,
        "received us": live["Bus.subscribe"].cpu,
        "times FastStream": ratio,
        "consumed/s": durable["Bus.consume"].rate,
        "consumed us": durable["Bus.consume"].cpu,
        "published/s": publish["Bus.publish, gathered"].rate,
    }


def _place(broker: Broker, minicloud: str) -> Place:
    who = Credentials(broker.data).ensure("admin", "bench")
    return Place(Endpoint(broker.url, who.user, who.password, who.inbox_prefix, "bench"), minicloud)


def _best(
    receivers: dict[str, Receiver], rounds: int, measure: Callable[[Receiver], Figure]
) -> dict[str, Figure]:
    """The fastest of some rounds, taken in turn so that a busy moment hits nobody alone."""
    best: dict[str, Figure] = {}
    for number in range(rounds):
        for name, receiver in receivers.items():
            figure = measure(receiver)
            say(f"round {number + 1}: {name}: {figure.rate:,.0f} messages/s, {figure.cpu:.1f} us CPU each")
            if name not in best or figure.rate > best[name].rate:
                best[name] = figure
    return best


def _live(place: Place, receiver: Receiver, count: int) -> Figure:
    """A sender and a receiver, each in its process."""
    progress = _processes.Value("q", -1, lock=False)
    sender = _processes.Process(target=load.send, args=(place, count, progress))
    sender.start()
    try:
        return _received(place, receiver, count, progress)
    finally:
        sender.terminate()
        sender.join()


def _durable(place: Place, receiver: Receiver, count: int) -> Figure:
    """A receiver that finds everything stored; the broker must have every acknowledgement in the end."""
    figure = _received(place, receiver, count, _processes.Value("q", -1, lock=False))
    asyncio.run(_acknowledged(place, count))
    return figure


def _received(place: Place, receiver: Receiver, count: int, progress: Synchronized[int]) -> Figure:
    ours, theirs = _processes.Pipe()
    process = _processes.Process(target=_receive, args=(place, receiver, count, progress, theirs))
    process.start()
    try:
        theirs.close()
        try:
            said = ours.recv()
        except EOFError:
            raise WrongAnswer(f"{receiver.__name__} died") from None
    finally:
        process.join(10)
        process.kill()
    if isinstance(said, str):
        raise WrongAnswer(f"{receiver.__name__}: {said}")
    seconds, cpu = said
    return Figure(count / seconds, cpu / count * 1e6)


def _receive(place: Place, receiver: Receiver, count: int, progress: Synchronized[int], answer: Any) -> None:
    """In the receiver's process: receive, check, tell what it took."""
    configure_logs("error", "text")

    async def run() -> Tally:
        tally = Tally(count, progress)
        await receiver(place, tally)
        return tally

    tally = asyncio.run(run())
    try:
        tally.verify()
    except WrongAnswer as error:
        answer.send(str(error))
    else:
        answer.send((tally.seconds, tally.cpu))


async def _acknowledged(place: Place, count: int) -> None:
    """No consumer has anything left; it goes, so that the next round begins anew."""
    async with await Bus.connect(place.endpoint, place.minicloud, "bench") as bus:
        stream = f"{place.minicloud}_metrics"
        for name in (await bus.jetstream.api(f"CONSUMER.NAMES.{stream}"))["consumers"]:
            for _ in range(100):
                info = await bus.jetstream.api(f"CONSUMER.INFO.{stream}.{name}")
                if info["num_ack_pending"] == 0:
                    break
                await asyncio.sleep(0.05)
            floor = info["ack_floor"]["consumer_seq"]
            check(
                (info["num_ack_pending"], info["num_redelivered"], floor) == (0, 0, count),
                f"{name}: {floor} acknowledged of {count}, {info['num_redelivered']} delivered again",
            )
            await bus.jetstream.api(f"CONSUMER.DELETE.{stream}.{name}")


async def _publishing(place: Place, count: int) -> dict[str, Figure]:
    """Fill the stream by ``Bus.publish``; nats-py's ``await js.publish`` writes a tenth beside it."""
    figures: dict[str, Figure] = {}
    async with await Bus.connect(place.endpoint, place.minicloud, "bench") as bus:
        await bus.ensure_streams()
        events = [message(number) for number in range(count)]
        gc.freeze()  # what we prepared is no rubbish that a publish makes

        async def gathered() -> None:
            for at in range(0, count, _IN_FLIGHT):
                await gather_published(
                    [bus.publish(place.subject, one) for one in events[at : at + _IN_FLIGHT]]
                )

        figures["Bus.publish, gathered"] = await _timed(gathered(), count)
        state = (await bus.jetstream.api(f"STREAM.INFO.{place.minicloud}_metrics"))["state"]
        check(state["messages"] == count, f"{state['messages']} stored of {count}")
        client = await nats_client(place)
        stream = client.jetstream()
        other = replace(place, minicloud="beside")
        await bus.jetstream.ensure_streams(other.minicloud)
        few = [(one.to_json(), {"Nats-Msg-Id": one.id}) for one in events[: count // 10]]

        async def one_by_one() -> None:
            for payload, headers in few:
                await stream.publish(other.subject, payload, headers=headers)

        figures["nats-py, await js.publish"] = await _timed(one_by_one(), len(few))
        await client.close()
    return figures


async def _timed(work: Awaitable[None], count: int) -> Figure:
    wall, cpu = time.perf_counter(), time.process_time()
    await work
    return Figure(count / (time.perf_counter() - wall), (time.process_time() - cpu) / count * 1e6)


def _show(title: str, figures: dict[str, Figure]) -> None:
    ours = next(iter(figures.values()))
    table(
        [title, "messages/s", "us CPU each", "messages/CPU s", "bus / this, rate", "this / bus, CPU"],
        [
            [
                name,
                f"{figure.rate:,.0f}",
                f"{figure.cpu:.1f}",
                f"{1e6 / figure.cpu:,.0f}",
                f"{ours.rate / figure.rate:.2f}",
                f"{figure.cpu / ours.cpu:.2f}",
            ]
            for name, figure in figures.items()
        ],
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    main(options.count, options.rounds)
