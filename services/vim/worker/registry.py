"""An OCI registry read over HTTP: manifests and blobs, fetched once, verified, kept by digest.

In comes ``host[:port]/name[:tag|@digest]``, out come files in the blob cache (OCI distribution-spec
1.1, pull). A registry that asks for a bearer token gets one from where it says. TLS is required
except on loopback and where the node's settings say otherwise.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin, urlsplit

from services.vim.worker.oci import INDEXES, MANIFESTS, Descriptor
from services.vim.worker.workload import CannotRun

if TYPE_CHECKING:
    import httpx

_REFERENCE: Final = re.compile(
    r"(?P<host>[A-Za-z0-9.-]+(?::\d+)?|\[[0-9a-fA-F:]+\](?::\d+)?)/"
    r"(?P<name>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_CHALLENGE: Final = re.compile(r'(\w+)="([^"]*)"')
_MANIFEST_LIMIT: Final = 4 * 1024 * 1024
_TIMEOUT: Final = 30.0


@dataclass(frozen=True, slots=True)
class Reference:
    """Where an image is."""

    host: str
    name: str
    tag: str
    digest: str | None

    @classmethod
    def of(cls, text: str) -> Reference:
        """The parts of ``host[:port]/name[:tag][@digest]``; there is no default host.

        Raises:
            CannotRun: ``ImageInvalid``.
        """
        match = _REFERENCE.fullmatch(text)
        if match is None or (
            "." not in match["host"] and ":" not in match["host"] and match["host"] != "localhost"
        ):
            raise CannotRun(
                "ImageInvalid",
                f"{text[:200]!r} does not name an image in a registry",
                lasting=True,
                expected="host[:port]/name[:tag|@sha256:...], such as registry.local:5000/hello:1",
            )
        return cls(match["host"], match["name"], match["tag"] or "latest", match["digest"])


class Registry:
    """One repository of a registry, as a source of blobs.

    Args:
        client: an HTTP client without redirects of its own (a token must not follow one elsewhere).
        cache: the folder of blobs by digest.
    """

    def __init__(
        self, reference: Reference, client: httpx.AsyncClient, cache: Path, plain: tuple[str, ...]
    ) -> None:
        self._reference = reference
        self._client = client
        self._cache = cache
        scheme = "http" if _is_loopback(reference.host) or reference.host in plain else "https"
        self._base = f"{scheme}://{reference.host}/v2/{reference.name}"
        self._token: str | None = None

    async def root(self) -> Descriptor:
        """Fetch the manifest or index that the reference names.

        Raises:
            CannotRun: ``ImageNotFound``, ``ImageForbidden``, ``RegistryUnavailable``, ``ImageCorrupt``.
        """
        wanted = self._reference.digest or self._reference.tag
        response = await self._get(
            f"{self._base}/manifests/{wanted}", {"Accept": ", ".join(sorted(INDEXES | MANIFESTS))}
        )
        try:
            content = b""
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > _MANIFEST_LIMIT:
                    raise CannotRun(
                        "ImageInvalid", f"the manifest is larger than {_MANIFEST_LIMIT} B", lasting=True
                    )
        finally:
            await response.aclose()
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if self._reference.digest not in (None, digest):
            raise CannotRun(
                "ImageCorrupt", f"the manifest has digest {digest}", expected=self._reference.digest
            )
        kind = response.headers.get("Content-Type", "").partition(";")[0]
        descriptor = Descriptor(kind, digest, len(content), {}, {})
        self._keep(descriptor, content)
        return descriptor

    async def blob(self, descriptor: Descriptor) -> Path:
        """The blob's file, fetched if it is not here and verified on the way."""
        file = self._file(descriptor)
        if file.is_file() and file.stat().st_size == descriptor.size:
            return file
        kind = "manifests" if descriptor.media_type in INDEXES | MANIFESTS else "blobs"
        headers = {"Accept": descriptor.media_type} if kind == "manifests" else {}
        response = await self._get(f"{self._base}/{kind}/{descriptor.digest}", headers)
        found, size = hashlib.new(descriptor.algorithm), 0
        beside = file.with_name(f"{file.name}.{os.getpid()}.part")
        try:
            with beside.open("wb") as output:
                async for chunk in response.aiter_raw():
                    size += len(chunk)
                    if size > descriptor.size:
                        break
                    found.update(chunk)
                    output.write(chunk)
            if size != descriptor.size or found.hexdigest() != descriptor.hex:
                raise CannotRun(
                    "ImageCorrupt",
                    f"the registry sent {size} B with digest {descriptor.algorithm}:{found.hexdigest()}",
                    expected=f"{descriptor.size} B with {descriptor.digest}",
                )
            beside.replace(file)
        finally:
            await response.aclose()
            beside.unlink(missing_ok=True)
        return file

    def _file(self, descriptor: Descriptor) -> Path:
        folder = self._cache / descriptor.algorithm
        folder.mkdir(parents=True, exist_ok=True)
        return folder / descriptor.hex

    def _keep(self, descriptor: Descriptor, content: bytes) -> None:
        file = self._file(descriptor)
        beside = file.with_name(f"{file.name}.{os.getpid()}.part")
        beside.write_bytes(content)
        beside.replace(file)

    async def _get(self, url: str, headers: dict[str, str]) -> httpx.Response:
        """A streamed 200; asks for a token once, follows redirects without it when they lead elsewhere."""
        import httpx  # noqa: PLC0415 - only nodes that use a registry pay for it

        try:
            for _ in range(6):
                mine = urlsplit(url).netloc == self._reference.host
                authorized = {"Authorization": f"Bearer {self._token}"} if self._token and mine else {}
                request = self._client.build_request("GET", url, headers={**headers, **authorized})
                response = await self._client.send(request, stream=True)
                if response.status_code == 200:
                    return response
                await response.aclose()
                if response.status_code == 401 and self._token is None and mine:
                    self._token = await self._ask_for_token(response.headers.get("WWW-Authenticate", ""))
                elif response.status_code in (301, 302, 303, 307, 308):
                    url = urljoin(url, response.headers.get("Location", ""))
                else:
                    raise self._refused(response.status_code)
        except httpx.HTTPError as error:
            message = (
                f"registry {self._reference.host} cannot be reached: {str(error) or type(error).__name__}"
            )
            raise CannotRun("RegistryUnavailable", message) from error
        raise CannotRun("RegistryUnavailable", f"registry {self._reference.host} redirects without end")

    async def _ask_for_token(self, challenge: str) -> str:
        kind, _, rest = challenge.partition(" ")
        fields = dict(_CHALLENGE.findall(rest))
        realm = fields.pop("realm", "")
        if kind.lower() != "bearer" or not realm:
            raise CannotRun(
                "ImageForbidden", f"registry {self._reference.host} asks for {kind or 'nothing'} credentials"
            )
        if urlsplit(realm).scheme != "https" and not _is_loopback(urlsplit(realm).netloc):
            raise CannotRun(
                "ImageForbidden", f"the registry's token service {realm[:200]} is not read without TLS"
            )
        parameters = {key: value for key, value in fields.items() if key in ("service", "scope")}
        response = await self._client.get(realm, params=parameters)
        try:
            answer = response.json() if response.status_code == 200 else {}
        except ValueError:
            answer = {}
        token = answer.get("token") or answer.get("access_token")
        if not isinstance(token, str):
            raise CannotRun("ImageForbidden", f"{realm[:200]} gives no token ({response.status_code})")
        return token

    def _refused(self, status: int) -> CannotRun:
        what = f"{self._reference.host}/{self._reference.name}:{self._reference.tag}"
        if status == 404:
            return CannotRun("ImageNotFound", f"the registry has no {what}")
        if status in (401, 403):
            return CannotRun("ImageForbidden", f"the registry does not let this node read {what}")
        return CannotRun("RegistryUnavailable", f"the registry answered {status} for {what}")


def _is_loopback(host: str) -> bool:
    name = host.rpartition(":")[0] if re.search(r":\d+$", host) and not host.endswith("]") else host
    name = name.strip("[]")
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
