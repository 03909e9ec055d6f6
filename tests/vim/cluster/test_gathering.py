"""Levels into groups and objects, places that are kept, names and quantities: pure parts."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.workload import DesiredWorkload
from services.vim.cluster.api import DEPLOYMENTS, PODS, SERVICES, ApiError
from services.vim.cluster.containers import Containers
from services.vim.cluster.inventory import bus_name, quantity
from services.vim.cluster.kind import Around, Group, Machine, Observation, Seen, Wanted
from services.vim.cluster.levels import Levels
from services.vim.cluster.names import MINICLOUD, NODES, Key, Ours, label_value, port_name
from services.vim.cluster.refusal import refusal_of
from services.vim.cluster.settings import ClusterSettings
from services.vim.worker.workload import CannotRun
from tests.vim.cluster.test_pods import RUNNING, pod

OURS = Ours("home", "alpha", "minicloud")
KEY = Key("d", "container")


class Nodes:
    """Machines whose names in Kubernetes begin with a k."""

    def __init__(self, *names: str, away: str = "") -> None:
        self._known = {
            name: Machine(name, f"k{name}", f"k{name}", f"10.0.0.{number}", ready=name != away)
            for number, name in enumerate(names)
        }

    def by_node(self, node: str) -> Machine | None:
        return self._known.get(node)

    def by_kubernetes(self, name: str) -> Machine | None:
        return self._known.get(name.removeprefix("k"))


def level(node: str = "a", replica: int = 0, **more: Any) -> DesiredWorkload:
    fields: dict[str, Any] = {
        "workload": f"d-{replica}",
        "deployment": "d",
        "generation": 1,
        "replica": replica,
        "node": node,
        "state": "running",
        "runtime": "container",
        "driver": "kubernetes",
        "cluster": "alpha",
        "engine": "k3s",
        "candidates": ["a", "b", "c"],
        "image": {"image": "localhost/x:1"},
        **more,
    }
    return DesiredWorkload.model_validate(fields)


def group(*levels: DesiredWorkload) -> Group:
    made = Levels("alpha")
    for revision, one in enumerate(levels, 1):
        made.take(one, revision)
    return made.group(KEY)


def seen(
    *deployments: dict[str, Any],
    pods: tuple[dict[str, Any], ...] = (),
    told: dict[tuple[str, int], Observation] | None = None,
    nodes: Nodes | None = None,
) -> Seen:
    return Seen({DEPLOYMENTS: deployments, PODS: pods}, nodes or Nodes("a", "b", "c", "x"), told or {}, 0.0)


def containers(**settings: Any) -> Containers:
    return Containers(Around(ClusterSettings.model_validate({"cluster": "alpha", **settings}), OURS))


def deployment(of: list[Wanted]) -> dict[str, Any]:
    return next(one.document for one in of if one.resource is DEPLOYMENTS)


def lying(kind: Containers, what: Group, known: Seen | None = None) -> dict[str, Any]:
    """The Deployment as if it were there."""
    return deployment(kind.wanted(what, known or seen()))


def made_from(document: dict[str, Any], name: str, node: str, **more: Any) -> dict[str, Any]:
    """A pod of a Deployment."""
    one = pod(name, node=f"k{node}", state=RUNNING, ready=True, **more)
    one["metadata"]["annotations"] = document["spec"]["template"]["metadata"]["annotations"]
    one["metadata"]["ownerReferences"] = [{"kind": "ReplicaSet", "name": "rs", "controller": True}]
    return one


# -- levels ------------------------------------------------------------------------------------------


def test_of_two_places_of_a_replica_the_one_that_was_written_last_counts() -> None:
    what = group(level("a"), level("b"), level("c", 1), level("x", 2, state="stopped"))
    assert {replica: want.level.node for replica, want in what.wants.items()} == {0: "b", 1: "c"}
    assert [want.level.node for want in what.superseded] == ["a"]
    assert [want.level.node for want in what.ending] == ["x"]


def test_levels_of_others_are_nobodys_here_and_leave_with_those_that_took_them() -> None:
    levels = Levels("alpha")
    assert levels.take(level(cluster="beta"), 1) == set()
    assert levels.take(level(driver="host", cluster=None), 2) == set()
    assert levels.take(level(), 3) == {KEY}
    assert levels.take(level(driver="host", cluster=None), 4) == {KEY}
    assert not levels.group(KEY).wants


# -- objects -----------------------------------------------------------------------------------------


def test_the_same_levels_give_the_same_objects_and_replicas_are_counted_once() -> None:
    kind = containers()
    what = group(level("a"), level("b", 1), level("c", 1))
    first, second = kind.wanted(what, seen()), kind.wanted(what, seen())
    assert first == second
    assert deployment(first)["spec"]["replicas"] == 2


def test_a_later_generation_of_the_same_content_starts_nothing_anew() -> None:
    kind = containers()
    one = group(level("a"))
    there = lying(kind, one)
    more = group(level("a", generation=2), level("b", 1, generation=2))
    after = lying(kind, more, seen(there))
    assert after["spec"]["template"] == there["spec"]["template"]
    assert after["spec"]["replicas"] == 2


def test_where_pods_may_run_stays_as_it_was_written_whatever_vim_chooses_later() -> None:
    kind = containers()
    there = lying(kind, group(level("a")))
    running = made_from(there, "p", "a")
    for later in (
        level("b"),  # vim moved it, e.g. to where the scheduler had put it
        level("a", candidates=["a", "c", "x"]),  # another decision saw other candidates
    ):
        after = lying(kind, group(later), seen(there, pods=(running,)))
        assert after["spec"]["template"] == there["spec"]["template"]
    # Nor does it change when a node that it names is taken out of the cluster.
    after = lying(kind, group(level("a")), seen(there, pods=(running,), nodes=Nodes("a", "c")))
    assert after["spec"]["template"] == there["spec"]["template"]


def test_other_conditions_or_a_node_that_nobody_thought_of_give_pods_other_places() -> None:
    kind = containers()
    there = lying(kind, group(level("a", constraint="one")))
    after = lying(kind, group(level("a", constraint="two", generation=2)), seen(there))
    assert after["metadata"]["annotations"][NODES] != there["metadata"]["annotations"][NODES]
    after = lying(kind, group(level("x", constraint="one")), seen(there))
    assert '"x"' in after["metadata"]["annotations"][NODES]


def test_a_replica_that_is_wished_away_from_a_node_that_is_well_moves() -> None:
    kind = containers()
    there = lying(kind, group(level("a")))
    running = made_from(there, "p", "a")
    told = {("a", 0): Observation("running", "Started", reference="pod/minicloud/p")}
    wish = group(level("a"), level("x"))
    known = seen(there, pods=(running,), told=told)
    after = lying(kind, wish, known)
    assert after["spec"]["template"] != there["spec"]["template"]
    # The old pod is no answer: what is told of the new place is not "it stayed".
    observed = kind.observe(wish, known)["x", 0]
    assert (observed.state, observed.moved_to) == ("creating", None)
    # Of a node that is lost nobody wishes anything away: the cluster replaces what ran there.
    lost = seen(there, pods=(running,), told=told, nodes=Nodes("a", "b", "c", "x", away="a"))
    after = lying(kind, group(level("a"), level("b")), lost)
    assert after["spec"]["template"] == there["spec"]["template"]


def test_a_pod_elsewhere_says_where_unless_that_node_is_away() -> None:
    kind = containers()
    what = group(level("a"))
    there = lying(kind, what)
    pods = (made_from(there, "p", "b"),)
    observed = kind.observe(what, seen(there, pods=pods))["a", 0]
    assert (observed.state, observed.moved_to) == ("running", "b")
    observed = kind.observe(what, seen(there, pods=pods, nodes=Nodes("a", "b", away="b")))["a", 0]
    assert (observed.state, observed.reason, observed.moved_to) == ("unknown", "NodeLost", None)


def test_pods_of_another_content_are_not_what_is_wanted() -> None:
    kind = containers()
    there = lying(kind, group(level("a")))
    old = made_from(there, "p", "a")
    what = group(level("a", generation=2, env={"A": "1"}))
    observed = kind.observe(what, seen(there, pods=(old,)))["a", 0]
    assert (observed.state, observed.reason) == ("creating", "Replacing")
    assert list(kind.remaining(what, seen(there, pods=(old,)))) == [("ka", "pod/minicloud/p")]


def test_a_port_is_where_the_node_opens_it_else_at_the_pod() -> None:
    kind = containers()
    what = group(level("b", ports=[{"name": "http", "port": 80}]))
    there = lying(kind, what)
    one = made_from(there, "p", "b", podIP="10.9.9.9")
    service = {"spec": {"ports": [{"port": 80, "nodePort": 30080}]}}
    objects = {DEPLOYMENTS: [there], PODS: [one], SERVICES: [service]}
    found = kind.observe(what, Seen(objects, Nodes("a", "b"), {}, 0.0))["b", 0]
    assert [(end["address"], end["port"]) for end in found.endpoints] == [("10.0.0.1", 30080)]
    found = kind.observe(what, Seen({**objects, SERVICES: []}, Nodes("a", "b"), {}, 0.0))["b", 0]
    assert [(end["address"], end["port"]) for end in found.endpoints] == [("10.9.9.9", 80)]


def test_a_cluster_that_opens_no_ports_on_its_nodes_has_services_inside_only() -> None:
    ports = [{"name": "Not_A_Name", "port": 80}]
    made = containers(expose="cluster-ip").wanted(group(level("a", ports=ports)), seen())
    service = next(one.document for one in made if one.resource is SERVICES)
    assert service["spec"]["type"] == "ClusterIP"
    assert service["spec"]["ports"][0]["name"] == "p0"


def test_pull_secrets_and_roots_are_the_sites_to_give() -> None:
    spec = lying(containers(pull_secrets="one, two"), group(level()))["spec"]["template"]["spec"]
    assert spec["imagePullSecrets"] == [{"name": "one"}, {"name": "two"}]
    with pytest.raises(CannotRun, match="allow_root"):
        containers().wanted(group(level(user="root")), seen())
    made = lying(containers(allow_root=True), group(level(user="root")))
    security = made["spec"]["template"]["spec"]["containers"][0]["securityContext"]
    assert (security["runAsUser"], security["allowPrivilegeEscalation"]) == (0, False)


def test_nothing_that_a_request_says_makes_a_pod_privileged_or_annotates_it() -> None:
    hostile = level(
        env={"com.urunc.unikernel.cmdline": "x"}, image={"image": "localhost/x:1", "privileged": True},
        annotations={"com.urunc.unikernel.binary": "/x"}, hostNetwork=True,
    )  # fmt: skip
    template = lying(containers(allow_root=True), group(hostile))["spec"]["template"]
    assert all(name.startswith("minicloud.dev/") for name in template["metadata"]["annotations"])
    assert not {"hostNetwork", "hostPID", "hostIPC"} & template["spec"].keys()
    assert "privileged" not in str(template["spec"]["containers"][0]["securityContext"])


def test_what_a_request_stands_and_what_it_stays_away_from() -> None:
    kind = containers()
    gpu = {"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}
    made = lying(kind, group(level(tolerations=[gpu, {"operator": "Exists"}], apart=["name"])))
    spec = made["spec"]["template"]["spec"]
    assert gpu in spec["tolerations"]
    everything = [one for one in spec["tolerations"] if "key" not in one]
    assert {one["effect"] for one in everything} == {"NoSchedule", "PreferNoSchedule"}
    (term,) = spec["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    assert made["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0
    # That they are to be apart is new content, which pods get though their places stay.
    plain = lying(kind, group(level()))
    after = lying(kind, group(level(apart=["name"], generation=2)), seen(plain))
    assert "podAntiAffinity" in after["spec"]["template"]["spec"]["affinity"]


def test_a_pod_that_should_stand_still_says_that_it_cannot() -> None:
    kind = containers()
    there = lying(kind, group(level()))
    running = made_from(there, "p", "a")
    observed = kind.observe(group(level(state="paused")), seen(there, pods=(running,)))["a", 0]
    assert (observed.state, observed.reason) == ("running", "PauseUnsupported")


# -- names -------------------------------------------------------------------------------------------


def test_names_are_names_whatever_an_id_is() -> None:
    for deployment in ("d", "D_", "-", "x" * 64):
        name = OURS.name(deployment, "container")
        assert name.startswith("u-")
        assert len(name) == 22
        value = label_value(deployment)
        assert value
        assert len(value) <= 63
        assert value[0].isalnum()
        assert value[-1].isalnum()
    assert OURS.name("d", "container") != Ours("other", "alpha", "minicloud").name("d", "container")


def test_only_our_own_mark_is_ours() -> None:
    mine = {"metadata": {"labels": OURS.of("d", "container"), "annotations": {}}}
    assert OURS.owns(mine)
    assert OURS.key_of(mine) == KEY
    for changed in ({MINICLOUD: "other"}, {"minicloud.dev/cluster": "beta"}):
        labels = {**mine["metadata"]["labels"], **changed}
        assert not OURS.owns({"metadata": {"labels": labels}})
    assert not OURS.owns({"metadata": {}})


@pytest.mark.parametrize(
    ("name", "expected"), [("http", "http"), ("HTTP", "p3"), ("a_b", "p3"), ("1", "p3"), ("x" * 16, "p3")]
)
def test_names_of_ports(name: str, expected: str) -> None:
    assert port_name(name, 3) == expected


def test_nodes_have_names_that_no_other_cluster_gives() -> None:
    assert bus_name("alpha", "pi-3") == "alpha-pi-3"
    dotted = bus_name("alpha", "ip-10-0-0-1.eu.internal")
    assert dotted.startswith("alpha-ip-10-0-0-1-eu-internal-")
    assert bus_name("alpha", "a.b") != bus_name("alpha", "a-b")
    assert len(bus_name("alpha", "n" * 200)) <= 64


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("250m", 0.25),
        ("8", 8),
        ("64Mi", 64 * 1024**2),
        ("1k", 1000),
        ("1e3", 1000),
        ("3920m", 3.92),
        ("x", 0),
    ],
)
def test_quantities(text: str, number: float) -> None:
    assert quantity(text) == pytest.approx(number)


def test_who_holds_a_field_is_told() -> None:
    document = {
        "reason": "Conflict",
        "message": "Apply failed with 1 conflict",
        "details": {
            "causes": [
                {
                    "reason": "FieldManagerConflict",
                    "field": ".spec.replicas",
                    "message": 'conflict with "kubectl"',
                }
            ]
        },
    }
    found = refusal_of(ApiError.of(409, document))
    assert found.reason == "OwnedByOthers"
    assert found.message == '.spec.replicas: conflict with "kubectl"'
    assert refusal_of(ApiError.of(422, {"message": "no"})).lasting
