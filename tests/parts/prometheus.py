"""Prometheus: what scrapes the monitor's page and is asked back."""

from __future__ import annotations

import base64
import json
import urllib.request
from pathlib import Path
from typing import Any

import bcrypt

from tests.parts.debian import DebianPart
from tests.parts.process import PartProcess, free_port


class Prometheus(DebianPart):
    """``prometheus`` of Debian."""

    def __init__(self, *, use_installed: bool = True) -> None:
        super().__init__("prometheus", ("prometheus",), "usr/bin/prometheus", use_installed=use_installed)

    def start(
        self, folder: Path, scrapes: list[dict[str, Any]], user: str, password: str
    ) -> PrometheusProcess:
        """A running Prometheus on loopback that asks for basic authentication.

        Args:
            folder: for its data and configuration.
            scrapes: its ``scrape_configs``.
            user: who may ask it.
            password: the secret.
        """
        folder.mkdir(exist_ok=True)
        # JSON is YAML.
        quick = {"scrape_interval": "250ms", "scrape_timeout": "250ms"}
        (folder / "prometheus.yml").write_text(json.dumps({"global": quick, "scrape_configs": scrapes}))
        hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()
        (folder / "web.yml").write_text(json.dumps({"basic_auth_users": {user: hashed}}))
        return PrometheusProcess(self.obtain(), folder, free_port(), f"{user}:{password}")


class PrometheusProcess(PartProcess):
    """A running Prometheus.

    Attributes:
        url: where it answers.
    """

    def __init__(self, program: Path, folder: Path, port: int, secret: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        super().__init__(
            [
                program,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--web.config.file={folder / 'web.yml'}",
                f"--web.listen-address=127.0.0.1:{port}",
                f"--storage.tsdb.path={folder / 'data'}",
            ],
            folder / "prometheus.log",
        )
        try:
            self.wait_until(lambda: _is_ready(self.url, secret))
        except BaseException:
            self.kill()
            raise


def _is_ready(url: str, secret: str) -> bool:
    """Whether it has read its data back, too: until then it answers 503."""
    ask = urllib.request.Request(f"{url}/-/ready")
    ask.add_header("Authorization", f"Basic {base64.b64encode(secret.encode()).decode()}")
    try:
        with urllib.request.urlopen(ask, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:  # what urllib raises is one, too
        return False
