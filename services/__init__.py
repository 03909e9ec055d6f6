"""The services: each a view over the log, none importing another."""
