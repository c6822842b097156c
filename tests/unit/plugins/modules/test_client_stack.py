# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module client_stack on an engine in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._config import effective_config
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry import (
    empty_document,
    plan_registry,
    shared_allocations,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.modules import client_network, client_stack
from ansible_collections.agency_stack.multi_tenancy.tests.unit.fake_engine import FakeEngine
from ansible_collections.agency_stack.multi_tenancy.tests.unit.helpers import ladder, registered

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def clients(run_module: Run, engine: FakeEngine, config: dict[str, Any]) -> list[dict[str, Any]]:
    found = registered(config, *({"client_id": name} for name in ("a", "b", "c")))
    run_module(client_network, config=config, clients=found)
    engine.local_images |= {"site:2", "sick:1"}
    engine.sick = {"sick:1"}
    return found


def with_site(**changed: Any) -> dict[str, Any]:
    """Settings under which the site differs."""
    return effective_config([("config.yaml", {"services": {"site": changed}})])


def test_containers_are_run_and_kept(
    run_module: Run, tmp_path: Path, engine: FakeEngine, config: dict[str, Any], clients: list[dict[str, Any]]
) -> None:
    result = ladder(run_module, client_stack, tmp_path, engine, config=config, clients=clients)
    assert engine.running() == ["mt-a.site", "mt-b.site", "mt-c.site"]
    assert result["backends"] == {
        "a": {"site": "10.217.0.2"},
        "b": {"site": "10.217.0.18"},
        "c": {"site": "10.217.0.34"},
    }
    assert result["superseded"] == 0


def test_looking_costs_one_call_however_many_clients_there_are(
    run_module: Run, engine: FakeEngine, config: dict[str, Any], clients: list[dict[str, Any]]
) -> None:
    run_module(client_stack, config=config, clients=clients)
    engine.calls.clear()
    again = run_module(client_stack, config=config, clients=clients)
    assert [call[0] for call in engine.calls] == ["containers"]
    assert again["backends"]["b"] == {"site": "10.217.0.18"}


def test_a_client_that_fails_does_not_stop_the_others(
    run_module: Run, engine: FakeEngine, config: dict[str, Any], clients: list[dict[str, Any]]
) -> None:
    config = with_site(mem_limit="64m")
    clients[1]["services"] = {"site": {"image": "sick:1"}}
    result = run_module(client_stack, config=config, clients=clients)
    assert result["failed"]
    assert result["msg"].startswith(
        "Client b: Container mt-b.site did not become healthy within 60 s. Its last log lines: "
    )
    assert [failure["client_id"] for failure in result["failures"]] == ["b"]
    assert sorted(change["client_id"] for change in result["changes"]) == ["a", "c"]
    assert engine.running() == ["mt-a.site", "mt-c.site"]
    assert set(result["backends"]) == {"a", "b", "c"}
    assert result["backends"]["b"] == {}


def test_a_client_that_fails_keeps_its_old_container_and_its_backend(
    run_module: Run, engine: FakeEngine, config: dict[str, Any], clients: list[dict[str, Any]]
) -> None:
    before = run_module(client_stack, config=config, clients=clients)["backends"]
    ids = {name: engine.by_name(name)["Id"] for name in engine.names()}
    clients[1]["services"] = {"site": {"image": "sick:1"}}
    result = run_module(client_stack, config=config, clients=clients, defer_failures=True, health_timeout=1)
    assert not result.get("failed")
    assert "within 1 s" in result["failures"][0]["msg"]
    assert (result["changed"], result["backends"]) == (False, before)
    assert {name: engine.by_name(name)["Id"] for name in engine.running()} == ids


def test_of_a_client_that_fails_the_backends_are_what_runs_then(
    run_module: Run, engine: FakeEngine, clients: list[dict[str, Any]]
) -> None:
    """One service was replaced, stop first; the next one failed: the first one's old address serves no more."""
    check = {"test": ["CMD", "true"]}
    services = {n: {"image": "site:2", "port": 1, "subdomain": n, "healthcheck": check} for n in ("one", "two")}
    config = effective_config([("config.yaml", {"services": services})])
    clients[0]["services"] = {"one": {}, "two": {}}
    run_module(client_stack, config=config, clients=clients)
    clients[0]["services"] = {"one": {"mem_limit": "32m"}, "two": {"image": "sick:1"}}
    result = run_module(client_stack, config=config, clients=clients, superseded="keep", defer_failures=True)
    assert [failure["client_id"] for failure in result["failures"]] == ["a"]
    alive = {
        engine.by_name(name)["Config"]["Labels"]["agency_stack.service"]: engine.by_name(name)["Endpoints"]["mt-a"][
            "IPAMConfig"
        ]["IPv4Address"]
        for name in engine.running(client_id="a")
    }
    assert result["backends"]["a"] == alive
    assert set(alive) == {"one", "two"}


def test_superseded_containers_wait_until_the_routes_are_moved(
    run_module: Run, engine: FakeEngine, config: dict[str, Any], clients: list[dict[str, Any]]
) -> None:
    before = run_module(client_stack, config=config, clients=clients)["backends"]
    config = with_site(mem_limit="32m")
    moved = run_module(client_stack, config=config, clients=clients, superseded="keep")
    # For each client one container to remove and one name to take over.
    assert moved["superseded"] == 6
    assert engine.running(client_id="a") == ["mt-a.site", "mt-a.site.next"]
    assert all(moved["backends"][name] != before[name] for name in before)
    engine.settle()
    again = run_module(client_stack, config=config, clients=clients, superseded="keep")
    assert (again["changed"], again["superseded"], again["backends"]) == (False, 6, moved["backends"])
    ids = {engine.by_name("mt-a.site.next")["Id"]}
    removed = run_module(client_stack, config=config, clients=clients, superseded="remove")
    assert (removed["superseded"], removed["backends"]) == (0, moved["backends"])
    assert engine.names() == ["mt-a.site", "mt-b.site", "mt-c.site"]
    assert {engine.by_name("mt-a.site")["Id"]} == ids


def test_force_makes_the_containers_of_the_named_clients_anew_and_the_routed_ones_stay(
    run_module: Run, engine: FakeEngine, config: dict[str, Any], clients: list[dict[str, Any]]
) -> None:
    """A site starts first: the old container and the new one are as wanted, and the old one's health is known."""
    run_module(client_stack, config=config, clients=clients)
    engine.settle()
    before = {name: engine.by_name(name)["Id"] for name in engine.names()}
    args = {"config": config, "clients": clients[:1]}
    checked = run_module(client_stack, check=True, **args, superseded="keep", force=True)
    assert {name: engine.by_name(name)["Id"] for name in engine.names()} == before
    served = []
    engine.after_call = lambda: served.append(len(engine.running(client_id="a")))
    moved = run_module(client_stack, **args, superseded="keep", force=True)
    assert (moved["superseded"], moved["backends"]) == (2, {"a": {"site": "10.217.0.3"}})
    new = engine.by_name("mt-a.site.next")["Id"]
    removed = run_module(client_stack, **args, backends=moved["backends"])
    assert removed["backends"] == moved["backends"]
    assert min(served) == 1
    assert {name: engine.by_name(name)["Id"] for name in engine.names()} == before | {"mt-a.site": new}
    done = [change for change in moved["changes"] + removed["changes"] if change["action"] != "update"]
    assert done == [change for change in checked["changes"] if change["kind"] == "container"]
    engine.settle()
    assert run_module(client_stack, config=config, clients=clients)["changed"] is False


def test_a_service_that_stops_first_is_made_anew_at_its_address(
    run_module: Run, engine: FakeEngine, clients: list[dict[str, Any]]
) -> None:
    config = with_site(deploy={"update_config": {"order": "stop-first"}})
    before = run_module(client_stack, config=config, clients=clients)["backends"]
    ids = {name: engine.by_name(name)["Id"] for name in engine.names()}
    moved = run_module(client_stack, config=config, clients=clients, superseded="keep", force=True)
    assert moved["backends"] == before
    run_module(client_stack, config=config, clients=clients, backends=moved["backends"])
    now = {name: engine.by_name(name)["Id"] for name in engine.names()}
    assert set(now) == set(ids)
    assert not set(now.values()) & set(ids.values())


def test_check_mode_tells_both_steps_of_a_replacement(
    run_module: Run, engine: FakeEngine, config: dict[str, Any], clients: list[dict[str, Any]]
) -> None:
    run_module(client_stack, config=config, clients=clients)
    changed = with_site(mem_limit="32m")
    checked = run_module(client_stack, check=True, config=changed, clients=clients, superseded="keep")
    done = run_module(client_stack, config=changed, clients=clients, superseded="keep")["changes"]
    engine.settle()
    done += run_module(client_stack, config=changed, clients=clients)["changes"]
    assert sorted(checked["changes"], key=str) == sorted(done, key=str)


def test_a_client_that_is_not_named_is_left_alone(
    run_module: Run, engine: FakeEngine, config: dict[str, Any], clients: list[dict[str, Any]]
) -> None:
    run_module(client_stack, config=config, clients=clients)
    kept = [engine.by_name(name)["Id"] for name in ("mt-b.site", "mt-c.site")]
    run_module(client_stack, config=with_site(mem_limit="32m"), clients=clients[:1])
    assert [engine.by_name(name)["Id"] for name in ("mt-b.site", "mt-c.site")] == kept


def test_a_suspended_client_loses_its_containers(
    run_module: Run, engine: FakeEngine, config: dict[str, Any], clients: list[dict[str, Any]]
) -> None:
    run_module(client_stack, config=config, clients=clients)
    clients[1]["state"] = "suspended"
    result = run_module(client_stack, config=config, clients=clients)
    assert [(change["action"], change["name"]) for change in result["changes"]] == [("delete", "mt-b.site")]
    assert engine.running() == ["mt-a.site", "mt-c.site"]


def test_a_client_s_own_edge_goes_before_what_it_leads_to(
    run_module: Run,
    engine: FakeEngine,
    config: dict[str, Any],
    clients: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "info", lambda: {"CgroupDriver": "cgroupfs", "CgroupVersion": "1"})
    hard = clients[:1]
    hard[0] |= {"isolation_level": "hard", "internal_subnet": "10.217.1.0/28"}
    engine.local_images.add(config["edge"]["image"])
    for module in (client_network, client_stack):
        run_module(module, config=config, clients=hard)
    assert sorted(engine.running()) == ["mt-a.site", "mt-a.traefik"]
    hard[0]["isolation_level"] = "soft"
    result = run_module(client_stack, config=config, clients=hard)
    assert [(change["action"], change["name"]) for change in result["changes"]] == [
        ("delete", "mt-a.traefik"),
        ("delete", "mt-a.site"),
    ]


def test_a_restart_starts_the_same_containers_anew(
    run_module: Run, engine: FakeEngine, config: dict[str, Any], clients: list[dict[str, Any]]
) -> None:
    run_module(client_stack, config=config, clients=clients)
    before = {name: engine.by_name(name)["Id"] for name in engine.names()}
    result = run_module(client_stack, config=config, clients=clients[:2], state="restarted")
    assert len(result["changes"]) == 2
    assert {name: engine.by_name(name)["Id"] for name in engine.running()} == before
    assert [engine.by_name(name)["Starts"] for name in engine.names()] == [2, 2, 1]


def test_a_service_that_the_catalog_lost_is_told_and_nothing_is_done(
    run_module: Run, engine: FakeEngine, config: dict[str, Any], clients: list[dict[str, Any]]
) -> None:
    clients[1]["services"] = {"gone": {}}
    before = engine.snapshot()
    result = run_module(client_stack, config=config, clients=clients)
    assert (result["failed"], result["msg"]) == (True, "Client 'b': services: 'gone' is not in the catalog (site).")
    assert engine.snapshot() == before


def test_check_mode_plans_everything_on_a_host_without_an_engine(
    run_module: Run, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], clients: list[dict[str, Any]]
) -> None:
    monkeypatch.setattr(client_stack, "connect_for", lambda _module, _docker_host: None)
    result = run_module(client_stack, check=True, config=config, clients=clients)
    assert [change["name"] for change in result["changes"]] == ["mt-a.site", "mt-b.site", "mt-c.site"]
    assert result["backends"]["a"] == {"site": "10.217.0.2"}


def test_an_engine_that_does_not_answer_is_told(
    run_module: Run, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], clients: list[dict[str, Any]]
) -> None:
    monkeypatch.undo()
    result = run_module(client_stack, config=config, clients=clients, docker_host="unix:///nowhere/docker.sock")
    assert result["failed"]
    assert "No Docker engine answers at unix:///nowhere/docker.sock" in result["msg"]


# ---------------------------------------------------------------- levels


class Levels:
    """A registry whose clients change, and what the modules are given for it."""

    def __init__(self, run_module: Run, config: dict[str, Any], *edit: dict[str, Any]) -> None:
        self.run_module, self.config = run_module, config
        self.document = empty_document()
        self.become(*edit)

    def become(self, *edit: dict[str, Any]) -> None:
        """Edit the registry and make the networks."""
        self.document = plan_registry(self.document, edit, self.config)[0]
        self.run_module(client_network, **self.args, superseded="keep")

    @property
    def args(self) -> dict[str, Any]:
        shared = shared_allocations(self.document)
        return {"config": self.config, "clients": self.document["clients"], "shared": shared}


def soft(*names: str) -> list[dict[str, Any]]:
    return [{"client_id": name, "isolation_level": "soft"} for name in names]


def test_one_container_serves_all_soft_clients_and_no_client_changes_it(
    run_module: Run, tmp_path: Path, engine: FakeEngine, config: dict[str, Any]
) -> None:
    levels = Levels(run_module, config, *soft("a"))
    address = levels.document["shared"][0]["subnet"].replace(".16/28", ".18")
    result = ladder(run_module, client_stack, tmp_path, engine, **levels.args)
    assert engine.running() == ["mt-shared.site"]
    assert result["backends"] == {"shared.site": {"site": address}}
    before = engine.snapshot()
    levels.become(*soft("b", "c"), {"client_id": "a", "state": "suspended"})
    result = run_module(client_stack, **levels.args)
    assert (result["changed"], result["backends"], engine.snapshot()) == (
        False,
        {"shared.site": {"site": address}},
        before,
    )
    # A run for one of them leaves it to the others.
    one = levels.args | {"clients": levels.document["clients"][:1]}
    levels.become({"client_id": "b", "state": "absent"}, {"client_id": "c", "isolation_level": "medium"})
    run_module(client_stack, **levels.args)
    assert engine.running() == ["mt-c.site", "mt-shared.site"]
    assert run_module(client_stack, **one)["changed"] is False
    # The last one takes it away.
    levels.become({"client_id": "a", "state": "absent"})
    checked = run_module(client_stack, check=True, **levels.args)
    result = run_module(client_stack, **levels.args, superseded="keep")
    assert (result["superseded"], engine.running()) == (1, ["mt-c.site", "mt-shared.site"])
    result = ladder(run_module, client_stack, tmp_path, engine, **levels.args)
    assert result["changes"] == checked["changes"]
    assert engine.names() == ["mt-c.site"]


def test_who_becomes_soft_is_served_before_its_own_container_goes(
    run_module: Run, engine: FakeEngine, config: dict[str, Any]
) -> None:
    levels = Levels(run_module, config, {"client_id": "a"})
    run_module(client_stack, **levels.args)
    levels.become(*soft("a"))
    result = run_module(client_stack, **levels.args, superseded="keep")
    assert engine.running() == ["mt-a.site", "mt-shared.site"]
    assert (set(result["backends"]), result["superseded"]) == ({"shared.site"}, 1)
    run_module(client_stack, **levels.args, backends=result["backends"])
    assert engine.names() == ["mt-shared.site"]


def test_a_shared_container_that_fails_is_told_and_the_others_are_done(run_module: Run, engine: FakeEngine) -> None:
    engine.local_images.add("sick:1")
    engine.sick = {"sick:1"}
    levels = Levels(run_module, with_site(shared={"image": "sick:1"}), {"client_id": "m"}, *soft("s"))
    result = run_module(client_stack, **levels.args, defer_failures=True)
    assert [failure["client_id"] for failure in result["failures"]] == ["shared.site"]
    assert engine.running() == ["mt-m.site"]
    assert (set(result["backends"]["m"]), result["backends"]["shared.site"]) == ({"site"}, {})


def test_a_hard_client_has_its_own_traefik_first_and_all_in_its_cgroup(
    run_module: Run, tmp_path: Path, engine: FakeEngine, config: dict[str, Any]
) -> None:
    levels = Levels(run_module, config, {"client_id": "h", "isolation_level": "hard", "egress": "allow"})
    engine.calls.clear()
    result = ladder(run_module, client_stack, tmp_path, engine, **levels.args)
    created = [call[1] for call in engine.calls if call[0] == "create_container"]
    assert created == ["mt-h.traefik", "mt-h.site"]
    for name in created:
        host = engine.by_name(name)["Config"]["HostConfig"]
        assert host["CgroupParent"] == "/agency_stack/mt-h"
        assert set(engine.by_name(name)["Endpoints"]) == {"mt-h", "mt-h.internal"}
    front, inner = levels.document["clients"][0]["subnet"], levels.document["clients"][0]["internal_subnet"]
    assert (front, inner) == ("10.217.0.0/28", "10.217.0.16/28")
    # Each is reached where its level puts it: Traefik from the host, the service from Traefik.
    assert result["backends"]["h"]["traefik"].startswith("10.217.0.")
    assert result["backends"]["h"] == {"traefik": "10.217.0.2", "site": "10.217.0.19"}


def test_a_suspended_hard_client_keeps_its_own_traefik_alone(
    run_module: Run, engine: FakeEngine, config: dict[str, Any]
) -> None:
    levels = Levels(run_module, config, {"client_id": "h", "isolation_level": "hard"})
    run_module(client_stack, **levels.args)
    before = engine.by_name("mt-h.traefik")["Id"]
    levels.become({"client_id": "h", "state": "suspended"})
    result = run_module(client_stack, **levels.args)
    assert (engine.names(), engine.by_name("mt-h.traefik")["Id"]) == (["mt-h.traefik"], before)
    assert result["backends"] == {"h": {"traefik": "10.217.0.2"}}


def test_of_a_hard_client_that_fails_the_backends_are_what_serves(
    run_module: Run, engine: FakeEngine, config: dict[str, Any]
) -> None:
    engine.local_images.add("sick:1")
    engine.sick = {"sick:1"}
    levels = Levels(run_module, config, {"client_id": "h", "isolation_level": "hard"})
    before = run_module(client_stack, **levels.args)["backends"]
    engine.settle()
    levels.become({"client_id": "h", "services": {"site": {"image": "sick:1"}}})
    result = run_module(client_stack, **levels.args, defer_failures=True, health_timeout=1)
    assert ([failure["client_id"] for failure in result["failures"]], result["backends"]) == (["h"], before)
