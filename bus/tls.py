"""TLS as a client sees it: whom to trust, and no secret to a broker that does not prove who it is.

nats-py turns to TLS only if the broker says so, which somebody in between could leave out, to read the
password. So a client that was told to use TLS says nothing before the connection is encrypted.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

import nats.errors
from nats.aio.client import Client

from bus.port import Endpoint
from schemas.errors import InvalidDocument, Unavailable

_RIGHT: Final = "the certificate of who signed the broker's, by setting ca (MINICLOUD_CA)"


class NoTls(nats.errors.Error):
    """The broker speaks in the clear."""


class EncryptedClient(Client):
    """A client that does not speak in the clear."""

    def _connect_command(self) -> bytes:
        # The last thing before the credential is sent, at each connect and reconnect.
        if not self._server_info.get("tls_required"):
            raise NoTls
        return super()._connect_command()


def wanted(endpoint: Endpoint) -> bool:
    """Whether the connection must be encrypted."""
    return endpoint.ca is not None or endpoint.url.startswith("tls://")


def trust(ca: str | None) -> ssl.SSLContext:
    """Who may sign the broker's certificate: those in a PEM file, or whom the system trusts.

    Raises:
        InvalidDocument: the file holds no certificates.
    """
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:  # ssl's own are OSErrors, too
        reason = "there is no such file" if ca and not Path(ca).exists() else error.strerror or str(error)
        raise InvalidDocument(reason, field=f"ca {ca}", expected="a PEM file with certificates") from None


def distrusted(url: str, error: ssl.SSLCertVerificationError) -> Unavailable:
    """The error of a broker whose certificate does not hold."""
    return Unavailable(
        f"the certificate of the broker at {url} is refused: {error.verify_message}", expected=_RIGHT
    )


def in_the_clear(url: str) -> Unavailable:
    """The error of a broker that offers no TLS."""
    return Unavailable(
        f"the broker at {url} offers no TLS, so it was not given the password",
        expected="a broker started with --tls-cert and --tls-key, or a nats:// address and no ca",
    )
