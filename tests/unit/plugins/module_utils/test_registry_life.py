# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The registry over the life of a client: suspended, removed, forgotten, and nobody else changed by it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._config import effective_config
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import InvalidInput
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry import (
    check_document,
    empty_document,
    fault_of_plain,
    plan_registry,
)
from hypothesis import example, given
from hypothesis import strategies as st

CONFIG = effective_config([("config.yaml", {"network_pool": "10.1.0.0/24"})])
ALLOCATED = ("index", "subnet", "uid", "gid")
NOON, LATER = "2026-01-31T12:00:00+00:00", "2026-02-01T12:00:00+00:00"


def edited(document: Mapping[str, Any], *wanted: Mapping[str, Any], now: str = NOON, **options: Any) -> dict[str, Any]:
    return plan_registry(document, wanted, CONFIG, now=now, **options)[0]


def entry(document: Mapping[str, Any], client_id: str) -> dict[str, Any]:
    return next(dict(found) for found in document["clients"] if found["client_id"] == client_id)


def ids(document: Mapping[str, Any]) -> list[str]:
    return [found["client_id"] for found in document["clients"]]


@pytest.fixture
def three() -> dict[str, Any]:
    return edited(empty_document(), {"client_id": "a"}, {"client_id": "b"}, {"client_id": "c"})


# ---------------------------------------------------------------- suspend and resume


def test_to_suspend_and_to_resume_changes_the_state_alone(three: dict[str, Any]) -> None:
    suspended = edited(three, {"client_id": "b", "state": "suspended"}, now=LATER)
    assert entry(suspended, "b") == entry(three, "b") | {"state": "suspended"}
    assert edited(suspended, {"client_id": "b", "state": "present"}, now=LATER) == three


def test_an_edit_of_a_suspended_client_does_not_resume_it(three: dict[str, Any]) -> None:
    suspended = edited(three, {"client_id": "b", "state": "suspended"})
    assert entry(edited(suspended, {"client_id": "b", "domain": "new.example"}), "b")["state"] == "suspended"


# ---------------------------------------------------------------- removal

# What the edit says of the data, once and at a later run -> what is noted.
FATES: dict[str, tuple[list[str | None], str]] = {
    "nothing said": ([None], "keep"),
    "keep": (["keep"], "keep"),
    "purge": (["purge"], "purge"),
    "purge, then nothing": (["purge", None], "purge"),
    "keep, then purge": (["keep", "purge"], "purge"),
    "purge, then keep": (["purge", "keep"], "keep"),
}


@pytest.mark.parametrize(("said", "noted"), FATES.values(), ids=FATES)
def test_a_removal_notes_the_fate_of_the_data_and_its_first_time(
    three: dict[str, Any], said: list[str | None], noted: str
) -> None:
    document = three
    for fate, now in zip(said, (NOON, LATER), strict=False):
        document = edited(document, {"client_id": "b", "state": "absent", "data": fate}, now=now)
    marks = {"state": "absent", "removal": noted, "removed_at": NOON}
    assert entry(document, "b") == entry(three, "b") | marks
    assert [entry(document, name) for name in "ac"] == [entry(three, name) for name in "ac"]


def test_the_time_of_a_removal_stays_however_often_it_is_run(three: dict[str, Any]) -> None:
    removed = edited(three, {"client_id": "b", "state": "absent"})
    for edit in ({"client_id": "b", "state": "absent"}, {"client_id": "b"}, {"client_id": "b", "domain": "x.example"}):
        assert entry(edited(removed, edit, now=LATER), "b")["removed_at"] == NOON
    assert plan_registry(removed, [{"client_id": "b", "state": "absent"}], CONFIG, now=LATER) == (removed, [])


def test_a_removal_that_is_cancelled_leaves_no_trace(three: dict[str, Any]) -> None:
    removed = edited(three, {"client_id": "b", "state": "absent", "data": "purge"})
    assert edited(removed, {"client_id": "b", "state": "present"}, now=LATER) == three
    again = edited(edited(removed, {"client_id": "b", "state": "present"}), {"client_id": "b", "state": "absent"})
    # The earlier wish to delete everything is not remembered.
    assert entry(again, "b")["removal"] == "keep"


def test_to_remove_who_is_not_there_is_done_already(three: dict[str, Any]) -> None:
    assert plan_registry(three, [{"client_id": "x", "state": "absent"}], CONFIG) == (three, [])


@pytest.mark.parametrize("client_id", ["../x", "A", "", "all", 7, ["a"], {"a": 1}, None])
def test_who_could_never_be_there_is_refused_also_for_removal(three: dict[str, Any], client_id: Any) -> None:
    for purge in (False, True):
        with pytest.raises(InvalidInput, match="client_id"):
            plan_registry(three, [{"client_id": client_id, "state": "absent"}], CONFIG, purge=purge)


def test_an_unknown_fate_of_the_data_is_refused(three: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="data 'burn' is not allowed: use one of keep, purge"):
        edited(three, {"client_id": "b", "state": "absent", "data": "burn"})


# Edits of a protected client -> whether they are taken.
PROTECTED: dict[str, tuple[list[dict[str, Any]], bool]] = {
    "removed": ([{"state": "absent"}], False),
    "removed with data": ([{"state": "absent", "data": "purge"}], False),
    "protection lifted in the same edit": ([{"state": "absent", "protected": False}], True),
    "protection lifted before": ([{"protected": False}, {"state": "absent"}], True),
    "suspended": ([{"state": "suspended"}], True),
    "changed": ([{"domain": "x.example"}], True),
}


@pytest.mark.parametrize(("edits", "taken"), PROTECTED.values(), ids=PROTECTED)
def test_a_protected_client_refuses_its_removal(
    three: dict[str, Any], edits: list[dict[str, Any]], taken: bool
) -> None:
    document = edited(three, {"client_id": "b", "protected": True})
    try:
        for edit in edits:
            document = edited(document, {"client_id": "b"} | edit)
    except InvalidInput as refused:
        assert not taken
        assert refused.faults == [
            "Client 'b' is protected and stays; set protected to false first if it is really to go."
        ]
    else:
        assert taken


def test_a_client_on_its_way_out_cannot_be_protected(three: dict[str, Any]) -> None:
    removed = edited(three, {"client_id": "b", "state": "absent"})
    with pytest.raises(InvalidInput, match="is protected and stays"):
        edited(removed, {"client_id": "b", "protected": True})


def test_one_edit_removes_everybody_who_is_not_named(three: dict[str, Any]) -> None:
    document = edited(three, {"client_id": "b"}, {"client_id": "d"}, purge=True)
    assert {name: entry(document, name)["state"] for name in "abcd"} == {
        "a": "absent",
        "b": "present",
        "c": "absent",
        "d": "present",
    }
    # That is not said of their data.
    assert entry(document, "a")["removal"] == "keep"
    assert edited(document, {"client_id": "b"}, {"client_id": "d"}, purge=True, now=LATER) == document


def test_to_remove_everybody_else_stops_at_a_protected_client(three: dict[str, Any]) -> None:
    document = edited(three, {"client_id": "c", "protected": True})
    with pytest.raises(InvalidInput) as refused:
        edited(document, {"client_id": "a"}, purge=True)
    assert len(refused.value.faults) == 1
    assert "Client 'c' is protected" in refused.value.faults[0]


def test_a_client_can_go_whose_service_the_catalog_has_lost() -> None:
    with_shop = effective_config([("config.yaml", {"services": {"shop": {"image": "shop:1", "port": 80}}})])
    document = plan_registry(empty_document(), [{"client_id": "a", "services": {"shop": {}}}], with_shop)[0]
    with pytest.raises(InvalidInput, match="not in the catalog"):
        edited(document, {"client_id": "b"})
    removed = edited(document, {"client_id": "a", "state": "absent"})
    assert ids(edited(removed, {"client_id": "b"}, forget=["a"])) == ["b"]


# ---------------------------------------------------------------- forgetting and allocations


def test_only_who_is_absent_is_forgotten(three: dict[str, Any]) -> None:
    document = edited(three, {"client_id": "b", "state": "absent"}, {"client_id": "c", "state": "suspended"})
    after, changes = plan_registry(document, [], CONFIG, forget=["a", "b", "c", "x", "../y"])
    assert ids(after) == ["a", "c"]
    assert [(change.action, change.name, change.before) for change in changes] == [
        ("delete", "b", entry(document, "b"))
    ]


def test_who_is_removed_and_forgotten_at_once_is_gone_in_one_change(three: dict[str, Any]) -> None:
    after, changes = plan_registry(three, [{"client_id": "b", "state": "absent"}], CONFIG, forget=["b"])
    assert (ids(after), [(change.action, change.name) for change in changes]) == (["a", "c"], [("delete", "b")])


def test_an_absent_client_keeps_its_allocations_and_names_until_it_is_forgotten(three: dict[str, Any]) -> None:
    removed = edited(three, {"client_id": "b", "state": "absent"})
    more = edited(removed, {"client_id": "d"})
    assert entry(more, "d")["index"] == 4
    with pytest.raises(InvalidInput, match="belongs to client 'b'"):
        edited(removed, {"client_id": "e", "domain": entry(three, "b")["domain"]})
    freed = edited(edited(removed, forget=["b"]), {"client_id": "e", "domain": entry(three, "b")["domain"]})
    assert {key: entry(freed, "e")[key] for key in ALLOCATED} == {key: entry(three, "b")[key] for key in ALLOCATED}


def test_a_full_pool_has_room_only_after_somebody_was_forgotten() -> None:
    document = edited(empty_document(), *({"client_id": f"c{n}"} for n in range(16)))
    removed = edited(document, {"client_id": "c7", "state": "absent"})
    with pytest.raises(InvalidInput, match="no free"):
        edited(removed, {"client_id": "new"})
    added = edited(edited(removed, forget=["c7"]), {"client_id": "new"})
    assert entry(added, "new")["subnet"] == entry(document, "c7")["subnet"]


NAMES = st.sampled_from(["a", "b", "c", "d"])
EDITS = st.lists(
    st.fixed_dictionaries(
        {"client_id": NAMES},
        optional={
            "state": st.sampled_from(["present", "suspended", "absent", "gone"]),
            "data": st.sampled_from(["keep", "purge", "burn"]),
            "protected": st.booleans(),
            "domain": st.sampled_from(["x.example", "y.example", "*.example.com", "-"]),
            "aliases": st.lists(st.sampled_from(["x.example", "www.example.com"]), max_size=2),
            "services": st.sampled_from([{}, {"site": None}, {"site": {"mem_limit": "64m"}}, {"shop": {}}]),
            "isolation_level": st.sampled_from(["medium", "none"]),
        },
    ),
    max_size=3,
)
LIFE = st.lists(st.tuples(EDITS, st.booleans(), st.lists(NAMES, max_size=2)), max_size=8)


@given(LIFE)
@example([([{"client_id": "c", "state": state} for state in ("suspended", "absent")], False, [])] * 2)
@example([([{"client_id": "a"}], False, []), ([], True, ["a", "a"])])
@example([([{"client_id": "a"}, {"client_id": "a", "state": "absent"}], False, ["a"])])
def test_no_life_makes_the_registry_wrong_or_changes_what_a_living_client_has(
    life: list[tuple[list[dict[str, Any]], bool, list[str]]],
) -> None:
    document = empty_document()
    for number, (edits, purge, forget) in enumerate(life):
        before = {found["client_id"]: found for found in document["clients"]}
        now = f"2026-01-{number + 1:02d}T12:00:00+00:00"
        try:
            after, changes = plan_registry(document, edits, CONFIG, now=now, purge=purge, forget=forget)
        except InvalidInput as refused:
            assert refused.faults
            assert all(fault.isprintable() for fault in refused.faults)
            continue
        assert check_document(after, "clients.json") == after
        assert ids(after) == sorted(ids(after))
        states = {found["client_id"]: found for found in after["clients"]}
        for name, old in before.items():
            if name not in states:
                assert name in forget
                continue
            assert {key: states[name][key] for key in ALLOCATED} == {key: old[key] for key in ALLOCATED}
            if old["state"] == states[name]["state"] == "absent":
                cancelled = any(
                    edit["client_id"] == name and edit.get("state") in ("present", "suspended") for edit in edits
                )
                assert cancelled or states[name]["removed_at"] == old["removed_at"]
        for found in after["clients"]:
            assert ("removed_at" in found) == ("removal" in found) == (found["state"] == "absent")
        for one, other in itertools.pairwise(changes):
            assert (one.action, one.name) != (other.action, other.name)
        assert {change.name for change in changes} == {
            name for name in before | states if before.get(name) != states.get(name)
        }
        document = after


# ---------------------------------------------------------------- what can be stored

# Overrides of a service -> what the refusal says.
UNFIT: dict[str, tuple[Any, str]] = {
    "NaN": ({"site": {"environment": {"X": float("nan")}}}, "number"),
    "infinity": ({"site": {"command": [float("inf")]}}, "number"),
    "huge number": ({"site": {"environment": {"X": 10**5000}}}, "number"),
    "NUL": ({"site": {"command": ["a\0b"]}}, "NUL"),
    "half a character": ({"site": {"environment": {"X": "\ud800"}}}, "half a character"),
    "half a character in a key": ({"site": {"environment": {"\ud800": "x"}}}, "half a character"),
    "bytes": ({"site": {"environment": {"X": b"x"}}}, "bytes"),
    "a tuple": ({"site": {"command": ("x",)}}, "tuple"),
    "text instead of a mapping": ("site", "mapping"),
    "a list instead of a mapping": (["site"], "mapping"),
}


@pytest.mark.parametrize(("services", "named"), UNFIT.values(), ids=UNFIT)
def test_what_the_file_could_not_give_back_is_refused(services: Any, named: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        edited(empty_document(), {"client_id": "a", "services": services})
    [fault] = refused.value.faults
    assert named in fault
    assert fault.isascii()
    assert fault.isprintable()


@pytest.mark.parametrize("depth", [20, 400, 5000])
def test_endless_nesting_is_refused(depth: int) -> None:
    nested: dict[str, Any] = {}
    for dummy in range(depth):
        nested = {"x": nested}
    with pytest.raises(InvalidInput, match="nested too deeply"):
        edited(empty_document(), {"client_id": "a", "services": {"site": {"environment": nested}}})


@pytest.mark.parametrize("value", [None, True, 1, 1.5, "x", [], {}, {"a": [1, {"b": None}]}])
def test_plain_data_is_taken(value: Any) -> None:
    assert fault_of_plain(value, "it") is None
