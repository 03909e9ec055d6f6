"""urunc on a real API server: a node that lists its handler and offers KVM gets the pods, told by us alone."""

import base64
from collections.abc import AsyncIterator

import pytest
from kubernetes import client

from tests.cluster.cluster import Cluster
from tests.vim.cluster.field import Field, until
from tests.vim.site import Site

IMAGE = "registry.example/hello:1"
CLASS = {
    "apiVersion": "node.k8s.io/v1",
    "kind": "RuntimeClass",
    "metadata": {"name": "urunc"},
    "handler": "urunc",
}


@pytest.fixture
async def field_with_urunc(site: Site, own_kubernetes: Cluster, namespace: str) -> AsyncIterator[Field]:
    """A worker of a cluster in which one node has urunc, and KVM to run it with."""
    node = min(own_kubernetes.ready_nodes())
    many = {"devices.kubevirt.io/kvm": "110"}
    has = {"capacity": many, "allocatable": many, "runtimeHandlers": [{"name": "urunc"}]}
    own_kubernetes.core.patch_node_status(node, {"status": has})
    classes = client.NodeV1Api(own_kubernetes.api)
    classes.create_runtime_class(CLASS)
    made = Field(site, own_kubernetes, namespace)
    made.start()
    yield made
    made.stop()
    classes.delete_runtime_class("urunc")
    none = {"devices.kubevirt.io/kvm": None}
    own_kubernetes.core.patch_node_status(
        node, {"status": {"capacity": none, "allocatable": none, "runtimeHandlers": None}}
    )


async def test_a_unikernel_goes_to_the_node_with_urunc_and_its_pod_says_how_to_boot_it(
    field_with_urunc: Field,
) -> None:
    field = field_with_urunc
    await field.nodes(40)
    (with_urunc,) = await field.nodes(1, **{"cluster.engine.unikernel": "urunc"})
    name = await field.deploy(
        runtimes=["unikernel"],
        images={"unikernel": {"image": IMAGE, "arguments": ["serve", "a b"]}},
        where={"cluster.engine.unikernel": "urunc"},
        env={"A": "1"},
    )
    status = await field.until_state(name, "running")
    assert [(one.node, one.engine) for one in status.replicas] == [(with_urunc, "urunc")]
    (pod,) = field.pods(name)
    assert pod["spec"]["runtimeClassName"] == "urunc"
    told = {
        key.removeprefix("com.urunc.unikernel."): base64.b64decode(value).decode()
        for key, value in pod["metadata"]["annotations"].items()
        if key.startswith("com.urunc.")
    }
    assert told == {
        "unikernelType": "unikraft",
        "hypervisor": "qemu",
        "binary": "/unikraft/bin/kernel",
        "cmdline": 'serve "a b"',
    }
    (container,) = pod["spec"]["containers"]
    assert "privileged" not in container["securityContext"]
    assert not {"hostNetwork", "hostPID", "volumes"} & {
        key for key in pod["spec"] if pod["spec"][key] is True
    }
    placement = field.site.decisions(name)[-1].placements[0]
    assert placement.reason.endswith(f"urunc of cluster {field.name}")
    assert placement.memory_overhead == 72 * 1024 * 1024
    await field.site.cancel(name)
    await field.until_state(name, "stopped")
    await until(lambda: not field.lying("deployments,pods", name), "all is gone")
