"""A registry: tokens, redirects, digests, and what is fetched only once."""

from pathlib import Path

import pytest

from services.vim.worker.image import ImageStore
from services.vim.worker.registry import Reference
from services.vim.worker.workload import CannotRun
from tests.worker.oci_layout import LayoutWriter, layer
from tests.worker.registry_server import RegistryServer


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    writer = LayoutWriter(tmp_path / "layout")
    mine = writer.image([layer({"who": b"me"}, compressed=True)], {"Cmd": ["/who"]})
    other = writer.image([layer({})], {}, architecture="s390x")
    writer.tag(writer.index([other, mine]), "1")
    return writer.folder


@pytest.mark.parametrize("redirect", [False, True])
async def test_an_image_is_pulled_with_a_token_and_only_once(
    tmp_path: Path, layout: Path, redirect: bool
) -> None:
    store = ImageStore(tmp_path / "store")
    with RegistryServer(layout, redirect=redirect) as registry:
        found = await store.root_filesystem({"image": f"{registry.host}/team/hello:1"})
        assert (found.path / "who").read_text() == "me"
        assert found.config["Cmd"] == ["/who"]
        assert registry.strangers == [], "a token does not follow a redirect to another host"
        fetched = len([path for path in registry.requests if "/blobs/" in path])
        await store.root_filesystem({"image": f"{registry.host}/team/hello:1"})
        assert len([path for path in registry.requests if "/blobs/" in path]) == fetched


async def test_what_it_does_not_have_is_told(tmp_path: Path, layout: Path) -> None:
    store = ImageStore(tmp_path / "store")
    with RegistryServer(layout) as registry:
        with pytest.raises(CannotRun, match="hello:2") as refused:
            await store.root_filesystem({"image": f"{registry.host}/team/hello:2"})
        assert refused.value.reason == "ImageNotFound"
    with pytest.raises(CannotRun, match="cannot be reached") as refused:
        await store.root_filesystem({"image": f"{registry.host}/team/hello:1"})
    assert refused.value.reason == "RegistryUnavailable"


async def test_other_content_than_the_digest_is_refused(tmp_path: Path, layout: Path) -> None:
    store = ImageStore(tmp_path / "store")
    with RegistryServer(layout) as registry:
        registry.corrupt = True
        with pytest.raises(CannotRun) as refused:
            await store.root_filesystem({"image": f"{registry.host}/team/hello:1"})
        assert refused.value.reason == "ImageCorrupt"
        assert not list((tmp_path / "store").glob("rootfs/*"))


@pytest.mark.parametrize(
    "name", ["hello", "hello:1", "team/hello:1", "reg.local/UPPER", "a.b/../x", "http://a.b/c"]
)
def test_a_name_without_a_registry_is_refused(name: str) -> None:
    with pytest.raises(CannotRun) as refused:
        Reference.of(name)
    assert refused.value.reason == "ImageInvalid"


def test_a_name_is_taken_apart() -> None:
    assert Reference.of("registry.local:5000/a/b:1.0") == Reference("registry.local:5000", "a/b", "1.0", None)
