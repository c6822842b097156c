# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module platform_logs_info on logs of a small platform."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.modules import (
    client_network,
    client_registry,
    client_stack,
    edge_stack,
    platform_logs_info,
)
from ansible_collections.agency_stack.multi_tenancy.tests.unit.fake_engine import FakeEngine
from ansible_collections.agency_stack.multi_tenancy.tests.unit.helpers import tree

Run = Callable[..., dict[str, Any]]


def access(router: str, path: str = "/") -> str:
    """A line of the edge's access log."""
    return json.dumps({"RequestPath": path, "RouterName": router}, separators=(",", ":"))


@pytest.fixture(autouse=True)
def platform(run_module: Run, engine: FakeEngine, config: dict[str, Any]) -> None:
    """Two clients, one of whom has an id that is the beginning of the other's."""
    clients = run_module(client_registry, config=config, clients=[{"client_id": "a"}, {"client_id": "ab"}])["clients"]
    run_module(edge_stack, config=config)
    run_module(client_network, config=config, clients=clients)
    run_module(client_stack, config=config, clients=clients)
    engine.by_name("mt-edge")["Log"] = [
        access("a.site@file", "/one"),
        access("ab.site@file", "/two"),
        access("ab.site@file", '/"RouterName":"a.'),
        "started",
    ]
    for name in ("mt-a.site", "mt-ab.site"):
        engine.by_name(name)["Log"] = [f"{name} {number}" for number in range(50)]


def lines(result: dict[str, Any]) -> dict[str, list[str]]:
    return {log["source"]: log["lines"] for log in result["logs"]}


@pytest.mark.parametrize("check", [True, False])
def test_all_logs_are_told_and_nothing_is_touched(
    run_module: Run, tmp_path: Path, engine: FakeEngine, config: dict[str, Any], check: bool
) -> None:
    before = tree(tmp_path), engine.snapshot()
    result = run_module(platform_logs_info, check=check, config=config, lines=3)
    assert list(lines(result)) == ["component", "mt-edge", "mt-a.site", "mt-ab.site"]
    assert lines(result)["mt-a.site"] == ["mt-a.site 47", "mt-a.site 48", "mt-a.site 49"]
    assert [len(kept) for kept in lines(result).values()] == [3, 3, 3, 3]
    assert not result["changed"]
    assert (tree(tmp_path), engine.snapshot()) == before
    assert "==> mt-a.site <==\nmt-a.site 47\n" in result["report"]


def test_of_one_client_only_its_own_lines_are_told(run_module: Run, config: dict[str, Any]) -> None:
    told = lines(run_module(platform_logs_info, config=config, client_ids=["a"], lines=100))
    assert list(told) == ["component", "mt-edge", "mt-a.site"]
    assert told["mt-edge"] == [access("a.site@file", "/one")]
    assert {json.loads(line)["client_id"] for line in told["component"]} == {"a"}
    assert len(told["mt-a.site"]) == 50


# Service asked for -> sources.
SERVICES = {"component": ["component"], "edge": ["mt-edge"], "site": ["mt-a.site", "mt-ab.site"], "nothing": []}


@pytest.mark.parametrize(("service", "sources"), SERVICES.items())
def test_one_service_can_be_asked_for(
    run_module: Run, config: dict[str, Any], service: str, sources: list[str]
) -> None:
    assert list(lines(run_module(platform_logs_info, config=config, service=service))) == sources


def test_bytes_that_are_no_text_do_not_hide_the_rest(run_module: Run, tmp_path: Path, config: dict[str, Any]) -> None:
    path = tmp_path / "log" / "components" / "multi_tenancy.log"
    path.write_bytes(path.read_bytes() + b'{"client_id": "a", "x": "\xff"}\n')
    told = lines(run_module(platform_logs_info, config=config, client_ids=["a"], lines=1))
    assert told["component"] == ['{"client_id": "a", "x": "\N{REPLACEMENT CHARACTER}"}']


def test_an_unknown_client_is_named(run_module: Run, config: dict[str, Any]) -> None:
    result = run_module(platform_logs_info, config=config, client_ids=["x"])
    assert (result["failed"], result["msg"]) == (True, "There is no client 'x'; there are a, ab.")


def test_without_a_log_there_are_no_lines(run_module: Run, tmp_path: Path, config: dict[str, Any]) -> None:
    (tmp_path / "log" / "components" / "multi_tenancy.log").unlink()
    assert lines(run_module(platform_logs_info, config=config, service="component")) == {"component": []}


def test_an_engine_that_refuses_is_told(
    run_module: Run, engine: FakeEngine, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_args: object, **_options: object) -> bytes:
        raise TimeoutError("timed out")

    monkeypatch.setattr(engine, "logs", gone)
    result = run_module(platform_logs_info, config=config)
    assert (result["failed"], result["msg"]) == (True, "Reading the log of container mt-edge failed: timed out.")
