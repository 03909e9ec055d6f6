"""The manual. Its reference is generated: ``python -m docs.generate``."""
