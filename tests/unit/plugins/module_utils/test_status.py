# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The status: everything that differs from the registry is told, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import Layout
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._stack import ContainerSpec, ContainerState
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._status import (
    ClientStatus,
    as_table,
    client_status,
    health_word,
    report,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._tenant import containers


@pytest.fixture
def spec(config: dict[str, Any], client: dict[str, Any]) -> ContainerSpec:
    return containers(client, config, Layout())[0]


def state(spec: ContainerSpec, **changed: Any) -> ContainerState:
    made = ContainerState(
        "id", spec.name, "acme", "site", spec.hash, spec.image, "running", "healthy", {spec.network: "10.217.0.2"}
    )
    return replace(made, **changed)


ROUTED = ({"site"}, {"site": ["10.217.0.2"]})

# What differs of the container (None: there is none) -> words that the finding must hold.
FINDINGS: dict[str, tuple[list[dict[str, Any]], str | None]] = {
    "as wanted": ([{}], None),
    "starting": ([{"health": "starting"}], None),
    "missing": ([], "container mt-acme.site is missing"),
    "stopped": ([{"state": "exited", "health": ""}], "container mt-acme.site is exited"),
    "unhealthy": ([{"health": "unhealthy"}], "container mt-acme.site is unhealthy"),
    "of another specification": ([{"spec_hash": "old"}], "container mt-acme.site is not as the registry wants it"),
    "cut off from its network": ([{"addresses": {}}], "container mt-acme.site is not as the registry wants it"),
    "one too many": ([{"name": "x"}, {}], "container x is left over"),
    "one too many and stopped": ([{"name": "x", "state": "exited", "health": ""}, {}], "container x is left over"),
    "of an unknown service": ([{}, {"service": "old", "name": "mt-acme.old"}], "container mt-acme.old is in no plan"),
}


@pytest.mark.parametrize(("actual", "finding"), FINDINGS.values(), ids=FINDINGS)
def test_what_differs_is_found(
    client: dict[str, Any], spec: ContainerSpec, actual: list[dict[str, Any]], finding: str | None
) -> None:
    status = client_status(client, [spec], [state(spec, **changed) for changed in actual], *ROUTED)
    assert [finding in told for told in status.findings if finding] == ([] if finding is None else [True])
    assert finding is not None or status.findings == []


def test_a_missing_route_is_found_for_clients_that_are_wanted_alone(
    client: dict[str, Any], spec: ContainerSpec
) -> None:
    assert client_status(client, [spec], [state(spec)], {"site"}, {}).findings == [
        "the edge has no route to it; a converge makes it"
    ]
    assert client_status(client, [], [], set(), {}).findings == []


def test_a_route_to_another_address_is_found(client: dict[str, Any], spec: ContainerSpec) -> None:
    assert client_status(client, [spec], [state(spec)], {"site"}, {"site": ["10.217.0.3"]}).findings == [
        "the edge leads 'site' to 10.217.0.3 instead of 10.217.0.2; a converge mends it"
    ]


def test_each_service_has_a_line_of_its_own(client: dict[str, Any], spec: ContainerSpec) -> None:
    shop = replace(spec, service="shop", name="mt-acme.shop")
    status = client_status(client, [spec, shop], [state(spec)], *ROUTED)
    assert status.services == [
        {"service": "site", "container": "mt-acme.site", "state": "running", "health": "healthy"},
        {"service": "shop", "container": "mt-acme.shop", "state": "missing", "health": ""},
    ]
    assert (status.client_id, status.domain, status.state) == ("acme", "acme.example.com", "present")


@pytest.mark.parametrize(
    ("services", "word"),
    [
        ([], "-"),
        ([("running", "healthy")], "healthy"),
        ([("running", "")], "running"),
        ([("running", "healthy"), ("running", "unhealthy")], "unhealthy"),
        ([("running", "healthy"), ("running", "starting"), ("exited", "")], "exited"),
        ([("missing", ""), ("dead", "")], "missing"),
        ([("running", "healthy"), ("unheard of", "")], "unheard of"),
    ],
)
def test_the_worst_service_speaks_for_the_client(services: list[tuple[str, str]], word: str) -> None:
    assert health_word([{"state": state, "health": health} for state, health in services]) == word


def test_a_table_is_aligned_and_has_no_trailing_blanks() -> None:
    assert as_table(["A", "LONG", "B"], [["xyz", "1", ""], ["", "22", "c"]]) == "A    LONG  B\nxyz  1\n     22    c"


def test_a_report_tells_platform_clients_and_findings() -> None:
    services = [{"service": "site", "container": "c", "state": "running", "health": "healthy"}]
    clients = [
        ClientStatus("acme", "medium", "acme.example", "present", services),
        ClientStatus("b", "medium", "b.example", "suspended"),
    ]
    text = report({"engine": "1", "edge": "running"}, clients, ["Something is wrong."])
    assert text == (
        "engine:    1\n"
        "edge:      running\n"
        "\n"
        "CLIENT  LEVEL   STATE      HEALTH   SERVICES  DOMAIN\n"
        "acme    medium  present    healthy  site      acme.example\n"
        "b       medium  suspended  -        -         b.example\n"
        "\n"
        "! Something is wrong.\n"
    )


def test_without_clients_the_findings_are_told_all_the_same() -> None:
    assert report({"edge": "missing"}, [], ["The edge does not run."]) == (
        "edge:      missing\n\nThere are no clients.\n\n! The edge does not run.\n"
    )
