"""The front door: the ``minicloud`` command, the embedded stack and the client for users."""
