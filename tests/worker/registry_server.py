"""A registry for tests: the pull half of the OCI distribution specification over a layout on disk.

It asks for a bearer token, which it gives out itself, and can send blobs from elsewhere by redirect.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit


class RegistryServer:
    """Serves ``<host>/<name>`` from a layout while the block lasts."""

    def __init__(self, layout: Path, name: str = "team/hello", *, redirect: bool = False) -> None:
        self.requests: list[str] = []
        self.strangers: list[str] = []
        self.corrupt = False
        index = json.loads((layout / "index.json").read_text())["manifests"]
        tags = {
            entry.get("annotations", {}).get("org.opencontainers.image.ref.name"): entry for entry in index
        }
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                """Quiet."""

            def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self) -> None:
                url = urlsplit(self.path)
                server.requests.append(url.path)
                if url.path == "/token":
                    scope = parse_qs(url.query).get("scope")
                    self.answer(200, json.dumps({"token": f"may {scope}"}).encode())
                    return
                if url.path.startswith("/elsewhere/"):
                    if "Authorization" in self.headers:
                        server.strangers.append(self.headers["Authorization"])
                    self.blob(url.path.rpartition("/")[2], "application/octet-stream")
                    return
                wanted = f"repository:{name}:pull"
                if self.headers.get("Authorization") != f"Bearer may {[wanted]}":
                    challenge = f'Bearer realm="http://{server.host}/token",service="test",scope="{wanted}"'
                    self.answer(401, WWW_Authenticate=challenge)
                    return
                prefix = f"/v2/{name}/"
                kind, _, reference = url.path.removeprefix(prefix).partition("/")
                digest = reference.removeprefix("sha256:")
                if not url.path.startswith(prefix):
                    self.answer(404)
                elif kind == "manifests" and reference in tags:
                    self.blob(tags[reference]["digest"][7:], tags[reference]["mediaType"])
                elif kind == "blobs" and redirect:
                    self.answer(307, Location=f"http://localhost:{server.port}/elsewhere/{digest}")
                elif reference.startswith("sha256:"):
                    self.blob(digest, "application/vnd.oci.image.manifest.v1+json")
                else:
                    self.answer(404)

            def blob(self, digest: str, kind: str) -> None:
                file = layout / "blobs/sha256" / digest
                if not file.is_file():
                    self.answer(404)
                    return
                body = file.read_bytes()
                wrong = server.corrupt and "/blobs/" in self.path
                self.answer(200, body[::-1] if wrong else body, Content_Type=kind)

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._http.server_address[1]
        self.host = f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
