# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The edge: its static configuration, its rights and its directories."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._config import effective_config
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._edge import (
    container,
    directories,
    privileges,
    static_config,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import Layout

LAYOUT = Layout("/srv/root", "/srv/log")

# Ports, lowest port for everybody -> user and capabilities.
RIGHTS: dict[str, tuple[tuple[int, int], int, tuple[str, list[str]]]] = {
    "usual host": ((80, 443), 1024, ("0:65532", ["NET_BIND_SERVICE"])),
    "host that lets everybody": ((80, 443), 80, ("65532:65532", [])),
    "only the higher one is free": ((80, 443), 443, ("0:65532", ["NET_BIND_SERVICE"])),
    "high ports": ((8080, 8443), 1024, ("65532:65532", [])),
    "the order does not count": ((8443, 443), 1024, ("0:65532", ["NET_BIND_SERVICE"])),
}


def with_ports(http: int, https: int) -> dict[str, Any]:
    return effective_config([("config.yaml", {"edge": {"http_port": http, "https_port": https}})])


@pytest.mark.parametrize(("ports", "start", "rights"), RIGHTS.values(), ids=RIGHTS)
def test_the_edge_has_no_more_rights_than_its_ports_need(
    ports: tuple[int, int], start: int, rights: tuple[str, list[str]]
) -> None:
    config = with_ports(*ports)
    assert privileges(config, start) == rights
    spec = container(config, LAYOUT, start)
    assert (spec.user, spec.cap_add) == rights


def test_the_static_configuration_is_yaml_with_the_chosen_ports() -> None:
    config = effective_config([("c", {"edge": {"http_port": 8000, "https_port": 8001, "api_port": 8002}})])
    document = yaml.safe_load(static_config(config))
    points = document["entryPoints"]
    assert {name: point["address"] for name, point in points.items()} == {
        "web": ":8000",
        "websecure": ":8001",
        "traefik": "127.0.0.1:8002",
    }
    assert all(point["http"]["aliasHeadersStrategy"] == "delete" for point in points.values())
    assert points["web"]["http"]["redirections"]["entryPoint"]["to"] == "websecure"
    assert set(document["providers"]) == {"file"}


def test_the_container_is_closed(config: dict[str, Any]) -> None:
    spec = container(config, LAYOUT, 1024)
    assert (spec.network, spec.subnet, spec.read_only, spec.start_first) == ("host", None, True, False)
    assert spec.binds == [{"source": "/srv/root/multi_tenancy/traefik", "target": "/etc/traefik", "read_only": True}]
    assert not any("sock" in bind["source"] for bind in spec.binds)


def test_a_change_of_the_static_configuration_is_one_of_the_container(config: dict[str, Any]) -> None:
    assert container(config, LAYOUT, 1024).hash == container(effective_config([]), LAYOUT, 1024).hash
    assert container(with_ports(80, 8443), LAYOUT, 1024).hash != container(config, LAYOUT, 1024).hash


def test_directories_come_parents_first_and_the_edge_reads_without_writing() -> None:
    wanted = {directory.path: directory for directory in directories(LAYOUT)}
    paths = list(wanted)
    for number, path in enumerate(paths):
        parent = path.rpartition("/")[0]
        assert parent in paths[:number] or path in ("/srv/root", "/srv/log")
    watched, staging = (wanted[f"/srv/root/multi_tenancy/traefik/{name}"] for name in ("dynamic", "staging"))
    assert (watched.mode, watched.uid, watched.gid) == (0o750, 0, 65532)
    assert staging.mode & 0o077 == 0
    # Who may pass must know the name; nobody can list the clients.
    assert wanted["/srv/root/clients"].mode == 0o711
