# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Networks: compared with what the engine lists, and foreign ones told apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._network import (
    NetworkSpec,
    foreign_subnets,
    plan_networks,
    read_network,
)

SPEC = NetworkSpec(
    name="mt-acme",
    client_id="acme",
    bridge="mt-1",
    subnet="10.217.0.0/28",
    gateway="10.217.0.1",
    internal=False,
    labels={"agency_stack.platform": "mt", "agency_stack.client_id": "acme"},
)


def listed(spec: NetworkSpec = SPEC, **changed: Any) -> dict[str, Any]:
    """The network as the engine lists it after it was made from a specification."""
    request = spec.request()
    return {
        "Name": spec.name,
        "Id": "0123",
        "Internal": spec.internal,
        "IPAM": {"Driver": "default", "Config": [{"Subnet": spec.subnet, "Gateway": spec.gateway}]},
        "Options": request["options"],
        "Labels": request["labels"],
    } | changed


# What the engine lists -> action planned.
ACTUAL: dict[str, tuple[list[dict[str, Any]], str | None]] = {
    "nothing": ([], "create"),
    "others alone": ([listed(replace(SPEC, name="mt-b")), listed(replace(SPEC, name="bridge"), Labels=None)], "create"),
    "as wanted": ([listed()], None),
    "made when networks carried the level": (
        [listed(replace(SPEC, labels=SPEC.labels | {"agency_stack.isolation_level": "hard"}))],
        None,
    ),
    "made with another label": ([listed(replace(SPEC, labels=SPEC.labels | {"other": "hard"}))], "recreate"),
    "other subnet": ([listed(IPAM={"Config": [{"Subnet": "10.9.0.0/28", "Gateway": "10.9.0.1"}]})], "recreate"),
    "without addresses": ([listed(IPAM=None)], "recreate"),
    "internal": ([listed(Internal=True)], "recreate"),
    "other bridge": ([listed(Options={"com.docker.network.bridge.name": "br0"})], "recreate"),
    "no options": ([listed(Options=None)], "recreate"),
    "made from another specification": ([listed(replace(SPEC, internal=True), Internal=False)], "recreate"),
    "foreign without labels": ([listed(Labels=None)], "create"),
    "of another platform": ([listed(Labels=listed()["Labels"] | {"agency_stack.platform": "it"})], "create"),
}


@pytest.mark.parametrize(("actual", "action"), ACTUAL.values(), ids=ACTUAL)
def test_a_network_is_compared(actual: list[dict[str, Any]], action: str | None) -> None:
    changes = plan_networks([SPEC], actual, "mt")
    assert [change.action for change in changes] == ([] if action is None else [action])
    assert all((change.name, change.client_id, change.after) == ("mt-acme", "acme", SPEC.shown()) for change in changes)


@pytest.mark.parametrize(("actual", "action"), ACTUAL.values(), ids=ACTUAL)
def test_force_makes_anew_what_is_ours_and_nothing_else(actual: list[dict[str, Any]], action: str | None) -> None:
    assert [change.action for change in plan_networks([SPEC], actual, "mt", force=True)] == [action or "recreate"]


def test_a_foreign_network_in_the_way_is_shown_and_never_planned_to_be_removed() -> None:
    [change] = plan_networks([SPEC], [listed(Labels={})], "mt")
    assert (change.action, change.before) == ("create", SPEC.shown())
    assert plan_networks([], [listed(), listed(Labels={})], "mt") == []


def test_what_was_requested_is_what_is_read() -> None:
    assert read_network(listed()) == SPEC.shown()


def test_subnets_of_foreign_networks_are_named() -> None:
    networks = [
        listed(),
        listed(Name="bridge", Labels=None, IPAM={"Config": [{"Subnet": "172.17.0.0/16"}]}),
        listed(Name="two", Labels={}, IPAM={"Config": [{"Subnet": "10.1.0.0/24"}, {"Subnet": "fd00::/64"}, {}]}),
        listed(Name="host", Labels=None, IPAM={"Config": None}),
        listed(Name="none", Labels=None, IPAM=None),
    ]
    assert foreign_subnets(networks, "mt") == [
        ("172.17.0.0/16", "the Docker network 'bridge'"),
        ("10.1.0.0/24", "the Docker network 'two'"),
    ]
