# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator typed becomes the edit that was meant, or one sentence."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._argspec import EDIT_OPTION
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._bridges import egress
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._config import effective_config
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import InvalidInput
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry import (
    check_document,
    empty_document,
    plan_registry,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._request import (
    REQUEST_SPEC,
    Request,
    read_request,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._tenant import networks, rate_limit, resources
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ({}, Request()),
        ({"client_id": None, "domain": ""}, Request()),
        ({"client_id": "a"}, Request([{"client_id": "a"}])),
        (
            {"client_id": "a", "domain": "a.test", "isolation_level": "soft", "state": "suspended"},
            Request([{"client_id": "a", "domain": "a.test", "isolation_level": "soft", "state": "suspended"}]),
        ),
        (
            {"client_id": "a", "aliases": " x.test,, y.test ", "services": "site, db"},
            Request([{"client_id": "a", "aliases": ["x.test", "y.test"], "services": {"site": {}, "db": {}}}]),
        ),
        ({"client_id": "a", "aliases": ","}, Request([{"client_id": "a", "aliases": []}])),
        ({"client_id": "a", "protected": "No"}, Request([{"client_id": "a", "protected": False}])),
        ({"client_id": "a", "purge": "1"}, Request([{"client_id": "a", "data": "purge"}])),
        ({"client_id": "a", "purge": "0"}, Request([{"client_id": "a", "data": "keep"}])),
        ({"client_id": "a", "restore_data": "latest"}, Request([{"client_id": "a"}], restore={"a": "latest"})),
        # The level is the client's, or that of new ones; never both.
        ({"isolation_level": "soft"}, Request(settings={"isolation_level": "soft"})),
        (
            {"clients": "a,b", "isolation_level": "soft", "root_domain": "r.test", "default_client_id": "d"},
            Request(
                [{"client_id": "a"}, {"client_id": "b"}],
                {"default_client_id": "d", "root_domain": "r.test", "isolation_level": "soft"},
            ),
        ),
        (
            {"client_id": "a", "clients": "b", "root_domain": "r.test"},
            Request([{"client_id": "a"}, {"client_id": "b"}], {"root_domain": "r.test"}),
        ),
        (
            {"client_id": "a", "egress": "deny", "egress_allow": "203.0.113.7:443, 203.0.113.0/24:25"},
            Request([{"client_id": "a", "egress": "deny", "egress_allow": ["203.0.113.7:443", "203.0.113.0/24:25"]}]),
        ),
        ({"client_id": "a", "egress_allow": ","}, Request([{"client_id": "a", "egress_allow": []}])),
        (
            {"client_id": "a", "rate_limit": "50:80"},
            Request([{"client_id": "a", "rate_limit": {"average": 50, "burst": 80}}]),
        ),
        (
            {"client_id": "a", "rate_limit": "50"},
            Request([{"client_id": "a", "rate_limit": {"average": 50, "burst": 100}}]),
        ),
        (
            {"client_id": "a", "rate_limit": "0"},
            Request([{"client_id": "a", "rate_limit": {"average": 0, "burst": 0}}]),
        ),
        (
            {"client_id": "a", "memory": "1g", "cpus": "0.5", "pids": "200", "disk": "5g"},
            Request([{"client_id": "a", "resources": {"memory": "1g", "cpus": 0.5, "pids": 200, "disk": "5g"}}]),
        ),
        # What is no number is refused with the rest of the client's settings.
        ({"client_id": "a", "cpus": "many"}, Request([{"client_id": "a", "resources": {"cpus": "many"}}])),
        ({"client_id": "a", "pids": "1.5"}, Request([{"client_id": "a", "resources": {"pids": "1.5"}}])),
    ],
)
def test_what_was_typed(typed: dict[str, Any], meant: Request) -> None:
    assert read_request(typed) == meant


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ({"domain": "a.test"}, ["domain 'a.test' needs client_id: name the client that it belongs to."]),
        ({"purge": "1"}, ["purge '1' needs client_id: name the client that it belongs to."]),
        ({"state": "present"}, ["client_id is missing: name the client."]),
        ({"client_id": "a", "protected": "maybe"}, ["protected is 'maybe'; it takes yes or no."]),
        ({"client_id": "a", "purge": "all"}, ["purge is 'all'; it takes yes or no."]),
        *(
            ({key: "1"}, [f"{key} '1' needs client_id: name the client that it belongs to."])
            for key in ("egress", "egress_allow", "rate_limit", "memory", "cpus", "pids", "disk")
        ),
        *(
            (
                {"client_id": "a", "rate_limit": text},
                [f"rate_limit is '{text}'; it takes requests per second and at once, as 50:100."],
            )
            for text in ("many", "50:", ":50", "5:6:7", "-1", "1.5", "1" * 10, "5 : 6")
        ),
    ],
)
def test_what_nobody_can_mean(typed: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_request(typed)
    assert caught.value.faults == said


@given(st.dictionaries(st.sampled_from(sorted(REQUEST_SPEC["options"])), st.text() | st.none()))
def test_any_text_is_an_edit_or_a_sentence(typed: dict[str, Any]) -> None:
    try:
        request = read_request(typed)
    except InvalidInput as exc:
        assert all("\n" not in fault and len(fault) < 300 for fault in exc.faults)
        return
    assert all(client.keys() <= EDIT_OPTION["options"].keys() and client["client_id"] for client in request.edit)


CONFIG = effective_config([])
# Each mostly something that could be meant.
SETTINGS = {
    "egress": st.sampled_from(["allow", "deny"]),
    "egress_allow": st.sampled_from([",", "203.0.113.7:443", "203.0.113.0/24:53/udp, 198.51.100.7:1", "::1:1", "0/0"]),
    "rate_limit": st.sampled_from(["0", "5", "5:9", "9:5", "999999999:1"]),
    "memory": st.sampled_from(["64m", "1g", "1", "999999999999999g"]),
    "cpus": st.sampled_from(["0.5", "2", "nan", "inf", "1e3", "-1"]),
    "pids": st.sampled_from(["100", "0", "1e3", "\N{ARABIC-INDIC DIGIT ONE}00"]),
    "disk": st.sampled_from(["1g", "1m", "9999999g"]),
}


@given(
    st.sampled_from(["soft", "medium", "hard"]),
    st.fixed_dictionaries({}, optional={key: likely | st.text(max_size=9) for key, likely in SETTINGS.items()}),
)
def test_whatever_is_typed_of_a_level_is_refused_or_can_be_stored_and_used(level: str, typed: dict[str, str]) -> None:
    try:
        request = read_request({"client_id": "a", "isolation_level": level, **typed})
        document = plan_registry(empty_document(), request.edit, CONFIG)[0]
    except InvalidInput as exc:
        assert all(fault.isprintable() and len(fault) < 400 for fault in exc.faults)
        return
    assert check_document(document, "clients.json") == document
    [client] = document["clients"]
    way_out = egress(client, CONFIG)
    assert (way_out is None) == (networks(client, CONFIG) == []) == (level == "soft")
    assert (resources(client, CONFIG) is None) == (level != "hard")
    assert min(rate_limit(client, CONFIG)) >= 0
