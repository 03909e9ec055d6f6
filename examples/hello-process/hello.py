"""Says hello over HTTP: the smallest process workload.

In come HOST, PORT and GREETING from the environment; out come a page at ``/`` and ``ok`` at ``/healthz``.
SIGTERM ends it once the requests in progress are answered. Standard library only.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

STARTED = time.monotonic()
GREETING = os.environ.get("GREETING", "hello")


class Hello(BaseHTTPRequestHandler):
    """One request; ``requests`` counts those of all."""

    timeout = 10  # seconds that a client may be silent, also while we end
    requests = 0
    counting = threading.Lock()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/healthz":
            self._answer(200, "ok\n")
        elif path == "/":
            with Hello.counting:
                Hello.requests += 1
                count = Hello.requests
            up = time.monotonic() - STARTED
            self._answer(200, f"{GREETING} from a process: request {count}, up {up:.2f} s\n")
        else:
            self._answer(404, "not found; there are / /healthz\n")

    def _answer(self, status: int, page: str) -> None:
        body = page.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Nothing: health probes would fill the log."""


class Server(ThreadingHTTPServer):
    daemon_threads = False  # closing waits for the requests in progress
    request_queue_size = 128


def main() -> None:
    address = os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", "8080"))
    with Server(address, Hello) as server:

        def stop(*_: object) -> None:
            # shutdown() waits for the loop that this handler interrupts: it needs a thread of its own.
            threading.Thread(target=server.shutdown).start()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        print(f"hello: serving http://{address[0]}:{server.server_port}/", flush=True)
        server.serve_forever(poll_interval=0.1)
    print("hello: stopped", flush=True)


if __name__ == "__main__":
    main()
