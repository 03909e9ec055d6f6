"""Who may ask: a bearer token or basic authentication in, a refusal with the way out where neither is right."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from schemas.errors import Unauthenticated

Endpoint = Callable[[Request], Awaitable[Response]]
_CHALLENGE: Final = 'Basic realm="minicloud monitor", charset="UTF-8", Bearer realm="minicloud monitor"'


class Guard:
    """Lets through who knows a secret.

    Args:
        user: who asks by basic authentication.
        password: its password; empty lets nobody in so.
        token: what is asked with as a bearer token; empty lets nobody in so.
    """

    def __init__(self, user: str, password: str, token: str) -> None:
        self._basic = f"{user}:{password}".encode() if password else b""
        self._token = token.encode()

    def __call__(self, endpoint: Endpoint) -> Endpoint:
        """The endpoint, answering only who is let in."""

        async def guarded(request: Request) -> Response:
            if self.admits(request.headers.get("authorization", "")):
                return await endpoint(request)
            refusal = Unauthenticated(
                "this needs a secret that was not given or is wrong",
                field="header Authorization",
                expected="`Bearer TOKEN`, or basic authentication",
            )
            return JSONResponse(refusal.document(), refusal.status, headers={"WWW-Authenticate": _CHALLENGE})

        return guarded

    def admits(self, authorization: str) -> bool:
        """Whether this header carries a secret that is ours; how long that takes tells nothing about it."""
        scheme, _, said = authorization.partition(" ")
        match scheme.lower():
            case "bearer":
                return bool(self._token) and hmac.compare_digest(said.strip().encode(), self._token)
            case "basic":
                try:
                    given = base64.b64decode(said, validate=True)
                except (binascii.Error, ValueError):
                    return False
                return bool(self._basic) and hmac.compare_digest(given, self._basic)
        return False
