# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module client_network on an engine in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry import (
    empty_document,
    plan_registry,
    shared_allocations,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.modules import client_network, client_stack
from ansible_collections.agency_stack.multi_tenancy.tests.unit.fake_engine import FakeEngine, refusal
from ansible_collections.agency_stack.multi_tenancy.tests.unit.helpers import Killed, ladder, registered

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def clients(config: dict[str, Any]) -> list[dict[str, Any]]:
    return registered(config, *({"client_id": name} for name in ("a", "b", "c")))


def foreign(engine: FakeEngine, name: str, subnet: str, **labels: str) -> str:
    """A network that somebody else made."""
    pool = {"Subnet": subnet, "Gateway": subnet.replace(".0/", ".1/").partition("/")[0]}
    made = engine.create_network(
        name=name, driver="bridge", internal=False, options={}, labels=labels, ipam={"Config": [pool]}
    )
    return str(made["Id"])


def attach(engine: FakeEngine, name: str, network: str) -> None:
    """A container of somebody else's on a network."""
    engine.local_images.add("foreign:1")
    endpoint = engine.create_networking_config({network: engine.create_endpoint_config(ipv4_address="10.217.0.14")})
    host = engine.create_host_config(network_mode=network)
    config = engine.create_container_config("foreign:1", None, labels={}, host_config=host, networking_config=endpoint)
    engine.create_container_from_config(config, name)
    engine.start(name)


def test_networks_are_made_and_kept(
    run_module: Run, tmp_path: Path, engine: FakeEngine, config: dict[str, Any], clients: list[dict[str, Any]]
) -> None:
    ladder(run_module, client_network, tmp_path, engine, config=config, clients=clients)
    made = {network["Name"]: network for network in engine.networks()}
    assert set(made) == {"mt-a", "mt-b", "mt-c"}
    assert made["mt-a"]["Options"] == {"com.docker.network.bridge.name": "mt-1"}
    assert made["mt-a"]["IPAM"]["Config"] == [{"Subnet": "10.217.0.0/28", "Gateway": "10.217.0.1"}]
    assert made["mt-a"]["Labels"]["agency_stack.client_id"] == "a"


def test_a_hard_client_has_a_second_network_without_a_way_out(
    run_module: Run, tmp_path: Path, engine: FakeEngine, config: dict[str, Any]
) -> None:
    [client] = registered(config, {"client_id": "h", "isolation_level": "hard"})
    ladder(run_module, client_network, tmp_path, engine, config=config, clients=[client])
    made = {network["Name"]: network for network in engine.networks()}
    assert {name: network["Internal"] for name, network in made.items()} == {"mt-h": False, "mt-h.internal": True}
    inner = made["mt-h.internal"]
    assert inner["Options"] == {"com.docker.network.bridge.name": "mt-1i"}
    assert inner["IPAM"]["Config"][0]["Subnet"] == client["internal_subnet"]


def test_networks_that_a_level_does_not_need_any_more_wait_until_they_may_go(
    run_module: Run, tmp_path: Path, engine: FakeEngine, config: dict[str, Any], clients: list[dict[str, Any]]
) -> None:
    hard = registered(config, *({"client_id": name, "isolation_level": "hard"} for name in ("a", "b")))
    run_module(client_network, config=config, clients=hard)
    hard[0]["isolation_level"] = "soft"
    hard[1]["isolation_level"] = "medium"
    args = {"config": config, "clients": hard}
    before = {network["Name"] for network in engine.networks()}
    assert before == {"mt-a", "mt-a.internal", "mt-b", "mt-b.internal"}
    kept = run_module(client_network, **args, superseded="keep")
    assert (kept["superseded"], {network["Name"] for network in engine.networks()}) == (3, before)
    # What stays is not touched.
    assert kept["changes"] == []
    checked = run_module(client_network, check=True, **args, superseded="keep")
    result = ladder(run_module, client_network, tmp_path, engine, **args)
    assert (checked["changes"], checked["superseded"], result["superseded"]) == (result["changes"], 0, 0)
    assert {network["Name"] for network in engine.networks()} == {"mt-b"}


def test_a_shared_service_has_one_network_and_keeps_it(
    run_module: Run, tmp_path: Path, engine: FakeEngine, config: dict[str, Any]
) -> None:
    document = plan_registry(empty_document(), [{"client_id": "s", "isolation_level": "soft"}], config)[0]
    shared = shared_allocations(document)
    args = {"config": config, "clients": document["clients"], "shared": shared}
    ladder(run_module, client_network, tmp_path, engine, **args)
    [network] = engine.networks()
    assert (network["Name"], network["Internal"]) == ("mt-shared.site", False)
    assert network["IPAM"]["Config"][0]["Subnet"] == shared[0]["subnet"]
    # Made anew under the container that is on it.
    run_module(client_stack, **args)
    before = dict(engine.by_name("mt-shared.site"))
    run_module(client_network, **args, force=True)
    after = engine.by_name("mt-shared.site")
    assert engine.networks()[0]["Id"] != network["Id"]
    assert (after["Id"], after["Starts"], after["Endpoints"]) == (before["Id"], 1, before["Endpoints"])
    assert run_module(client_stack, **args)["changed"] is False
    # Without clients nothing new is made, and what is there stays for the next one.
    idle = [shared[0] | {"state": "absent"}]
    assert run_module(client_network, config=config, clients=[], shared=idle)["changed"] is False
    assert [network["Name"] for network in engine.networks()] == ["mt-shared.site"]


def test_looking_costs_one_call_however_many_clients_there_are(
    run_module: Run, engine: FakeEngine, config: dict[str, Any], clients: list[dict[str, Any]]
) -> None:
    run_module(client_network, config=config, clients=clients)
    engine.calls.clear()
    run_module(client_network, config=config, clients=clients)
    assert [call[0] for call in engine.calls] == ["networks"]


@pytest.mark.parametrize("labels", [{}, {"agency_stack.platform": "it"}], ids=["nobody's", "another platform's"])
def test_a_foreign_network_of_that_name_is_never_touched(
    run_module: Run, engine: FakeEngine, config: dict[str, Any], clients: list[dict[str, Any]], labels: dict[str, str]
) -> None:
    foreign(engine, "mt-a", "10.9.0.0/24", **labels)
    before = engine.inspect_network("mt-a")
    result = run_module(client_network, config=config, clients=clients)
    assert result["failed"]
    assert result["msg"] == "Client a: A network named mt-a exists and is not of this platform; remove or rename it."
    assert engine.inspect_network("mt-a") == before
    assert {network["Name"] for network in engine.networks()} == {"mt-a", "mt-b", "mt-c"}


def test_a_subnet_in_use_is_told_for_its_client_alone(
    run_module: Run, engine: FakeEngine, config: dict[str, Any], clients: list[dict[str, Any]]
) -> None:
    foreign(engine, "other", "10.217.0.16/28")
    result = run_module(client_network, config=config, clients=clients, defer_failures=True)
    assert [failure["client_id"] for failure in result["failures"]] == ["b"]
    assert "Creating network mt-b failed: Pool overlaps" in result["failures"][0]["msg"]
    assert sorted(change["client_id"] for change in result["changes"]) == ["a", "c"]


@pytest.mark.parametrize("state", ["running", "exited", "created"])
def test_a_network_that_differs_is_made_anew_under_its_containers(
    run_module: Run,
    tmp_path: Path,
    engine: FakeEngine,
    config: dict[str, Any],
    clients: list[dict[str, Any]],
    state: str,
) -> None:
    run_module(client_network, config=config, clients=clients)
    run_module(client_stack, config=config, clients=clients)
    attach(engine, "debugger", "mt-a")
    engine.by_name("mt-a.site")["State"] = state
    engine.networks_by_id[engine.inspect_network("mt-a")["Id"]]["Internal"] = True
    ids = {name: engine.by_name(name)["Id"] for name in engine.names()}
    result = ladder(run_module, client_network, tmp_path, engine, config=config, clients=clients)
    assert [(change["action"], change["name"]) for change in result["changes"]] == [("recreate", "mt-a")]
    assert engine.inspect_network("mt-a")["Internal"] is False
    # What is not ours is cut off and left.
    assert engine.by_name("debugger")["Endpoints"] == {}
    run_module(client_stack, config=config, clients=clients)
    assert engine.running(platform="mt") == ["mt-a.site", "mt-b.site", "mt-c.site"]
    assert {name: engine.by_name(name)["Id"] for name in engine.names()} == ids


def test_force_makes_the_networks_of_the_named_clients_anew_and_their_containers_run_on(
    run_module: Run, engine: FakeEngine, config: dict[str, Any], clients: list[dict[str, Any]]
) -> None:
    run_module(client_network, config=config, clients=clients)
    run_module(client_stack, config=config, clients=clients)
    before = engine.snapshot()
    networks = {network["Name"]: network["Id"] for network in engine.networks()}
    containers = {name: dict(engine.by_name(name)) for name in engine.names()}
    args = {"config": config, "clients": clients[:1], "force": True}
    checked = run_module(client_network, check=True, **args)
    assert engine.snapshot() == before
    result = run_module(client_network, **args)
    assert (result["changed"], result["changes"], result["diff"]) == (True, checked["changes"], checked["diff"])
    assert [(change["action"], change["name"]) for change in result["changes"]] == [("recreate", "mt-a")]
    made = {network["Name"]: network["Id"] for network in engine.networks()}
    assert {name for name in made if made[name] != networks[name]} == {"mt-a"}
    for name, container in containers.items():
        now = engine.by_name(name)
        assert (now["Id"], now["State"], now["Starts"]) == (container["Id"], "running", 1)
    endpoint = engine.by_name("mt-a.site")["Endpoints"]["mt-a"]
    assert (endpoint["IPAMConfig"], endpoint["Aliases"]) == ({"IPv4Address": "10.217.0.2"}, ["site"])
    assert run_module(client_stack, config=config, clients=clients)["changed"] is False


REFUSING = {
    "disconnect_container_from_network": [],
    "connect_container_to_network": ["mt-a.site"],
}


@pytest.mark.parametrize(("call", "left"), REFUSING.items(), ids=REFUSING)
def test_a_container_that_cannot_be_moved_is_made_anew(
    run_module: Run,
    engine: FakeEngine,
    config: dict[str, Any],
    clients: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    left: list[str],
) -> None:
    def refuse(container: str, *_args: object, **_options: object) -> None:
        raise refusal(409, f"Container {container} is restarting")

    run_module(client_network, config=config, clients=clients[:1])
    run_module(client_stack, config=config, clients=clients[:1])
    before = engine.by_name("mt-a.site")["Id"]
    with monkeypatch.context() as patch:
        patch.setattr(engine, call, refuse)
        result = run_module(client_network, config=config, clients=clients[:1], force=True)
    assert not result.get("failed"), result
    assert engine.names() == left
    result = run_module(client_stack, config=config, clients=clients[:1])
    assert not result.get("failed"), result
    assert engine.running() == ["mt-a.site"]
    assert engine.by_name("mt-a.site")["Id"] != before
    assert "mt-a" in engine.by_name("mt-a.site")["Endpoints"]


@pytest.mark.parametrize("call", ["remove_network", "create_network"])
def test_a_network_that_cannot_be_made_anew_is_told_and_mended_by_the_next_run(
    run_module: Run,
    engine: FakeEngine,
    config: dict[str, Any],
    clients: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    call: str,
) -> None:
    def refuse(*_args: object, **_options: object) -> None:
        raise refusal(500, "no such device")

    run_module(client_network, config=config, clients=clients)
    run_module(client_stack, config=config, clients=clients)
    ids = {name: engine.by_name(name)["Id"] for name in engine.names()}
    with monkeypatch.context() as patch:
        patch.setattr(engine, call, refuse)
        result = run_module(client_network, config=config, clients=clients[:1], force=True)
    assert (result["failed"], result["changed"]) == (True, False)
    assert result["msg"].endswith("failed: no such device.")
    # The client goes on as it was, where that is possible.
    assert ("mt-a" in engine.by_name("mt-a.site")["Endpoints"]) == (call == "remove_network")
    assert {name: engine.by_name(name)["Id"] for name in engine.running()} == ids
    run_module(client_network, config=config, clients=clients)
    run_module(client_stack, config=config, clients=clients)
    assert engine.running() == ["mt-a.site", "mt-b.site", "mt-c.site"]
    assert all(engine.by_name(name)["Endpoints"] for name in engine.running())


@pytest.mark.parametrize("again", [True, False], ids=["forced again", "not forced again"])
def test_a_forced_run_stopped_at_any_call_to_the_engine_is_finished_by_the_next_one(
    run_module: Run, engine: FakeEngine, config: dict[str, Any], clients: list[dict[str, Any]], again: bool
) -> None:
    args = {"config": config, "clients": clients[:1]}
    for at in range(1, 100):
        run_module(client_network, config=config, clients=clients)
        run_module(client_stack, config=config, clients=clients)
        others = [engine.by_name(name)["Id"] for name in ("mt-b.site", "mt-c.site")]
        begin = len(engine.calls)

        def stop(number: int, _name: str, last: int = begin + at) -> None:
            if number >= last:
                raise Killed

        engine.before_call = stop
        with contextlib.suppress(Killed):
            run_module(client_network, **args, force=True)
        engine.before_call = lambda _number, _name: None
        done = len(engine.calls) < begin + at
        for module in (client_network, client_stack):
            result = run_module(module, **args, force=again)
            assert not result.get("failed"), result
        assert {network["Name"] for network in engine.networks()} == {"mt-a", "mt-b", "mt-c"}
        assert engine.running() == engine.names() == ["mt-a.site", "mt-b.site", "mt-c.site"]
        assert engine.by_name("mt-a.site")["NetworkIds"] == {"mt-a": engine.inspect_network("mt-a")["Id"]}
        assert [engine.by_name(name)["Id"] for name in ("mt-b.site", "mt-c.site")] == others
        for module in (client_network, client_stack):
            assert run_module(module, config=config, clients=clients)["changed"] is False
        if done:
            break
    assert at > 5


def test_containers_of_a_network_that_somebody_removed_are_made_anew(
    run_module: Run, engine: FakeEngine, config: dict[str, Any], clients: list[dict[str, Any]]
) -> None:
    run_module(client_network, config=config, clients=clients)
    run_module(client_stack, config=config, clients=clients)
    engine.stop("mt-a.site")
    engine.remove_network("mt-a")
    run_module(client_network, config=config, clients=clients)
    result = run_module(client_stack, config=config, clients=clients)
    assert not result.get("failed"), result["msg"]
    assert engine.running(client_id="a") == ["mt-a.site"]


def test_check_mode_plans_everything_on_a_host_without_an_engine(
    run_module: Run, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], clients: list[dict[str, Any]]
) -> None:
    monkeypatch.setattr(client_network, "connect_for", lambda _module, _docker_host: None)
    result = run_module(client_network, check=True, config=config, clients=clients)
    assert [change["name"] for change in result["changes"]] == ["mt-a", "mt-b", "mt-c"]


def test_the_networks_of_those_who_leave_go_with_what_hangs_on_them(
    run_module: Run, tmp_path: Path, engine: FakeEngine, config: dict[str, Any], clients: list[dict[str, Any]]
) -> None:
    run_module(client_network, config=config, clients=clients)
    run_module(client_stack, config=config, clients=clients)
    attach(engine, "debugger", "mt-a")
    others = [engine.by_name(name)["Id"] for name in ("mt-b.site", "mt-c.site")]
    result = ladder(run_module, client_network, tmp_path, engine, config=config, clients=clients[:1], state="absent")
    assert [(change["action"], change["name"]) for change in result["changes"]] == [("delete", "mt-a")]
    assert {network["Name"] for network in engine.networks()} == {"mt-b", "mt-c"}
    # What is not ours is cut off and left.
    assert engine.names() == ["debugger", "mt-b.site", "mt-c.site"]
    assert [engine.by_name(name)["Id"] for name in ("mt-b.site", "mt-c.site")] == others


@pytest.mark.parametrize("labels", [{}, {"agency_stack.platform": "it"}], ids=["nobody's", "another platform's"])
def test_a_foreign_network_stays_when_a_client_of_that_name_leaves(
    run_module: Run, engine: FakeEngine, config: dict[str, Any], clients: list[dict[str, Any]], labels: dict[str, str]
) -> None:
    foreign(engine, "mt-a", "10.9.0.0/24", **labels)
    before = engine.inspect_network("mt-a")
    result = run_module(client_network, config=config, clients=clients, state="absent")
    assert (result["changed"], result["changes"]) == (False, [])
    assert engine.inspect_network("mt-a") == before


def test_a_removal_stopped_at_any_call_to_the_engine_is_finished_by_the_next_run(
    run_module: Run, engine: FakeEngine, config: dict[str, Any], clients: list[dict[str, Any]]
) -> None:
    args = {"config": config, "clients": clients[:1], "state": "absent"}
    for at in range(1, 100):
        run_module(client_network, config=config, clients=clients)
        run_module(client_stack, config=config, clients=clients)
        begin = len(engine.calls)

        def stop(number: int, _name: str, last: int = begin + at) -> None:
            if number >= last:
                raise Killed

        engine.before_call = stop
        with contextlib.suppress(Killed):
            run_module(client_network, **args)
        engine.before_call = lambda _number, _name: None
        done = len(engine.calls) < begin + at
        result = run_module(client_network, **args)
        assert not result.get("failed"), result
        assert {network["Name"] for network in engine.networks()} == {"mt-b", "mt-c"}
        assert engine.names() == ["mt-b.site", "mt-c.site"]
        if done:
            break
    assert at > 4
