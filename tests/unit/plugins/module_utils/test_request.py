# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator typed becomes the edit that was meant, or one sentence."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._argspec import EDIT_OPTION
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import InvalidInput
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._request import (
    REQUEST_SPEC,
    Request,
    read_request,
)
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
