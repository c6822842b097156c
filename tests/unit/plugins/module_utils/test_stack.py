# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan for containers: what is kept, what is made, at which address and under which name."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import as_diff
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._stack import (
    ContainerSpec,
    ContainerState,
    as_wanted,
    plan_stacks,
    read_container,
    serving_backends,
)
from hypothesis import given
from hypothesis import strategies as st

SPEC = ContainerSpec(
    name="mt-acme.site",
    client_id="acme",
    service="site",
    image="site:2",
    network="mt-acme",
    subnet="10.217.0.0/28",
    labels={"agency_stack.client_id": "acme", "agency_stack.service": "site"},
    user="1:1",
    environment={"B": "topsecret", "A": "1"},
    healthcheck={"test": ["CMD", "true"], "interval": 1, "timeout": 1, "retries": 1, "start_period": 1},
)
OLD = replace(SPEC, image="site:1")
EDGE = replace(SPEC, name="mt-edge", client_id=None, service="edge", network="host", subnet=None)


def state(spec: ContainerSpec = SPEC, **changed: Any) -> ContainerState:
    """A running, healthy container that was made from a specification."""
    made = ContainerState(
        id=f"id-{changed.get('name', spec.name)}",
        name=spec.name,
        client_id=spec.client_id,
        service=spec.service,
        spec_hash=spec.hash,
        image=spec.image,
        state="running",
        health="healthy",
        addresses={} if spec.subnet is None else {spec.network: "10.217.0.2"},
    )
    return replace(made, **changed)


def planned(
    *actual: ContainerState, wanted: tuple[ContainerSpec, ...] = (SPEC,), **options: Any
) -> list[tuple[str, str, str]]:
    plan = plan_stacks(wanted, actual, options.pop("clients", ["acme"]), **options)
    return [
        (change.action, change.kind, change.payload.name if change.kind == "container" else change.before)
        for change in [*plan.starts, *plan.removals]
    ]


NAME, NEXT = "mt-acme.site", "mt-acme.site.next"
START, REMOVE = ("update", "container"), ("delete", "container")

# What the engine has -> the plan, in order.
PLANS: dict[str, tuple[list[ContainerState], list[tuple[str, str, str]]]] = {
    "nothing": ([], [("create", "container", NAME)]),
    "as wanted": ([state()], []),
    "as wanted and its health not known yet": ([state(health="starting")], []),
    "as wanted and unhealthy": ([state(health="unhealthy")], []),
    "stopped": ([state(state="exited", health="")], [(*START, NAME)]),
    "never started": ([state(state="created", health="")], [(*START, NAME)]),
    "paused": ([state(state="paused")], [(*START, NAME)]),
    "restarting": ([state(state="restarting", health="")], [(*START, NAME)]),
    "dead": (
        [state(state="dead", health="")],
        [("recreate", "container", NEXT), (*REMOVE, NAME), ("update", "container name", NEXT)],
    ),
    "cut off from its network": (
        [state(addresses={})],
        [("recreate", "container", NEXT), (*REMOVE, NAME), ("update", "container name", NEXT)],
    ),
    "another image": (
        [state(OLD)],
        [("recreate", "container", NEXT), (*REMOVE, NAME), ("update", "container name", NEXT)],
    ),
    "new one came up, old one is left": (
        [state(name=NEXT), state(OLD)],
        [(*REMOVE, NAME), ("update", "container name", NEXT)],
    ),
    "new one is starting, old one is left": (
        [state(name=NEXT, health="starting"), state(OLD)],
        [(*START, NEXT), (*REMOVE, NAME), ("update", "container name", NEXT)],
    ),
    "new one is unhealthy, old one is left": (
        [state(name=NEXT, health="unhealthy"), state(OLD)],
        [(*START, NEXT), (*REMOVE, NAME), ("update", "container name", NEXT)],
    ),
    "new one was made and not started": (
        [state(name=NEXT, state="created", health=""), state(OLD)],
        [(*START, NEXT), (*REMOVE, NAME), ("update", "container name", NEXT)],
    ),
    "only the name is missing": ([state(name=NEXT)], [("update", "container name", NEXT)]),
    "two as wanted": ([state(name=NEXT), state()], [(*REMOVE, NEXT)]),
    "two as wanted, one serves": (
        [state(name=NEXT), state(state="exited", health="")],
        [(*REMOVE, NAME), ("update", "container name", NEXT)],
    ),
    "names are taken": (
        [state(OLD), state(OLD, name=NEXT)],
        [
            ("recreate", "container", f"{NEXT}1"),
            (*REMOVE, NAME),
            (*REMOVE, NEXT),
            ("update", "container name", f"{NEXT}1"),
        ],
    ),
    "of a service that is not wanted any more": (
        [state(), state(replace(SPEC, service="gone", name="mt-acme.gone"))],
        [(*REMOVE, "mt-acme.gone")],
    ),
    "of a client that is not in question": (
        [state(), state(replace(OLD, client_id="b", name="mt-b.site")), state(EDGE)],
        [],
    ),
}


@pytest.mark.parametrize(("actual", "plan"), PLANS.values(), ids=PLANS)
def test_what_exists_decides_what_is_planned(actual: list[ContainerState], plan: list[tuple[str, str, str]]) -> None:
    assert planned(*actual) == plan


def test_a_client_without_wanted_containers_loses_all_of_its_own() -> None:
    actual = [state(), state(OLD, name="x"), state(EDGE)]
    assert planned(*actual, wanted=()) == [(*REMOVE, NAME), (*REMOVE, "x")]


def test_the_platforms_own_container_has_no_address() -> None:
    plan = plan_stacks([EDGE], [], [None])
    assert plan.starts[0].payload.address is None
    assert plan.backends == {}
    assert planned(state(EDGE), wanted=(EDGE,), clients=[None]) == []


@pytest.mark.parametrize(("actual", "anew"), [("running", True), ("exited", False), ("paused", False)])
def test_a_restart_starts_anew_what_runs_and_starts_what_does_not(actual: str, anew: bool) -> None:
    [change] = plan_stacks([SPEC], [state(state=actual)], ["acme"], restart=True).starts
    assert change.payload.restart == anew
    assert change.after == {"state": "restarted" if anew else "running"}


# What the engine has -> the plan of a forced run, in order.
FORCED: dict[str, tuple[list[ContainerState], list[tuple[str, str, str]]]] = {
    "nothing": ([], [("create", "container", NAME)]),
    "as wanted": (
        [state()],
        [("recreate", "container", NEXT), (*REMOVE, NAME), ("update", "container name", NEXT)],
    ),
    "stopped": (
        [state(state="exited", health="")],
        [("recreate", "container", NEXT), (*REMOVE, NAME), ("update", "container name", NEXT)],
    ),
    "two as wanted": (
        [state(name=NEXT), state()],
        [
            ("recreate", "container", f"{NEXT}1"),
            (*REMOVE, NEXT),
            (*REMOVE, NAME),
            ("update", "container name", f"{NEXT}1"),
        ],
    ),
    "of a client that is not in question": (
        [state(replace(SPEC, client_id="b", name="mt-b.site")), state(EDGE)],
        [("create", "container", NAME)],
    ),
}


@pytest.mark.parametrize(("actual", "plan"), FORCED.values(), ids=FORCED)
def test_force_makes_anew_what_is_as_wanted(actual: list[ContainerState], plan: list[tuple[str, str, str]]) -> None:
    assert planned(*actual, force=True) == plan


def test_force_does_nothing_to_a_restart() -> None:
    for actual in ([], [state()], [state(OLD)], [state(name=NEXT), state(OLD)]):
        assert planned(*actual, restart=True, force=True) == planned(*actual, restart=True)


def test_of_two_as_wanted_that_serve_the_one_that_is_routed_to_stays() -> None:
    new = state(name=NEXT, health="starting", addresses={"mt-acme": "10.217.0.3"})
    assert planned(new, state()) == [(*REMOVE, NEXT)]
    routed = {"acme": {"site": "10.217.0.3"}, "b": {"site": "10.217.0.2"}}
    assert planned(new, state(), routed=routed) == [
        (*START, NEXT),
        (*REMOVE, NAME),
        ("update", "container name", NEXT),
    ]
    assert planned(replace(new, state="exited"), state(), routed=routed) == [(*REMOVE, NEXT)]
    assert planned(new, state(), routed={"b": {"site": "10.217.0.3"}}) == [(*REMOVE, NEXT)]


# ---------------------------------------------------------------- addresses


def test_addresses_are_pinned_and_backends_name_them() -> None:
    shop = replace(SPEC, service="shop", name="mt-acme.shop")
    other = replace(SPEC, client_id="b", name="mt-b.site", network="mt-b", subnet="10.217.0.16/28")
    plan = plan_stacks([SPEC, shop, other], [], ["acme", "b"])
    assert plan.backends == {"acme": {"site": "10.217.0.2", "shop": "10.217.0.3"}, "b": {"site": "10.217.0.18"}}
    assert [change.payload.address for change in plan.starts] == ["10.217.0.2", "10.217.0.3", "10.217.0.18"]


def test_a_new_container_that_starts_first_gets_another_address() -> None:
    plan = plan_stacks([replace(SPEC, start_first=True)], [state(OLD)], ["acme"])
    assert plan.backends == {"acme": {"site": "10.217.0.3"}}


# The containers that are replaced, stop first -> the address of the new one.
FREED: dict[str, tuple[list[ContainerState], str]] = {
    "one": ([state(OLD, addresses={"mt-acme": "10.217.0.9"})], "10.217.0.9"),
    "one that is stopped": ([state(OLD, state="exited", addresses={"mt-acme": "10.217.0.9"})], "10.217.0.9"),
    "the one that serves": (
        [
            state(OLD, name="a", state="exited", addresses={"mt-acme": "10.217.0.8"}),
            state(OLD, name="b", addresses={"mt-acme": "10.217.0.9"}),
        ],
        "10.217.0.9",
    ),
    "one of another subnet": ([state(OLD, addresses={"mt-acme": "10.217.0.17"})], "10.217.0.2"),
    "one on another network": ([state(OLD, addresses={"other": "10.217.0.9"})], "10.217.0.2"),
    "one that is cut off": ([state(OLD, addresses={})], "10.217.0.2"),
}


@pytest.mark.parametrize(("actual", "address"), FREED.values(), ids=FREED)
def test_a_new_container_that_stops_the_old_one_first_takes_its_address(
    actual: list[ContainerState], address: str
) -> None:
    [change] = plan_stacks([SPEC], actual, ["acme"]).starts
    assert change.payload.address == address


def test_a_full_subnet_has_room_for_what_stops_first() -> None:
    specs = [replace(SPEC, service=f"s{number}", name=f"mt-acme.s{number}") for number in range(13)]
    actual = [state(spec, addresses={"mt-acme": f"10.217.0.{n}"}) for n, spec in enumerate(specs, 2)]
    plan = plan_stacks(specs, actual, ["acme"], force=True)
    assert sorted(plan.backends["acme"].values()) == sorted(f"10.217.0.{n}" for n in range(2, 15))


def test_a_kept_container_keeps_its_address() -> None:
    kept = state(addresses={"mt-acme": "10.217.0.9"})
    assert plan_stacks([SPEC], [kept, state(OLD)], ["acme"]).backends == {"acme": {"site": "10.217.0.9"}}


ADDRESSES = st.integers(2, 14).map(lambda number: f"10.217.0.{number}")
STATES = st.lists(
    st.tuples(
        st.sampled_from(["site", "shop", "gone"]),
        st.sampled_from(["site:1", "site:2"]),
        st.sampled_from(["running", "exited", "created"]),
        ADDRESSES,
    ),
    max_size=14,
    unique_by=lambda row: row[3],
)


@pytest.mark.parametrize("start_first", [True, False], ids=["start-first", "stop-first"])
@given(STATES, st.sets(st.sampled_from(["site", "shop", "third"])), st.booleans())
def test_no_plan_gives_two_containers_one_address_or_one_name(
    start_first: bool, rows: list[tuple[str, str, str, str]], services: set[str], force: bool
) -> None:
    spec = replace(SPEC, start_first=start_first)
    specs = [replace(spec, service=service, name=f"mt-acme.{service}") for service in sorted(services)]
    actual = [
        state(
            replace(spec, service=service, image=image, name=f"mt-acme.{service}"),
            name=f"c{number}",
            state=running,
            health="",
            addresses={"mt-acme": address},
        )
        for number, (service, image, running, address) in enumerate(rows)
    ]
    plan = plan_stacks(specs, actual, ["acme"], force=force)
    fresh = [change.payload for change in plan.starts if change.payload.existing is None]
    # What is stopped first gives its address to the one that takes its place.
    freed = [
        start.address
        for start in fresh
        if not start_first and start.address in [old.addresses["mt-acme"] for old in start.olds]
    ]
    there = [address for container in actual if (address := container.addresses["mt-acme"]) not in freed]
    addresses = [start.address for start in fresh if start.address is not None]
    assert len({*addresses, *there}) == len(addresses) + len(there)
    assert len(addresses) - len(freed) == min(len(fresh) - len(freed), 13 - len(actual))
    for address in addresses:
        assert ipaddress.IPv4Address(address) in list(ipaddress.IPv4Network("10.217.0.0/28").hosts())[1:]
    names = [start.name for start in fresh] + [container.name for container in actual]
    assert len(set(names)) == len(names)
    for service, address in plan.backends.get("acme", {}).items():
        assert list(plan.backends["acme"].values()).count(address) == 1
        assert service in services


# ---------------------------------------------------------------- what is kept


def test_the_one_that_serves_is_the_best() -> None:
    ranked = [
        state(name="b"),
        state(name="c", health="starting"),
        state(name="a", health="unhealthy"),
        state(),
        state(name="d", state="exited", health=""),
        state(OLD, name="e"),
    ]
    assert [found.name for found in as_wanted(SPEC, ranked)] == [NAME, "b", "c", "a", "d"]


SERVING: dict[str, tuple[dict[str, Any], bool]] = {
    "healthy": ({}, True),
    "without a health check": ({"health": ""}, True),
    "starting": ({"health": "starting"}, True),
    "unhealthy": ({"health": "unhealthy"}, False),
    "stopped": ({"state": "exited"}, False),
    "elsewhere": ({"addresses": {"other": "10.9.9.9"}}, False),
    "the platform's": ({"client_id": None}, False),
    "of another client": ({"client_id": "b"}, False),
}


@pytest.mark.parametrize(("changed", "serves"), SERVING.values(), ids=SERVING)
def test_only_what_serves_is_a_backend(changed: dict[str, Any], serves: bool) -> None:
    found = serving_backends([state(**changed)], [SPEC])
    assert found == ({"acme": {"site": "10.217.0.2"}} if serves else {})


def test_one_whose_health_is_known_is_preferred() -> None:
    fresh = state(name=NEXT, health="starting", addresses={"mt-acme": "10.217.0.3"})
    assert serving_backends([fresh, state()], [SPEC]) == {"acme": {"site": "10.217.0.2"}}


# ---------------------------------------------------------------- the specification


def test_the_hash_does_not_depend_on_the_order_of_keys() -> None:
    same = replace(
        SPEC,
        environment=dict(reversed(SPEC.environment.items())),
        labels=dict(reversed(SPEC.labels.items())),
        healthcheck=dict(reversed((SPEC.healthcheck or {}).items())),
    )
    assert same.hash == SPEC.hash


CHANGES: dict[str, Any] = {
    "image": "x:1", "network": "n", "subnet": "10.0.0.0/28", "labels": {}, "user": "2:2", "command": ["x"],
    "entrypoint": ["x"], "environment": {"B": "othersecret", "A": "1"},
    "binds": [{"source": "/a", "target": "/b", "read_only": True}],
    "tmpfs": {"/tmp": ""}, "cap_add": ["CHOWN"], "read_only": False, "mem_limit": 1, "nano_cpus": 1, "pids_limit": 1,
    "stop_signal": "SIGINT", "stop_timeout": 11, "healthcheck": None, "start_first": True,
}  # fmt: skip


@pytest.mark.parametrize(("key", "value"), CHANGES.items())
def test_every_key_counts(key: str, value: Any) -> None:
    assert replace(SPEC, **{key: value}).hash != SPEC.hash


def test_no_diff_shows_a_value_of_the_environment() -> None:
    plan = plan_stacks([SPEC], [state(OLD)], ["acme"])
    told = json.dumps(as_diff([*plan.starts, *plan.removals]))
    assert "topsecret" not in told
    assert '\\"B\\"' in told


LISTED = {
    "Id": "0123456789abcdef",
    "Names": ["/mt-acme.site"],
    "Image": "site:2",
    "Labels": {"agency_stack.client_id": "acme", "agency_stack.service": "site", "agency_stack.spec_hash": "h"},
    "State": "running",
    "Status": "Up 2 minutes (healthy)",
    "NetworkSettings": {
        "Networks": {"mt-acme": {"IPAMConfig": {"IPv4Address": "10.217.0.2"}, "IPAddress": "10.217.0.2"}}
    },
}

READ: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "as it is": ({}, {"state": "running", "health": "healthy", "addresses": {"mt-acme": "10.217.0.2"}}),
    "starting": ({"Status": "Up 1 second (health: starting)"}, {"health": "starting"}),
    "unhealthy": ({"Status": "Up 1 hour (unhealthy)"}, {"health": "unhealthy"}),
    "no health check": ({"Status": "Up 1 hour"}, {"health": ""}),
    "stopped": (
        {
            "State": "exited",
            "Status": "Exited (137) 3 minutes ago",
            "NetworkSettings": {
                "Networks": {"mt-acme": {"IPAMConfig": {"IPv4Address": "10.217.0.2"}, "IPAddress": ""}}
            },
        },
        {"state": "exited", "health": "", "addresses": {"mt-acme": "10.217.0.2"}},
    ),
    "not pinned": (
        {"NetworkSettings": {"Networks": {"n": {"IPAMConfig": None, "IPAddress": "1.2.3.4"}}}},
        {"addresses": {"n": "1.2.3.4"}},
    ),
    "on the host's network": (
        {"NetworkSettings": {"Networks": {"host": {"IPAMConfig": None, "IPAddress": ""}}}},
        {"addresses": {}},
    ),
    "without anything": (
        {"NetworkSettings": None, "Labels": None, "Status": None, "Names": None},
        {"client_id": None, "name": ""},
    ),
}


@pytest.mark.parametrize(("changed", "seen"), READ.values(), ids=READ)
def test_an_entry_of_the_engines_list_is_read(changed: dict[str, Any], seen: dict[str, Any]) -> None:
    container = read_container(LISTED | changed)
    assert {key: getattr(container, key) for key in seen} == seen
