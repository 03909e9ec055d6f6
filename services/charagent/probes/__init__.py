"""One module a probe: ``read(root)`` returns what it found below ``root``, or raises :class:`Silent`.

``root`` is ``/`` on a node and a recorded tree in tests, so that a Raspberry Pi can be read anywhere.
"""
