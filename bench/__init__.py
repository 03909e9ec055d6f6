"""Benchmarks, each beside its peer in the same run; the real parts are those of the tests."""
