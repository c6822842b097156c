# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module traefik_dynamic_config with real files and an edge that reads them."""

from __future__ import annotations

import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._certificates import (
    Pair,
    issue,
    make_authority,
    read_certificate,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._config import effective_config
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry import (
    empty_document,
    plan_registry,
    shared_allocations,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.modules import traefik_dynamic_config
from ansible_collections.agency_stack.multi_tenancy.tests.unit.fake_engine import FakeEngine
from ansible_collections.agency_stack.multi_tenancy.tests.unit.helpers import ladder, registered, tree

Run = Callable[..., dict[str, Any]]
BACKENDS = {"a": {"site": "10.217.0.2"}, "b": {"site": "10.217.0.18"}}
NOW = datetime.now(UTC)
AUTHORITY = make_authority("Test", NOW)


class Edge:
    """Serves what the files in its directory say, `late` questions after they were written.

    Beside it are the own Traefiks of hard clients, by the address of each.
    """

    def __init__(self, directory: Path, homes: Path) -> None:
        self.directory = directory
        self.homes = homes
        self.own: dict[str, str] = {}
        self.late = 0
        self.asked: list[str] = []
        self.shaken: list[str] = []
        self.broken: set[str] = set()
        self.default_certificate = False

    def documents(self) -> list[dict[str, Any]]:
        return [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(self.directory.iterdir())]

    def own_documents(self, client_id: str) -> list[dict[str, Any]]:
        folder = self.homes / client_id / "traefik" / "dynamic"
        return [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(folder.iterdir())]

    def by_name(self, _port: int, kind: str, host: str = "") -> dict[str, dict[str, Any]]:
        self.asked.append(f"{host} {kind}".strip())
        if len(self.asked) <= self.late or (host and host not in self.own):
            raise TenancyError("The edge's API does not answer.")
        layer, dummy, key = kind.partition("/")
        documents = self.own_documents(self.own[host]) if host else self.documents()
        found = {name: item for document in documents for name, item in document.get(layer, {}).get(key, {}).items()}
        for item in found.values():
            if "serversTransport" in item.get("loadBalancer", {}):
                item["loadBalancer"]["serversTransport"] += "@file"
        return {
            f"{name}@file": item
            | {"status": "disabled" if name in self.broken else "enabled", "error": ["no such thing"]}
            for name, item in found.items()
        }

    def served_fingerprint(self, _port: int, hostname: str) -> str:
        self.shaken.append(hostname)
        for document in [*self.documents(), *(one for name in self.own.values() for one in self.own_documents(name))]:
            for certificate in document.get("tls", {}).get("certificates", []):
                facts = read_certificate(certificate["certFile"])
                if hostname in facts.names and not self.default_certificate:
                    return facts.fingerprint
        return "the edge's own"


@pytest.fixture
def clients(config: dict[str, Any]) -> list[dict[str, Any]]:
    return registered(config, *({"client_id": name, "domain": f"{name}.example"} for name in ("a", "b")))


@pytest.fixture(autouse=True)
def edge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Any) -> Edge:
    """The edge; and what the roles made before."""
    base = tmp_path / "root" / "multi_tenancy" / "traefik"
    for name in ("dynamic", "staging"):
        (base / name).mkdir(parents=True)
    for name in ("a", "b"):
        put(tmp_path, name, issue(AUTHORITY, [f"{name}.example"], NOW))
    fake = Edge(base / "dynamic", tmp_path / "root" / "clients")
    monkeypatch.setattr(traefik_dynamic_config, "by_name", fake.by_name)
    monkeypatch.setattr(traefik_dynamic_config, "served_fingerprint", fake.served_fingerprint)
    monkeypatch.setattr(traefik_dynamic_config, "time", clock)
    return fake


def put(tmp_path: Path, client_id: str, pair: Pair) -> None:
    folder = tmp_path / "root" / "clients" / client_id / "certs"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tls.crt").write_text(pair.certificate, encoding="ascii")
    (folder / "tls.key").write_text(pair.key, encoding="ascii")


def test_routes_are_written_served_and_kept(
    run_module: Run,
    tmp_path: Path,
    engine: FakeEngine,
    config: dict[str, Any],
    clients: list[dict[str, Any]],
    edge: Edge,
) -> None:
    result = ladder(
        run_module, traefik_dynamic_config, tmp_path, engine, config=config, clients=clients, backends=BACKENDS
    )
    assert result["urls"] == {"a": "https://a.example/", "b": "https://b.example/"}
    path = edge.directory / "a.yml"
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert document["http"]["services"]["a.site"]["loadBalancer"]["servers"] == [{"url": "http://10.217.0.2:8080"}]
    assert "PRIVATE KEY" in document["tls"]["certificates"][0]["keyFile"]
    assert (stat.S_IMODE(path.stat().st_mode), path.stat().st_uid, path.stat().st_gid) == (0o640, 0, 65532)
    assert "PRIVATE KEY" not in str(result)
    assert list((edge.directory.parent / "staging").iterdir()) == []


def test_the_api_is_asked_once_for_all_and_a_handshake_made_for_what_changed(
    run_module: Run, config: dict[str, Any], clients: list[dict[str, Any]], edge: Edge
) -> None:
    run_module(traefik_dynamic_config, config=config, clients=clients, backends=BACKENDS)
    assert (edge.asked, sorted(edge.shaken)) == (["http/routers", "http/services"], ["a.example", "b.example"])
    edge.asked.clear()
    edge.shaken.clear()
    run_module(
        traefik_dynamic_config, config=config, clients=clients, backends=BACKENDS | {"a": {"site": "10.217.0.3"}}
    )
    assert (edge.asked, edge.shaken) == (["http/routers", "http/services"], ["a.example"])


def test_force_writes_and_confirms_what_is_as_wanted(
    run_module: Run, config: dict[str, Any], clients: list[dict[str, Any]], edge: Edge
) -> None:
    run_module(traefik_dynamic_config, config=config, clients=clients, backends=BACKENDS)
    before = tree(edge.directory)
    (edge.directory / "a.yml").chmod(0o644)
    changed = tree(edge.directory)
    args = {"config": config, "clients": clients[:1], "backends": BACKENDS, "force": True}
    checked = run_module(traefik_dynamic_config, check=True, **args)
    assert tree(edge.directory) == changed
    edge.shaken.clear()
    result = run_module(traefik_dynamic_config, **args)
    assert (result["changes"], result["diff"]) == (checked["changes"], checked["diff"])
    assert [(change["action"], change["name"]) for change in result["changes"]] == [("update", "a")]
    assert edge.shaken == ["a.example"]
    after = tree(edge.directory)
    # Mode, owner and content are what they were; it is another file.
    assert (after["a.yml"][:3], after["a.yml"][4]) == (before["a.yml"][:3], before["a.yml"][4])
    assert after["a.yml"][3] != before["a.yml"][3]
    assert after["b.yml"] == before["b.yml"]


def test_an_edge_that_takes_its_time_is_waited_for(
    run_module: Run, config: dict[str, Any], clients: list[dict[str, Any]], edge: Edge
) -> None:
    edge.late = 5
    result = run_module(traefik_dynamic_config, config=config, clients=clients, backends=BACKENDS)
    assert not result.get("failed")
    assert len(edge.asked) > 5


def test_check_mode_never_asks_the_edge(
    run_module: Run, config: dict[str, Any], clients: list[dict[str, Any]], edge: Edge
) -> None:
    run_module(traefik_dynamic_config, check=True, config=config, clients=clients, backends=BACKENDS)
    assert edge.asked == []


UNSERVED: dict[str, tuple[Callable[[Edge], object], str]] = {
    "refused": (lambda edge: edge.broken.add("a.site"), "the route a.site is disabled: no such thing"),
    "with the edge's own certificate": (
        lambda edge: setattr(edge, "default_certificate", True),
        "a.example is served with another certificate",
    ),
    "never": (lambda edge: setattr(edge, "late", 10**9), "The edge's API does not answer."),
}


@pytest.mark.parametrize(("fault", "named"), UNSERVED.values(), ids=UNSERVED)
def test_what_is_not_served_is_told(
    run_module: Run,
    config: dict[str, Any],
    clients: list[dict[str, Any]],
    edge: Edge,
    fault: Callable[[Edge], object],
    named: str,
) -> None:
    fault(edge)
    result = run_module(
        traefik_dynamic_config, config=config, clients=clients[:1], backends=BACKENDS, confirm_timeout=1
    )
    assert result["failed"]
    assert f"Client a: the edge does not serve its routes after 1 s: {named}" in result["msg"]


def test_one_client_that_is_not_served_does_not_hide_the_others(
    run_module: Run, config: dict[str, Any], clients: list[dict[str, Any]], edge: Edge
) -> None:
    edge.broken.add("b.site")
    result = run_module(
        traefik_dynamic_config,
        config=config,
        clients=clients,
        backends=BACKENDS,
        confirm_timeout=1,
        defer_failures=True,
    )
    assert [failure["client_id"] for failure in result["failures"]] == ["b"]


# What is wrong with client a -> words that its failure must hold; the other client is routed all the same.
REFUSED: dict[str, tuple[Callable[[Path, dict[str, Any]], object], dict[str, str], str]] = {
    "the host's address": (lambda _tmp, _client: None, {"site": "10.217.0.1"}, "outside its network"),
    "another client's address": (lambda _tmp, _client: None, {"site": "10.217.0.18"}, "outside its network"),
    "no address": (lambda _tmp, _client: None, {"site": "evil"}, "outside its network"),
    "a name that is not canonical": (
        lambda _tmp, client: client.update(domain="A.example"),
        {"site": "10.217.0.2"},
        "not in its canonical form",
    ),
    "a key of another": (
        lambda tmp, _client: put(tmp, "a", Pair(issue(AUTHORITY, ["a.example"], NOW).certificate, AUTHORITY.key)),
        {"site": "10.217.0.2"},
        "do not belong together",
    ),
    "half a certificate": (
        lambda tmp, _client: put(tmp, "a", Pair("-----BEGIN CERTIFICATE-----\nMII", AUTHORITY.key)),
        {"site": "10.217.0.2"},
        "do not belong together",
    ),
    "a certificate without a key": (
        lambda tmp, _client: put(tmp, "a", Pair(AUTHORITY.certificate, "")),
        {"site": "10.217.0.2"},
        "do not belong together",
    ),
}


@pytest.mark.parametrize("check", [True, False], ids=["check", "run"])
@pytest.mark.parametrize(("spoil", "backends", "named"), REFUSED.values(), ids=REFUSED)
def test_what_must_not_reach_traefik_leaves_the_old_route_and_the_other_clients(
    run_module: Run,
    tmp_path: Path,
    config: dict[str, Any],
    clients: list[dict[str, Any]],
    edge: Edge,
    spoil: Callable[[Path, dict[str, Any]], object],
    backends: dict[str, str],
    named: str,
    check: bool,
) -> None:
    run_module(traefik_dynamic_config, config=config, clients=clients[:1], backends=BACKENDS)
    before = (edge.directory / "a.yml").read_bytes()
    spoil(tmp_path, clients[0])
    result = run_module(
        traefik_dynamic_config, check=check, config=config, clients=clients, backends=BACKENDS | {"a": backends}
    )
    assert result["failed"]
    assert [failure["client_id"] for failure in result["failures"]] == ["a"]
    assert named in result["msg"]
    assert (edge.directory / "a.yml").read_bytes() == before
    assert [change["name"] for change in result["changes"]] == ["b"]
    assert (edge.directory / "b.yml").exists() == (not check)


def test_the_route_of_a_client_without_an_address_stays(
    run_module: Run, config: dict[str, Any], clients: list[dict[str, Any]], edge: Edge
) -> None:
    run_module(traefik_dynamic_config, config=config, clients=clients, backends=BACKENDS)
    before = tree(edge.directory)
    for backends in ({}, {"a": {}, "b": {}}, {"a": {"other": "10.217.0.2"}}):
        result = run_module(traefik_dynamic_config, config=config, clients=clients, backends=backends)
        assert (result["changed"], tree(edge.directory)) == (False, before)


def test_a_suspended_client_is_routed_to_no_server_and_its_visitors_are_asked_to_come_again(
    run_module: Run, config: dict[str, Any], clients: list[dict[str, Any]], edge: Edge
) -> None:
    run_module(traefik_dynamic_config, config=config, clients=clients, backends=BACKENDS)
    clients[0]["state"] = "suspended"
    result = run_module(traefik_dynamic_config, config=config, clients=clients, backends={})
    assert [(change["action"], change["name"]) for change in result["changes"]] == [("update", "a")]
    http = yaml.safe_load((edge.directory / "a.yml").read_text())["http"]
    assert [service["loadBalancer"]["servers"] for service in http["services"].values()] == [[]]
    headers = http["middlewares"]["a.suspended"]["headers"]["customResponseHeaders"]
    assert int(headers["Retry-After"]) > 0
    assert all(router["middlewares"] == ["a.suspended"] for router in http["routers"].values())


def test_the_route_of_an_absent_client_is_removed(
    run_module: Run, config: dict[str, Any], clients: list[dict[str, Any]], edge: Edge
) -> None:
    run_module(traefik_dynamic_config, config=config, clients=clients, backends=BACKENDS)
    clients[0]["state"] = "absent"
    result = run_module(traefik_dynamic_config, config=config, clients=clients, backends=BACKENDS)
    assert [(change["action"], change["name"]) for change in result["changes"]] == [("delete", "a")]
    assert [path.name for path in edge.directory.iterdir()] == ["b.yml"]


def test_a_client_without_anything_to_route_never_gets_a_file_without_routers(
    run_module: Run, clients: list[dict[str, Any]], edge: Edge
) -> None:
    """Traefik takes an empty list of routers for an error, and then serves nobody after its next start."""
    config = effective_config([("config.yaml", {"services": {"worker": {"image": "worker:1"}}})])
    run_module(traefik_dynamic_config, config=config, clients=clients, backends=BACKENDS)
    clients[0]["services"] = {"worker": {}}
    result = run_module(
        traefik_dynamic_config, config=config, clients=clients, backends=BACKENDS | {"a": {"worker": "10.217.0.2"}}
    )
    assert [path.name for path in edge.directory.iterdir()] == ["b.yml"]
    assert [(change["action"], change["name"]) for change in result["changes"]] == [("delete", "a")]


def test_a_damaged_file_is_written_anew(
    run_module: Run, config: dict[str, Any], clients: list[dict[str, Any]], edge: Edge
) -> None:
    (edge.directory / "a.yml").write_bytes(b"\xff\xfe")
    result = run_module(traefik_dynamic_config, config=config, clients=clients, backends=BACKENDS)
    assert not result.get("failed"), result
    assert len(edge.documents()) == 2


def test_another_port_stands_in_the_address(run_module: Run, clients: list[dict[str, Any]]) -> None:
    config = effective_config([("config.yaml", {"edge": {"https_port": 8443}})])
    result = run_module(traefik_dynamic_config, config=config, clients=clients, backends=BACKENDS)
    assert result["urls"]["a"] == "https://a.example:8443/"


# ---------------------------------------------------------------- soft


def shared_site(
    config: dict[str, Any], *names: str, **common: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Soft clients, and the allocation of the site that they share."""
    edit = [{"client_id": name, "domain": f"{name}.example", "isolation_level": "soft", **common} for name in names]
    document = plan_registry(empty_document(), edit, config)[0]
    return document["clients"], shared_allocations(document)


def test_soft_clients_lead_to_the_instance_that_they_share(
    run_module: Run, tmp_path: Path, engine: FakeEngine, config: dict[str, Any], edge: Edge
) -> None:
    clients, shared = shared_site(config, "a", "b")
    assert shared[0]["subnet"] == "10.217.0.32/28"
    args = {
        "config": config,
        "clients": clients,
        "shared": shared,
        "backends": {"shared.site": {"site": "10.217.0.34"}},
    }
    ladder(run_module, traefik_dynamic_config, tmp_path, engine, **args)
    for name, document in zip("ab", edge.documents(), strict=True):
        http = document["http"]
        assert http["services"][f"{name}.site"]["loadBalancer"]["servers"] == [{"url": "http://10.217.0.34:8080"}]
        assert http["routers"][f"{name}.site"]["middlewares"] == [f"{name}.identity", f"{name}.rate"]
        headers = http["middlewares"][f"{name}.identity"]["headers"]["customRequestHeaders"]
        limit = http["middlewares"][f"{name}.rate"]["rateLimit"]
        assert (headers, limit["average"], limit["burst"]) == ({"X-Client-Id": name}, 100, 200)
    # Another rate is another file of one client.
    clients[1]["rate_limit"] = {"average": 1, "burst": 2}
    assert [change["name"] for change in run_module(traefik_dynamic_config, **args)["changes"]] == ["b"]
    # The instance is away for a moment: the routes stay.
    before = tree(edge.directory)
    for backends in ({}, {"shared.site": {}}):
        assert run_module(traefik_dynamic_config, **args | {"backends": backends})["changed"] is False
    assert tree(edge.directory) == before
    clients[0]["state"] = "suspended"
    run_module(traefik_dynamic_config, **args | {"backends": {}})
    assert edge.documents()[0]["http"]["services"]["a.site"]["loadBalancer"]["servers"] == []


@pytest.mark.parametrize("address", ["10.217.0.2", "10.217.0.33", "10.217.0.47"])
def test_a_soft_client_leads_nowhere_but_to_the_shared_network(
    run_module: Run, config: dict[str, Any], edge: Edge, address: str
) -> None:
    clients, shared = shared_site(config, "a", "b")
    backends = {"shared.site": {"site": address}}
    result = run_module(traefik_dynamic_config, config=config, clients=clients, shared=shared, backends=backends)
    assert f"The backend {address} of 'a.site' lies outside its network 10.217.0.32/28." in result["msg"]
    assert edge.documents() == []


def test_a_client_of_its_own_instances_never_leads_to_a_shared_one(
    run_module: Run, config: dict[str, Any], edge: Edge
) -> None:
    clients, shared = shared_site(config, "a", "b")
    clients[0]["isolation_level"] = "medium"
    backends = {"shared.site": {"site": "10.217.0.34"}}
    args = {"config": config, "clients": clients, "shared": shared}
    result = run_module(traefik_dynamic_config, **args, backends=backends)
    assert [change["name"] for change in result["changes"]] == ["b"]
    # And one who shares never to what it had alone.
    clients[0]["isolation_level"] = "soft"
    result = run_module(traefik_dynamic_config, **args, backends={"a": {"site": "10.217.0.2"}, "b": {}})
    assert result["changed"] is False


# ---------------------------------------------------------------- hard

INSIDE = {"traefik": "10.217.0.2", "site": "10.217.0.34"}


@pytest.fixture
def hard(config: dict[str, Any], clients: list[dict[str, Any]], edge: Edge) -> dict[str, Any]:
    """The first client is hard, and its own Traefik runs."""
    clients[0] |= {"isolation_level": "hard", "internal_subnet": "10.217.0.32/28"}
    (edge.homes / "a" / "traefik" / "dynamic").mkdir(parents=True)
    edge.own["10.217.0.2"] = "a"
    return {"config": config, "clients": clients, "backends": BACKENDS | {"a": INSIDE}}


def test_a_hard_client_s_own_traefik_holds_route_and_key_and_the_edge_neither(
    run_module: Run, tmp_path: Path, engine: FakeEngine, hard: dict[str, Any], edge: Edge
) -> None:
    result = ladder(run_module, traefik_dynamic_config, tmp_path, engine, **hard)
    # Before visitors are led there.
    assert [change["kind"] for change in result["changes"] if change["client_id"] == "a"] == ["own route", "route"]
    path = edge.homes / "a" / "traefik" / "dynamic" / "routes.yml"
    gid = hard["clients"][0]["gid"]
    assert (stat.S_IMODE(path.stat().st_mode), path.stat().st_uid, path.stat().st_gid) == (0o640, 0, gid)
    [own] = edge.own_documents("a")
    assert own["http"]["services"]["a.site"]["loadBalancer"]["servers"] == [{"url": "http://10.217.0.34:8080"}]
    assert "PRIVATE KEY" in own["tls"]["certificates"][0]["keyFile"]
    text = (edge.directory / "a.yml").read_text(encoding="utf-8")
    assert "PRIVATE KEY" not in text
    assert "CERTIFICATE" not in text
    assert "10.217.0.34" not in text
    tcp = yaml.safe_load(text)["tcp"]
    assert tcp["routers"]["a.traefik"]["tls"] == {"passthrough": True}
    assert tcp["services"]["a.traefik"]["loadBalancer"]["servers"] == [{"address": "10.217.0.2:8443"}]
    assert "a.example" in edge.shaken
    assert list((edge.directory.parent / "staging").iterdir()) == []


SILENT: dict[str, tuple[Callable[[Edge], object], str]] = {
    "does not answer": (lambda edge: edge.own.clear(), "The edge's API does not answer."),
    "refuses the route": (lambda edge: edge.broken.add("a.site"), "the route a.site is disabled: no such thing"),
}


@pytest.mark.parametrize("before", ["medium", "nothing"])
@pytest.mark.parametrize(("fault", "named"), SILENT.values(), ids=SILENT)
def test_visitors_are_led_to_an_own_traefik_only_when_it_serves(
    run_module: Run,
    hard: dict[str, Any],
    edge: Edge,
    fault: Callable[[Edge], object],
    named: str,
    before: str,
) -> None:
    acme, own = hard["clients"][0], dict(edge.own)
    if before == "medium":
        acme["isolation_level"] = "medium"
        run_module(traefik_dynamic_config, **hard | {"backends": BACKENDS})
        acme["isolation_level"] = "hard"
    old = {path.name: path.read_bytes() for path in edge.directory.iterdir() if path.name == "a.yml"}
    assert len(old) == (before == "medium")
    fault(edge)
    result = run_module(traefik_dynamic_config, **hard, confirm_timeout=1)
    assert [failure["client_id"] for failure in result["failures"]] == ["a"]
    assert f"Client a: its own Traefik does not serve its routes after 1 s: {named}" in result["msg"]
    assert {path.name: path.read_bytes() for path in edge.directory.iterdir() if path.name == "a.yml"} == old
    assert (edge.directory / "b.yml").exists()
    edge.own |= own
    edge.broken.clear()
    result = run_module(traefik_dynamic_config, **hard)
    assert [(change["kind"], change["name"]) for change in result["changes"]] == [("route", "a")]


@pytest.mark.parametrize("level", ["medium", "soft"])
def test_a_client_goes_from_one_level_to_another_and_back(
    run_module: Run, tmp_path: Path, engine: FakeEngine, hard: dict[str, Any], edge: Edge, level: str
) -> None:
    acme = hard["clients"][0]
    item = {"service": "site", "index": 9, "subnet": "10.217.0.64/28", "uid": 1, "gid": 1, "state": "present"}
    hard |= {"shared": [item]}
    hard["backends"] |= {"shared.site": {"site": "10.217.0.66"}}
    backends = {"hard": INSIDE, level: {"site": "10.217.0.2"}}
    leads = {"medium": "http://10.217.0.2:8080", "soft": "http://10.217.0.66:8080"}
    for now in (level, "hard", level, "hard"):
        acme["isolation_level"] = now
        hard["backends"]["a"] = backends[now]
        ladder(run_module, traefik_dynamic_config, tmp_path, engine, **hard)
        document = edge.documents()[0]
        if now == "hard":
            assert "tls" not in document
            assert document["tcp"]["services"]["a.traefik"]["loadBalancer"]["servers"] == [
                {"address": "10.217.0.2:8443"}
            ]
            # No router is left that would go before the passthrough.
            assert not any("Host(" in router["rule"] for router in document["http"]["routers"].values())
        else:
            assert "tcp" not in document
            assert document["http"]["services"]["a.site"]["loadBalancer"]["servers"] == [{"url": leads[level]}]
    # The other one was never touched.
    assert edge.documents()[1]["http"]["services"]["b.site"]["loadBalancer"]["servers"] == [
        {"url": "http://10.217.0.18:8080"}
    ]


def test_the_edge_keeps_the_passthrough_of_a_suspended_client(
    run_module: Run, hard: dict[str, Any], edge: Edge
) -> None:
    run_module(traefik_dynamic_config, **hard)
    before = (edge.directory / "a.yml").read_bytes()
    hard["clients"][0]["state"] = "suspended"
    hard["backends"]["a"] = {"traefik": "10.217.0.2"}
    result = run_module(traefik_dynamic_config, **hard)
    assert [(change["kind"], change["name"]) for change in result["changes"]] == [("own route", "a")]
    assert (edge.directory / "a.yml").read_bytes() == before
    [own] = edge.own_documents("a")
    assert own["http"]["services"]["a.site"]["loadBalancer"]["servers"] == []
    hard["clients"][0]["state"] = "absent"
    result = run_module(traefik_dynamic_config, **hard)
    assert [(change["action"], change["kind"], change["name"]) for change in result["changes"]] == [
        ("delete", "route", "a")
    ]


# Addresses of a hard client -> words of the refusal; None where the routes stay as they are.
OUTSIDE: dict[str, tuple[dict[str, str], str | None]] = {
    "service on the front network": (
        INSIDE | {"site": "10.217.0.3"},
        "The backend 10.217.0.3 of 'a.site' lies outside its network 10.217.0.32/28.",
    ),
    "own Traefik on the second network": (
        INSIDE | {"traefik": "10.217.0.35"},
        "The backend 10.217.0.35 of 'a.traefik' lies outside its network 10.217.0.0/28.",
    ),
    "own Traefik of another client": (
        INSIDE | {"traefik": "10.217.0.18"},
        "The backend 10.217.0.18 of 'a.traefik' lies outside its network 10.217.0.0/28.",
    ),
    "no own Traefik": ({"site": "10.217.0.34"}, None),
    "no service": ({"traefik": "10.217.0.2"}, None),
}


@pytest.mark.parametrize(("backends", "named"), OUTSIDE.values(), ids=OUTSIDE)
def test_each_of_a_hard_client_s_addresses_lies_in_its_network(
    run_module: Run, hard: dict[str, Any], edge: Edge, backends: dict[str, str], named: str | None
) -> None:
    run_module(traefik_dynamic_config, **hard)
    before = tree(edge.directory), tree(edge.homes)
    result = run_module(traefik_dynamic_config, **hard | {"backends": BACKENDS | {"a": backends}})
    assert (tree(edge.directory), tree(edge.homes), result["changed"]) == (*before, False)
    assert result.get("msg", "") == (f"Client a: {named}" if named else "")
