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
from ansible_collections.agency_stack.multi_tenancy.plugins.modules import traefik_dynamic_config
from ansible_collections.agency_stack.multi_tenancy.tests.unit.fake_engine import FakeEngine
from ansible_collections.agency_stack.multi_tenancy.tests.unit.helpers import ladder, registered, tree

Run = Callable[..., dict[str, Any]]
BACKENDS = {"a": {"site": "10.217.0.2"}, "b": {"site": "10.217.0.18"}}
NOW = datetime.now(UTC)
AUTHORITY = make_authority("Test", NOW)


class Edge:
    """Serves what the files in its directory say, `late` questions after they were written."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.late = 0
        self.asked: list[str] = []
        self.shaken: list[str] = []
        self.broken: set[str] = set()
        self.default_certificate = False

    def documents(self) -> list[dict[str, Any]]:
        return [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(self.directory.iterdir())]

    def by_name(self, _port: int, kind: str) -> dict[str, dict[str, Any]]:
        self.asked.append(kind)
        if len(self.asked) <= self.late:
            raise TenancyError("The edge's API does not answer.")
        found = {name: item for document in self.documents() for name, item in document["http"][kind].items()}
        return {
            f"{name}@file": item
            | {"status": "disabled" if name in self.broken else "enabled", "error": ["no such thing"]}
            for name, item in found.items()
        }

    def served_fingerprint(self, _port: int, hostname: str) -> str:
        self.shaken.append(hostname)
        for document in self.documents():
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
    fake = Edge(base / "dynamic")
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
    assert (edge.asked, sorted(edge.shaken)) == (["routers", "services"], ["a.example", "b.example"])
    edge.asked.clear()
    edge.shaken.clear()
    run_module(
        traefik_dynamic_config, config=config, clients=clients, backends=BACKENDS | {"a": {"site": "10.217.0.3"}}
    )
    assert (edge.asked, edge.shaken) == (["routers", "services"], ["a.example"])


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
    "the host's address": (lambda _tmp, _client: None, {"site": "10.217.0.1"}, "outside the client's network"),
    "another client's address": (lambda _tmp, _client: None, {"site": "10.217.0.18"}, "outside the client's network"),
    "no address": (lambda _tmp, _client: None, {"site": "evil"}, "outside the client's network"),
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
