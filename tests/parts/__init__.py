"""The real parts that tests and benchmarks run against; README.md says how to add one."""
