"""A connection to MongoDB with short patience: a service that keeps something there must not hang on it.

Imported by those who use it only, since the driver takes memory.
"""

from __future__ import annotations

from typing import Any, Final

from pymongo import AsyncMongoClient
from pymongo.errors import PyMongoError

from schemas.errors import InvalidDocument

_PATIENCE_MS: Final = 3000


def mongo_client(url: str, service: str) -> AsyncMongoClient[dict[str, Any]]:
    """A client that connects when it is first used.

    Args:
        url: of the MongoDB.
        service: who asks, for MongoDB's own log.

    Raises:
        InvalidDocument: the URL cannot be one.
    """
    try:
        return AsyncMongoClient(
            url,
            serverSelectionTimeoutMS=_PATIENCE_MS,
            connectTimeoutMS=_PATIENCE_MS,
            socketTimeoutMS=10 * _PATIENCE_MS,
            appname=f"minicloud-{service}",
            tz_aware=True,
        )
    except (PyMongoError, ValueError) as error:
        raise InvalidDocument(
            f"cannot be used: {error}", field="setting mongodb_url", expected="mongodb://host:27017"
        ) from None
