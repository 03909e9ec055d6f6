"""The road of Minicloud: connect, publish, subscribe, consume, request and watch.

Services meet here and nowhere else. The room also holds the MQTT side, the embedded broker with
its credentials, and the frame that every service runs in.
"""

from bus import lean as lean  # before anybody's own `import structlog`
