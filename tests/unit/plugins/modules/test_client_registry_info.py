# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module client_registry_info."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.modules import client_registry, client_registry_info
from ansible_collections.agency_stack.multi_tenancy.tests.unit.helpers import tree

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def clients(run_module: Run, config: dict[str, Any]) -> list[dict[str, Any]]:
    result = run_module(client_registry, config=config, clients=[{"client_id": name} for name in ("c", "a", "b")])
    found: list[dict[str, Any]] = result["clients"]
    return found


@pytest.mark.parametrize("check", [True, False])
def test_clients_are_returned_and_nothing_is_touched(
    run_module: Run, tmp_path: Path, clients: list[dict[str, Any]], check: bool
) -> None:
    before = tree(tmp_path)
    assert run_module(client_registry_info, check=check)["clients"] == clients
    chosen = run_module(client_registry_info, check=check, client_ids=["c", "a"])
    assert (chosen["changed"], chosen["clients"]) == (False, [clients[0], clients[2]])
    assert tree(tmp_path) == before


def test_an_unknown_client_is_named(run_module: Run, clients: list[dict[str, Any]]) -> None:
    result = run_module(client_registry_info, client_ids=["x"])
    assert (result["failed"], result["msg"]) == (True, "There is no client 'x'; there are a, b, c.")


def test_without_a_registry_there_are_no_clients(run_module: Run, tmp_path: Path) -> None:
    assert run_module(client_registry_info)["clients"] == []
    assert list(tmp_path.iterdir()) == []


def test_the_report_has_a_line_for_each_client(run_module: Run, clients: list[dict[str, Any]]) -> None:
    report = run_module(client_registry_info)["report"]
    assert [line for client in clients for line in report.splitlines() if client["domain"] in line]
    for client in clients:
        [line] = [line for line in report.splitlines() if client["domain"] in line]
        assert client["client_id"] in line
        assert client["state"] in line
        assert client["isolation_level"] in line
