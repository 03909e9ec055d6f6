"""On every node: what the node is, how it does, and that it is there.

In: ``/proc``, ``/sys``, a few programs' versions and the settings. Out: characterization, metrics and
presence over MQTT (seed 3.4). The agent is small: what it imports is counted, see ``lean.py``.
"""

from typing import Final

VERSION: Final = "0.1.0"
