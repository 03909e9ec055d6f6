"""A real Kubernetes for tests; README.md says how it is run and what a test can do with it."""
