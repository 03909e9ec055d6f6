"""Unikernels in a cluster: what a level comes to, which engine a node offers, and what is told of an end."""

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from pydantic import ValidationError

from schemas.cluster import Allocatable, ClusterNode
from schemas.deployment import DeploymentRequest, File, Health, Port
from schemas.event import now
from schemas.flatten import clustered
from schemas.workload import DesiredWorkload
from services.vim.cluster.api import PODS
from services.vim.cluster.kind import Around, Facts, Group, Observation, Seen, Want
from services.vim.cluster.machine import virtual_machine
from services.vim.cluster.names import Key, Ours
from services.vim.cluster.settings import ClusterSettings
from services.vim.cluster.unikernel import in_qemu, in_urunc
from services.vim.cluster.unikernels import Unikernels, _of_one_engine, _told
from services.vim.offer import offer
from services.vim.overhead import overhead_of
from services.vim.placement import place
from services.vim.worker.machine import hardware, network
from services.vim.worker.workload import CannotRun
from tests.worker.unikraft_line import read

MIB = 1024 * 1024
OURS = Ours("mc", "c", "minicloud")
SETTINGS = ClusterSettings(minicloud="mc", cluster="c")
KIND = Unikernels(Around(SETTINGS, OURS))
IMAGE = "registry.example/hello:1"


def level(engine: str = "qemu-pod", **fields: Any) -> DesiredWorkload:
    image = {"image": IMAGE, "arguments": fields.pop("arguments", [])}
    given_ = {
        "workload": "d-0", "deployment": "d", "generation": 1, "replica": 0, "node": "n", "state": "running",
        "runtime": "unikernel", "driver": "kubernetes", "cluster": "c", "engine": engine, "image": image,
        "memory": 32 * MIB, **fields,
    }  # fmt: skip
    return DesiredWorkload.model_validate(given_)


def expanded(container: dict[str, Any]) -> dict[str, str]:
    """The environment as a kubelet gives it: ``$(NAME)`` filled in, ``$$`` one ``$``."""
    found: dict[str, str] = {}
    for item in container["env"]:
        text, value, at = item["value"], "", 0
        while at < len(text):
            if text.startswith("$$", at):
                value, at = f"{value}$", at + 2
            elif text.startswith("$(", at) and (end := text.find(")", at)) > 0:
                name = text[at + 2 : end]
                value, at = value + found.get(name, f"$({name})"), end + 1
            else:
                value, at = value + text[at], at + 1
        found[item["name"]] = value
    return found


def line(container: dict[str, Any]) -> str:
    """The kernel's line, as the image's entry puts it together."""
    env = expanded(container)
    words = [env["MINICLOUD_LINE"], env["MINICLOUD_ENV"], env.get("MINICLOUD_PARAMETERS", "")]
    return " ".join(filter(None, words)) + (
        f" -- {given}" if (given := env.get("MINICLOUD_ARGUMENTS")) else ""
    )


text = some.text(some.characters(min_codepoint=32, max_codepoint=0x7E), max_size=20)


@given(
    some.dictionaries(some.from_regex(r"[A-Z]{1,4}", fullmatch=True), text, max_size=3),
    some.lists(text.filter(bool)),
)
def test_what_a_tenant_writes_arrives_in_the_kernel_as_it_is(
    env: dict[str, str], arguments: list[str]
) -> None:
    words = ["--", *(word.replace("$", "$$") if "$(" in word else word for word in arguments)]
    if any("$(" in word for word in arguments):
        return  # $(NAME) means something in arguments, here as elsewhere
    made = in_qemu(level(env=env, arguments=words), SETTINGS, OURS).container
    found = read(line(made))
    assert found.argv == ["kernel", *arguments]
    assert sorted(found.parameters.get("env.vars", [])) == sorted(
        f"{name}={value}" for name, value in env.items()
    )
    assert not {"args", "command"} & made.keys()


def test_qemu_gets_the_same_words_as_on_a_node() -> None:
    asked = level(ports=[Port(name="http", port=8080)], arguments=["$(PORT)"], env={"A": "1"})
    env = expanded(in_qemu(asked, SETTINGS, OURS).container)
    assert env["MINICLOUD_BOARD_X86_64"].split() == hardware("d", "x86_64", 32)
    assert env["MINICLOUD_BOARD_AARCH64"].split() == hardware("d", "aarch64", 32)
    assert env["MINICLOUD_NETWORK"].split() == network([("", 8080, 8080)], outbound=True)
    assert (env["MINICLOUD_ARGUMENTS"], env["MINICLOUD_NAMES"]) == ("8080", "A")


def test_without_arguments_those_of_the_image_are_taken() -> None:
    assert "MINICLOUD_ARGUMENTS" not in expanded(in_qemu(level(), SETTINGS, OURS).container)


def test_its_pod_has_no_rights_and_memory_for_qemu_beside_the_guest() -> None:
    body = in_qemu(
        level(cpu=0.5, health=Health(http="/"), ports=[Port(name="http", port=80)]), SETTINGS, OURS
    )
    container = body.container
    assert container["resources"]["limits"] == {
        "cpu": "500m",
        "memory": str(32 * MIB + overhead_of("unikernel", "qemu-pod", None)),
    }
    security = container["securityContext"]
    assert security["readOnlyRootFilesystem"]
    assert security["runAsNonRoot"]
    assert not security["allowPrivilegeEscalation"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert "privileged" not in security
    assert "exec" not in str(container["readinessProbe"])
    assert [volume["name"] for volume in body.volumes] == ["run"]
    assert body.spec["securityContext"]["sysctls"][0]["value"] == "0"  # a port below 1024, without a right


def test_the_kvm_device_is_asked_for_where_the_level_says_so() -> None:
    made = in_qemu(level(acceleration="kvm"), SETTINGS, OURS).container
    assert made["resources"]["limits"]["devices.kubevirt.io/kvm"] == "1"
    assert "kvm" not in str(in_qemu(level(acceleration="tcg"), SETTINGS, OURS).container["resources"])


def test_files_are_a_ram_disk_in_a_secret_named_by_its_content() -> None:
    one = in_qemu(level(files=[File(path="/etc/x", content="y")]), SETTINGS, OURS)
    (secret,) = one.objects
    assert b"etc/x\0" in base64.b64decode(secret.document["data"]["initrd"])
    assert one.volumes[1]["secret"]["secretName"] == secret.document["metadata"]["name"]
    two = in_qemu(level(files=[File(path="/etc/x", content="z")]), SETTINGS, OURS)
    assert two.volumes[1] != one.volumes[1]
    large = [File(path=f"/f{number}", content="x" * 250_000) for number in range(5)]
    with pytest.raises(CannotRun, match="Secret"):
        in_qemu(level(files=large), SETTINGS, OURS)


def test_urunc_is_told_in_base64_by_us_alone() -> None:
    body = in_urunc(level("urunc", arguments=["-v", "--", "serve", "a b"], env={"A": "1"}), SETTINGS)
    assert body.spec == {"runtimeClassName": "urunc"}
    told = {name: base64.b64decode(value).decode() for name, value in body.annotations.items()}
    assert told == {
        "com.urunc.unikernel.unikernelType": "unikraft",
        "com.urunc.unikernel.hypervisor": "qemu",
        "com.urunc.unikernel.binary": "/unikraft/bin/kernel",
        "com.urunc.unikernel.cmdline": 'serve "a b"',
    }
    assert (list(body.volumes), list(body.objects)) == ([], [])
    assert body.container["env"] == [{"name": "A", "value": "1"}]


def test_an_injection_into_urunc_stays_an_argument() -> None:
    evil = 'x"\ncom.urunc.unikernel.hypervisor: evil'
    with pytest.raises(CannotRun):
        in_urunc(level("urunc", arguments=[evil]), SETTINGS)
    body = in_urunc(level("urunc", arguments=["com.urunc.unikernel.binary=/bin/sh"]), SETTINGS)
    assert base64.b64decode(body.annotations["com.urunc.unikernel.binary"]) == b"/unikraft/bin/kernel"


@pytest.mark.parametrize("env", [{"A": "a b"}, {"A": ""}, {"A": '"'}, {"A": "[1]"}, {"A": "x\ny"}])
def test_what_urunc_would_tear_is_not_given_to_it(env: dict[str, str]) -> None:
    with pytest.raises(CannotRun, match="unquoted"):
        in_urunc(level("urunc", env=env), SETTINGS)


def test_kubevirt_boots_unikraft_on_the_board_that_its_card_works_on() -> None:
    asked = level("kernel-boot", env={"A": "b c"}, arguments=["x"])
    made = virtual_machine(asked, {"name": "u-1", "labels": {}}, ["host"])
    domain = made["spec"]["template"]["spec"]["domain"]
    assert domain["machine"] == {"type": "pc"}
    assert domain["devices"]["useVirtioTransitional"]
    assert domain["devices"]["interfaces"][0]["masquerade"] == {}
    boot = domain["firmware"]["kernelBoot"]
    assert boot["container"] == {"image": IMAGE, "kernelPath": "/unikraft/bin/kernel"}
    found = read(boot["kernelArgs"])
    assert (found.argv, found.parameters["env.vars"]) == (["kernel", "x"], ["A=b c"])
    assert found.parameters["netdev.ip"] == ["10.0.2.2/24:10.0.2.1"]


def test_pods_and_machines_of_one_deployment_lie_beside_each_other() -> None:
    wants = {
        0: Want(level("qemu-pod"), 1),
        1: Want(level("kernel-boot", replica=1, workload="d-1"), 2),
    }
    group = Group(Key("d", "unikernel"), wants, [], [])
    launcher = {"metadata": {"name": "virt-launcher-1", "labels": {"kubevirt.io": "virt-launcher"}}}
    seen = Seen({PODS: [launcher]}, Nobody(), {}, 0.0)
    kinds = [one.resource.kind for one in KIND.wanted(group, seen) if not one.keep]
    assert kinds == ["Deployment", "VirtualMachine"]
    assert set(KIND.observe(group, seen)) == {("n", 0), ("n", 1)}
    assert list(KIND.remaining(group, seen)) == []


class Nobody:
    """A cluster whose nodes are not known."""

    def by_node(self, node: str) -> None:
        return None

    def by_kubernetes(self, name: str) -> None:
        return None


# -- what a node offers --------------------------------------------------------------------------


def machine(*, handlers: tuple[str, ...] = (), kvm: int = 0, **info: str) -> dict[str, Any]:
    return {
        "status": {
            "nodeInfo": {"operatingSystem": "linux", "architecture": "amd64", **info},
            "allocatable": {"devices.kubevirt.io/kvm": str(kvm)} if kvm else {},
            "runtimeHandlers": [{"name": name} for name in handlers],
        }
    }


@pytest.mark.parametrize(
    ("node", "facts", "engines", "why"),
    [
        (
            machine(handlers=("urunc",), kvm=110),
            Facts(runtime_classes={"urunc": "urunc"}),
            ["urunc", "qemu-pod"],
            None,
        ),
        (machine(handlers=("urunc",)), Facts(runtime_classes={"urunc": "urunc"}), ["qemu-pod"], "no KVM"),
        (machine(kvm=110), Facts(runtime_classes={"urunc": "urunc"}), ["qemu-pod"], "the handler urunc"),
        (machine(handlers=("urunc",), kvm=110), Facts(), ["qemu-pod"], "no RuntimeClass urunc"),
        (machine(architecture="s390x"), Facts(), [], "s390x"),
        (machine(operatingSystem="windows"), Facts(), [], "windows"),
    ],
)
def test_a_node_offers_what_it_can_and_says_why_not_the_rest(
    node: dict[str, Any], facts: Facts, engines: list[str], why: str | None
) -> None:
    found = KIND.offer(node, facts)
    assert [runtime.engine for runtime in found.runtimes] == engines
    assert (why is None) == ("urunc" not in found.silent)
    assert why is None or why in found.silent["urunc"]


def attributes(node: dict[str, Any], facts: Facts | None = None, **agent: Any) -> dict[str, Any]:
    """The node as the resource index knows it."""
    offering = KIND.offer(node, facts or Facts())
    said = ClusterNode(
        node="n", cluster="c", kubernetes="n", ready=True, runtimes=offering.runtimes, silent=offering.silent,
        allocatable=Allocatable(cpu=4, memory=1024 * MIB, pods=110),
        observed_at=now(),
    )  # fmt: skip
    known = {"name": "n", "cpu.cores": 4, "memory.total": 1024 * MIB, **agent}
    return {**known, **clustered(said, known)}


def request(**fields: Any) -> DeploymentRequest:
    image = {"image": IMAGE, **fields.pop("image", {})}
    return DeploymentRequest.model_validate(
        {"runtimes": ["unikernel"], "images": {"unikernel": image}, **fields}
    )


URUNC = machine(handlers=("urunc",), kvm=110)
CLASSES = Facts(runtime_classes={"urunc": "urunc"})


@pytest.mark.parametrize(
    ("node", "asked", "engine", "reason"),
    [
        (attributes(URUNC, CLASSES), request(), "urunc", "urunc of cluster c"),
        (
            attributes(URUNC, CLASSES, acceleration="tcg"),
            request(),
            "qemu-pod",
            "no urunc: KVM does not work there",
        ),
        (
            attributes(URUNC, CLASSES),
            request(env={"A": "a b"}),
            "qemu-pod",
            "no urunc: it passes the environment",
        ),
        (
            attributes(URUNC, CLASSES),
            request(files=[{"path": "/x", "content": ""}]),
            "qemu-pod",
            "no urunc: it gives a unikernel no files",
        ),
        (attributes(machine()), request(), "qemu-pod", "no urunc: the cluster has no RuntimeClass urunc"),
    ],
)
def test_the_decision_says_which_engine_and_why_none_better(
    node: dict[str, Any], asked: DeploymentRequest, engine: str, reason: str
) -> None:
    (placement,) = place(asked, [node], {}).placements
    assert placement.engine == engine
    assert reason in placement.reason
    assert placement.memory_overhead == overhead_of("unikernel", engine, None) == 72 * MIB


def test_a_device_that_an_agent_found_useless_is_not_asked_for() -> None:
    found = offer(request(env={"A": "a b"}), "unikernel", attributes(URUNC, CLASSES, acceleration="tcg"))
    assert found is not None
    assert (found.engine, found.acceleration) == ("qemu-pod", "tcg")


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (request(image={"image": None, "kernel": "/k"}), "images from a registry only"),
        (request(image={"folders": [{"folder": "/srv", "mount": "/m"}]}), "mount no folders"),
        (request(health={"console": "ready"}), "reads no console"),
    ],
)
def test_what_no_pod_can_do_is_left_to_the_nodes_own_qemu(asked: DeploymentRequest, reason: str) -> None:
    assert offer(asked, "unikernel", attributes(machine())) is None
    own = {"runtimes": ["unikernel"], "worker.runtimes": ["unikernel"], "acceleration": "tcg", "worker": True}
    found = offer(asked, "unikernel", attributes(machine(), **own))
    assert found is not None
    assert (found.driver, found.engine, reason in found.reason) == ("host", "qemu", True)


def test_kubevirt_boots_them_only_where_the_site_says_so() -> None:
    facts = Facts(groups=frozenset({"kubevirt.io"}))
    node = {**machine(kvm=1), "metadata": {"labels": {"kubevirt.io/schedulable": "true"}}}
    assert "unikernel_engines" in KIND.offer(node, facts).silent["kernel-boot"]
    allowing = ClusterSettings(minicloud="mc", cluster="c", unikernel_engines="urunc, kernel-boot")
    offered = Unikernels(Around(allowing, OURS)).offer(node, facts)
    assert [runtime.engine for runtime in offered.runtimes] == ["kernel-boot"]
    assert set(offered.silent) == {"urunc", "qemu-pod"}
    assert overhead_of("unikernel", "kernel-boot", None) > 220 * MIB
    with pytest.raises(ValidationError, match="unikernel_engines"):
        ClusterSettings(minicloud="mc", cluster="c", unikernel_engines="firecracker")


# -- what is told --------------------------------------------------------------------------------


def test_replicas_that_were_given_different_engines_get_the_one_that_needs_nothing() -> None:
    wants = {
        0: Want(level("urunc", acceleration="kvm"), 1),
        1: Want(level("qemu-pod", acceleration="kvm", replica=1, workload="d-1"), 2),
    }
    mixed = _of_one_engine(Group(Key("d", "unikernel"), wants, [], []))
    assert {(want.level.engine, want.level.acceleration) for want in mixed.wants.values()} == {
        ("qemu-pod", "tcg")
    }
    alike = Group(Key("d", "unikernel"), {0: wants[0]}, [], [])
    assert _of_one_engine(alike) is alike


@pytest.mark.parametrize(
    ("message", "reason", "told"),
    [
        ("it exited with 85: GuestCrashed: the guest crashed", "GuestCrashed", "the guest crashed"),
        (
            "it exited with 1: EngineFailed: qemu: no\n; restart 2 waits",
            "EngineFailed",
            "qemu: no; restart 2 waits",
        ),
        ("it exited with 3", "ExitedWithError", "it exited with 3"),
        ("it exited with 3: Whatever: x", "ExitedWithError", "it exited with 3: Whatever: x"),
    ],
)
def test_what_only_the_entry_knows_becomes_the_reason(message: str, reason: str, told: str) -> None:
    found = _told(Observation("failed", "ExitedWithError", message))
    assert (found.reason, found.message) == (reason, told)
