"""Windows over metrics against brute force, in whatever order the samples come."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.attributes import WINDOWS
from services.monitor.windows import MINUTE, SLOTS, Figures, Windows

START = 1_700_000_000.0


def brute_force(samples: list[tuple[float, float]], minutes: int, now: float) -> Figures | None:
    """What a window says, by its words: the minute at hand and so many before."""
    oldest = now // MINUTE - minutes
    inside = sorted((at, value) for at, value in samples if oldest <= at // MINUTE <= now // MINUTE)
    if not inside:
        return None
    values = [value for _, value in inside]
    passed = inside[-1][0] - inside[0][0]
    rate = (inside[-1][1] - inside[0][1]) / passed if passed > 0 else None
    return Figures(math.fsum(values) / len(values), max(values), rate, len(values))


samples_in_any_order = st.lists(
    st.tuples(
        st.integers(0, int(40 * MINUTE * 8)).map(lambda eighths: START + eighths / 8),
        st.floats(-1e12, 1e12).map(lambda value: round(value, 3)),
    ),
    max_size=120,
    unique_by=lambda sample: sample[0],
)


@given(samples_in_any_order, st.integers(0, 600))
def test_every_window_is_what_brute_force_says(samples: list[tuple[float, float]], later: int) -> None:
    windows = Windows()
    for at, value in samples:
        windows.add("a", at, {"load.1m": value})
    now = max((at for at, _ in samples), default=START) + later
    for window, minutes in WINDOWS.items():
        found = dict(windows.of("a", window, now)).get("load.1m")
        expected = brute_force(samples, minutes, now)
        if expected is None:
            assert found is None
            continue
        assert found is not None
        assert found.samples == expected.samples
        assert found.maximum == expected.maximum
        assert found.mean == pytest.approx(expected.mean, rel=1e-9, abs=1e-3)
        assert found.rate == (expected.rate if expected.rate is None else pytest.approx(expected.rate))
        assert windows.mean("a", "load.1m", window, now) == found.mean


def test_metrics_that_no_window_holds_any_more_are_let_go() -> None:
    windows = Windows()
    windows.add("a", START, {"load.1m": 1.0})
    windows.add("b", START + SLOTS * MINUTE, {"load.1m": 1.0})
    windows.sweep(START + SLOTS * MINUTE + 1)
    assert windows.mean("a", "load.1m", "15m", START) is None
    assert windows.mean("b", "load.1m", "15m", START + SLOTS * MINUTE) == 1.0
