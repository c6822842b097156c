# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes, their diffs and the hash of specifications."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import (
    Change,
    InvalidInput,
    TenancyError,
    as_diff,
    as_text,
    spec_hash,
)
from hypothesis import given
from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


def reordered(value: Any) -> Any:
    """The same data with every mapping's keys in the opposite order."""
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    return [reordered(item) for item in value] if isinstance(value, list) else value


@given(JSON)
def test_the_hash_does_not_depend_on_the_order_of_keys_nor_on_a_round_trip(value: Any) -> None:
    assert spec_hash(reordered(value)) == spec_hash(value)
    assert spec_hash(json.loads(json.dumps(value))) == spec_hash(value)


@given(JSON, JSON)
def test_different_specifications_have_different_hashes(one: Any, other: Any) -> None:
    canonical = [json.dumps(value, sort_keys=True) for value in (one, other)]
    assert (spec_hash(one) == spec_hash(other)) == (canonical[0] == canonical[1])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        ("", ""),
        ("a", "a\n"),
        ("a\n", "a\n"),
        ({"b": 1, "a": "\N{SNOWMAN}"}, '{\n  "a": "\N{SNOWMAN}",\n  "b": 1\n}\n'),
    ],
)
def test_one_side_of_a_diff_is_text_of_whole_lines(value: Any, text: str) -> None:
    assert as_text(value) == text


def test_a_diff_names_the_object_and_what_is_done_and_never_shows_the_payload() -> None:
    changes = [
        Change("create", "network", "mt-a", None, {"subnet": "x"}, "a", payload="hidden"),
        Change("delete", "route", "b", "old", None),
    ]
    diff = as_diff(changes)
    assert [entry["before_header"] for entry in diff] == ["network mt-a (absent)", "route b"]
    assert [entry["after_header"] for entry in diff] == ["network mt-a (create)", "route b (delete)"]
    assert (diff[1]["before"], diff[1]["after"]) == ("old\n", "")
    assert "hidden" not in json.dumps([diff, [change.summary() for change in changes]])


def test_faults_of_the_input_are_one_error_that_tells_them_all() -> None:
    error = InvalidInput(["One is wrong.", "So is the other."])
    assert isinstance(error, TenancyError)
    assert str(error) == "One is wrong. So is the other."
    assert error.faults == ["One is wrong.", "So is the other."]
