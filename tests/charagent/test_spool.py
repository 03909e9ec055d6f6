"""The spool: bounded, in order, whole after a kill."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.charagent.spool import Spool

LIMIT = 64 * 1024


def drained(spool: Spool) -> list[bytes]:
    """Every payload that waits, acknowledged one by one."""
    found = []
    while (event := spool.read()) is not None:
        found.append(event.payload)
        spool.acknowledge(event.sequence)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def test_gives_back_what_came_in_order(folder: Path) -> None:
    spool = Spool(folder, LIMIT)
    payloads = [b'{"n": %d}' % n for n in range(3000)]
    for payload in payloads[:1000]:
        spool.append("mc/home/node/a/metrics", payload)
    assert len(spool) == 1000
    assert drained(spool) == payloads[:1000]
    assert len(spool) == 0
    assert spool.size == 0
    for payload in payloads[1000:2000]:
        spool.append("mc/home/node/a/metrics", payload)
    assert drained(spool) == payloads[1000:2000]
    assert spool.dropped == 0


def test_survives_the_death_of_its_process(folder: Path) -> None:
    before = Spool(folder, LIMIT)
    for n in range(300):
        before.append("t", b"%d" % n)
    for _ in range(200):
        event = before.read()
        assert event is not None
        before.acknowledge(event.sequence)
    # No close: what a kill -9 leaves. Positions are written every 64 acknowledgements: repeats, no gaps.
    found = drained(Spool(folder, LIMIT))
    assert found[-1] == b"299"
    assert found == [b"%d" % n for n in range(int(found[0]), 300)]
    assert 136 <= int(found[0]) <= 200


def test_cuts_off_a_line_that_was_never_finished(folder: Path) -> None:
    spool = Spool(folder, LIMIT)
    for n in range(3):
        spool.append("t", b"%d" % n)
    (segment,) = folder.glob("*.events")
    with segment.open("ab") as file:
        file.write(b"12345678 t half of a li")
    again = Spool(folder, LIMIT)
    again.append("t", b"3")
    assert drained(again) == [b"0", b"1", b"2", b"3"]


def test_skips_and_counts_a_line_that_was_damaged(folder: Path) -> None:
    spool = Spool(folder, LIMIT)
    for n in range(3):
        spool.append("t", b"event %d" % n)
    (segment,) = folder.glob("*.events")
    segment.write_bytes(segment.read_bytes().replace(b"event 1", b"event X"))
    again = Spool(folder, LIMIT)
    assert drained(again) == [b"event 0", b"event 2"]
    assert again.dropped == 1


def test_drops_the_oldest_first_counts_them_and_keeps_its_bound(folder: Path) -> None:
    spool = Spool(folder, LIMIT)
    payloads = [b"%06d" % n + b"x" * 200 for n in range(1000)]
    for payload in payloads:
        spool.append("t", payload)
        assert sum(file.stat().st_size for file in folder.glob("*.events")) <= LIMIT
    found = drained(spool)
    assert found == payloads[-len(found) :]
    assert spool.dropped == 1000 - len(found)
    assert len(found) > 200  # 64 KiB hold about 290; an eighth goes at a time
    spool.close()
    assert Spool(folder, LIMIT).dropped == spool.dropped


def test_reads_again_what_was_not_acknowledged(folder: Path) -> None:
    spool = Spool(folder, LIMIT)
    for n in range(10):
        spool.append("t", b"%d" % n)
    read = [spool.read() for _ in range(6)]
    assert read[2] is not None
    spool.acknowledge(read[2].sequence)
    spool.rewind()
    assert drained(spool) == [b"%d" % n for n in range(3, 10)]


def test_takes_in_while_it_gives_out(folder: Path) -> None:
    spool = Spool(folder, LIMIT)
    found = []
    for n in range(2000):
        spool.append("t", b"%d" % n)
        if n % 3:
            event = spool.read()
            assert event is not None
            found.append(event.payload)
            spool.acknowledge(event.sequence)
    assert found + drained(spool) == [b"%d" % n for n in range(2000)]


def test_drops_what_was_read_but_not_acknowledged_without_confusion(folder: Path) -> None:
    spool = Spool(folder, LIMIT)
    for n in range(600):
        spool.append("t", b"%06d" % n + b"x" * 100)
    early = spool.read()
    assert early is not None
    for n in range(600, 1200):
        spool.append("t", b"%06d" % n + b"x" * 100)
    spool.acknowledge(early.sequence)
    found = [int(payload[:6]) for payload in drained(spool)]
    assert found == list(range(found[0], 1200))
    assert found[0] > 0


def test_refuses_an_event_larger_than_a_segment(folder: Path) -> None:
    spool = Spool(folder, LIMIT)
    spool.append("t", b"x" * LIMIT)
    assert len(spool) == 0
    assert spool.dropped == 1
