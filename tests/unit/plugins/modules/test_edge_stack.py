# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module edge_stack with real files and an engine in memory. Owners need root."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._config import effective_config
from ansible_collections.agency_stack.multi_tenancy.plugins.modules import edge_stack
from ansible_collections.agency_stack.multi_tenancy.tests.unit.fake_engine import FakeEngine
from ansible_collections.agency_stack.multi_tenancy.tests.unit.helpers import ladder

Run = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def port_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_stack, "read_port_start", lambda: 1024)


@pytest.fixture
def static(tmp_path: Path) -> Path:
    return tmp_path / "root" / "multi_tenancy" / "traefik" / "traefik.yml"


def with_api_port(port: int) -> dict[str, Any]:
    return effective_config([("config.yaml", {"edge": {"api_port": port}})])


def api_port(static: Path) -> str:
    return str(yaml.safe_load(static.read_text(encoding="utf-8"))["entryPoints"]["traefik"]["address"])


def test_the_edge_is_run_and_kept(
    run_module: Run, tmp_path: Path, engine: FakeEngine, config: dict[str, Any], static: Path
) -> None:
    result = ladder(run_module, edge_stack, tmp_path, engine, config=config)
    assert result["user"] == "0:65532"
    assert engine.running(component="edge") == ["mt-edge"]
    host = engine.by_name("mt-edge")["Config"]["HostConfig"]
    assert (host["NetworkMode"], host["CapDrop"], host["CapAdd"]) == ("host", ["ALL"], ["NET_BIND_SERVICE"])
    assert [mount["Source"] for mount in host["Mounts"]] == [str(static.parent)]
    assert (stat.S_IMODE(static.stat().st_mode), static.stat().st_uid, static.stat().st_gid) == (0o640, 0, 65532)


def test_a_new_configuration_starts_the_edge_anew_under_its_name(
    run_module: Run, tmp_path: Path, engine: FakeEngine, config: dict[str, Any], static: Path
) -> None:
    run_module(edge_stack, config=config)
    before = engine.by_name("mt-edge")["Id"]
    running = []
    engine.after_call = lambda: running.append(len(engine.running()))
    ladder(run_module, edge_stack, tmp_path, engine, config=with_api_port(9000))
    assert max(running) == 1
    assert api_port(static) == "127.0.0.1:9000"
    assert engine.names() == ["mt-edge"]
    assert engine.by_name("mt-edge")["Id"] != before


def test_an_edge_that_fails_gives_way_to_the_old_one_and_its_configuration(
    run_module: Run, engine: FakeEngine, config: dict[str, Any], static: Path
) -> None:
    """Traefik reads its configuration when it starts: the old one started with the new file would fail as well."""
    run_module(edge_stack, config=config)
    before = engine.by_name("mt-edge")["Id"], api_port(static)
    started_with = []
    real_start = engine.start

    def start(container: str) -> None:
        started_with.append((engine.inspect_container(container)["Name"], api_port(static)))
        real_start(container)

    engine.start = start  # type: ignore[method-assign]
    bad = with_api_port(9000)
    bad["edge"]["image"] = "broken:1"
    engine.local_images.add("broken:1")
    engine.broken.add("broken:1")
    result = run_module(edge_stack, config=bad)
    assert result["failed"]
    assert "Container mt-edge ended with exit code 3" in result["msg"]
    assert "The earlier container was kept." in result["msg"]
    assert started_with == [("/mt-edge.next", "127.0.0.1:9000"), ("/mt-edge", before[1])]
    assert engine.running() == ["mt-edge"]
    assert (engine.by_name("mt-edge")["Id"], api_port(static)) == before


def test_force_makes_the_edge_and_its_configuration_anew(
    run_module: Run, engine: FakeEngine, config: dict[str, Any], static: Path
) -> None:
    run_module(edge_stack, config=config)
    before = engine.by_name("mt-edge")["Id"], static.read_bytes()
    static.chmod(0o600)
    checked = run_module(edge_stack, check=True, config=config, force=True)
    assert (engine.by_name("mt-edge")["Id"], stat.S_IMODE(static.stat().st_mode)) == (before[0], 0o600)
    most = []
    engine.after_call = lambda: most.append(len(engine.running()))
    result = run_module(edge_stack, config=config, force=True)
    assert (result["changes"], result["diff"]) == (checked["changes"], checked["diff"])
    assert [(change["action"], change["kind"]) for change in result["changes"]][:2] == [
        ("update", "edge configuration"),
        ("recreate", "container"),
    ]
    assert max(most) == 1
    assert engine.running() == engine.names() == ["mt-edge"]
    assert engine.by_name("mt-edge")["Id"] != before[0]
    assert (static.read_bytes(), stat.S_IMODE(static.stat().st_mode)) == (before[1], 0o640)
    assert run_module(edge_stack, config=config)["changed"] is False


def test_a_restart_keeps_the_container(run_module: Run, engine: FakeEngine, config: dict[str, Any]) -> None:
    run_module(edge_stack, config=config)
    before = engine.by_name("mt-edge")["Id"]
    result = run_module(edge_stack, config=config, state="restarted")
    assert (result["changed"], engine.by_name("mt-edge")["Id"], engine.by_name("mt-edge")["Starts"]) == (
        True,
        before,
        2,
    )


def test_clients_containers_are_no_business_of_the_edge(
    run_module: Run, engine: FakeEngine, config: dict[str, Any]
) -> None:
    labels = {"agency_stack.platform": "mt", "agency_stack.client_id": "a", "agency_stack.service": "site"}
    host = engine.create_host_config(network_mode="host")
    made = engine.create_container_config(config["edge"]["image"], None, labels=labels, host_config=host)
    engine.create_container_from_config(made, "mt-a.site")
    run_module(edge_stack, config=config)
    assert engine.names() == ["mt-a.site", "mt-edge"]


def test_check_mode_plans_everything_on_a_bare_host(
    run_module: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any]
) -> None:
    monkeypatch.setattr(edge_stack, "connect_for", lambda _module, _docker_host: None)
    result = run_module(edge_stack, check=True, config=config)
    assert {change["kind"] for change in result["changes"]} == {"directory", "edge configuration", "container"}
    assert list(tmp_path.iterdir()) == []
