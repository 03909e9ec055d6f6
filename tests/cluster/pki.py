"""Certificates of a cluster: its authority, and one key and certificate for each that speaks there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.parts.part import run_tool

_DAYS: Final = "30"


class Authority:
    """A certificate authority with its files in a folder; makes itself at first use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificate = folder / "ca.crt"
        self._key = folder / "ca.key"
        folder.mkdir(parents=True, exist_ok=True)
        if not self.certificate.exists():
            _key(self._key)
            run_tool([
                "openssl", "req", "-x509", "-new", "-key", self._key, "-days", _DAYS, "-out", self.certificate,
                "-subj", "/CN=minicloud-test-authority", "-addext", "basicConstraints=critical,CA:TRUE",
                "-addext", "keyUsage=critical,keyCertSign,cRLSign",
            ])  # fmt: skip

    def issue(
        self, name: str, common_name: str, groups: Sequence[str] = (), names: Sequence[str] = ()
    ) -> tuple[Path, Path]:
        """A certificate and its key: a client's, or a server's for ``names`` such as ``IP:127.0.0.1``."""
        key, certificate = self.folder / f"{name}.key", self.folder / f"{name}.crt"
        if certificate.exists():
            return certificate, key
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        usage = "serverAuth" if names else "clientAuth"
        # Both key identifiers: Python from 3.13 on refuses certificates without.
        lines = [
            "basicConstraints=critical,CA:FALSE", "keyUsage=critical,digitalSignature",
            f"extendedKeyUsage={usage}", "subjectKeyIdentifier=hash", "authorityKeyIdentifier=keyid",
        ]  # fmt: skip
        if names:
            lines.append(f"subjectAltName={','.join(names)}")
        extensions.write_text("\n".join(lines) + "\n")
        subject = "".join(f"/O={group}" for group in groups) + f"/CN={common_name}"
        _key(key)
        run_tool(["openssl", "req", "-new", "-key", key, "-subj", subject, "-out", request])
        run_tool([
            "openssl", "x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key,
            "-CAcreateserial", "-days", _DAYS, "-extfile", extensions, "-out", certificate,
        ])  # fmt: skip
        request.unlink()
        extensions.unlink()
        return certificate, key

    def signing_keys(self) -> tuple[Path, Path]:
        """The key that signs the tokens of service accounts, and its public half."""
        private, public = self.folder / "sa.key", self.folder / "sa.pub"
        if not public.exists():
            run_tool(["openssl", "genrsa", "-out", private, "2048"])
            run_tool(["openssl", "rsa", "-in", private, "-pubout", "-out", public])
        return private, public


def _key(path: Path) -> None:
    run_tool(["openssl", "ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", path])
