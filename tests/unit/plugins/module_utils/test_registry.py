# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The registry: edits change what they name, allocations stay and never meet, a host name has one owner."""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._config import effective_config
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import InvalidInput, TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry import (
    check_document,
    client_services,
    empty_document,
    hostnames,
    plan_registry,
    routed_services,
    select_clients,
    service_hostnames,
    shared_allocations,
    shared_services,
)
from ansible_collections.agency_stack.multi_tenancy.tests.unit.helpers import registered
from hypothesis import given
from hypothesis import strategies as st

CONFIG = effective_config([])
ALLOCATED = ("index", "subnet", "uid", "gid")
# The level soft shares the site alone; 'pair' has a shared form that needs nothing.
PAIR = {"image": "pair:1", "port": 80, "subdomain": "pair", "depends_on": ["worker"], "shared": {"depends_on": []}}

SHOP = {"image": "shop:1", "port": 80, "subdomain": "shop"}
CONFIG_WITH_SHOP = effective_config([("config.yaml", {"services": {"shop": SHOP, "worker": {"image": "worker:1"}}})])
CONFIG_OF_LEVELS = effective_config(
    [("config.yaml", {"services": {"shop": SHOP, "worker": {"image": "worker:1"}, "pair": PAIR}})]
)


def edited(
    document: Mapping[str, Any], *wanted: Mapping[str, Any], config: Mapping[str, Any] = CONFIG
) -> dict[str, Any]:
    return plan_registry(document, wanted, config)[0]


def faults_of(*wanted: Mapping[str, Any], config: Mapping[str, Any] = CONFIG, before: Any = None) -> list[str]:
    with pytest.raises(InvalidInput) as refused:
        plan_registry(before or empty_document(), wanted, config)
    return refused.value.faults


def by_id(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {entry["client_id"]: entry for entry in document["clients"]}


# ---------------------------------------------------------------- what an edit changes


def test_a_new_client_gets_the_defaults_of_the_settings() -> None:
    config = effective_config([("config.yaml", {"root_domain": "agency.example", "network_pool": "10.5.0.0/16"})])
    document, [change] = plan_registry(
        empty_document(), [{"client_id": "a_b"}], config, now="2026-01-31T12:00:00+00:00"
    )
    assert document == {
        "version": 1,
        "clients": [
            {
                "client_id": "a_b",
                "created_at": "2026-01-31T12:00:00+00:00",
                "domain": "a-b.agency.example",
                "aliases": [],
                "isolation_level": "medium",
                "state": "present",
                "services": {"site": {}},
                "index": 1,
                "subnet": "10.5.0.0/28",
                "uid": 1900000001,
                "gid": 1900000001,
            }
        ],
    }
    assert (change.action, change.before, change.after) == ("create", None, document["clients"][0])


# What is named -> what becomes of it.
EDITS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nothing": ({}, {}),
    "null": ({"domain": None, "aliases": None, "isolation_level": None, "services": None, "state": None}, {}),
    "domain": ({"domain": "New.example.com"}, {"domain": "new.example.com"}),
    "aliases": (
        {"aliases": ["WWW.acme.example.com", "b.example", "www.acme.example.com"]},
        {"aliases": ["b.example", "www.acme.example.com"]},
    ),
    "no aliases": ({"aliases": []}, {"aliases": []}),
    "services": ({"services": {"site": {"cpus": 2}}}, {"services": {"site": {"cpus": 2}}}),
    "service as in the catalog": ({"services": {"site": None}}, {"services": {"site": {}}}),
    "no services": ({"services": {}}, {"services": {}}),
    "state": ({"state": "suspended"}, {"state": "suspended"}),
    "level": ({"isolation_level": "medium"}, {"isolation_level": "medium"}),
    "what is allocated": ({"index": 9, "subnet": "10.0.0.0/8", "uid": 0, "gid": 0, "created_at": "x"}, {}),
}


@pytest.mark.parametrize(("edit", "changed"), EDITS.values(), ids=EDITS)
def test_an_edit_changes_what_it_names_and_nothing_else(edit: dict[str, Any], changed: dict[str, Any]) -> None:
    first = {
        "client_id": "acme",
        "domain": "acme.example.com",
        "aliases": ["old.example"],
        "services": {"site": {"cpus": 1}},
    }
    before = edited(empty_document(), first, {"client_id": "globex"})
    # Other defaults than those with which the clients were made.
    config = effective_config([("config.yaml", {"root_domain": "other.example", "client_services": []})])
    kept = deepcopy(before)
    after, changes = plan_registry(before, [{"client_id": "acme", **edit}], config, now="later")
    assert before == kept
    wanted = by_id(before)["acme"] | changed
    assert by_id(after) == by_id(before) | {"acme": wanted}
    assert [change.name for change in changes] == (["acme"] if wanted != by_id(before)["acme"] else [])


def test_the_same_edit_twice_changes_nothing_the_second_time() -> None:
    edit = [{"client_id": "b", "domain": "B.example", "aliases": ["*.b.example"]}, {"client_id": "a"}]
    document, changes = plan_registry(empty_document(), edit, CONFIG)
    assert [change.name for change in changes] == ["a", "b"]
    assert plan_registry(document, edit, CONFIG, now="later") == (document, [])


def test_a_client_named_twice_in_one_edit_is_made_once() -> None:
    document = edited(
        empty_document(), {"client_id": "a"}, {"client_id": "a", "domain": "x.example"}, {"client_id": "b"}
    )
    assert [(entry["domain"], entry["index"]) for entry in document["clients"]] == [
        ("x.example", 1),
        ("b.localhost", 2),
    ]


# ---------------------------------------------------------------- faults


def test_all_faults_of_all_clients_are_told_at_once_and_nothing_is_taken() -> None:
    before = edited(empty_document(), {"client_id": "acme", "domain": "acme.example"})
    kept = deepcopy(before)
    faults = faults_of(
        {"client_id": "Bad"},
        {"client_id": "one", "domain": "a b", "aliases": ["-x.example"], "isolation_level": "firm"},
        {"client_id": "two", "services": {"nothing": {}}},
        {"client_id": "three", "domain": "acme.example"},
        {"client_id": "four", "state": "sleeping"},
        before=before,
    )
    named = ("'Bad'", "'a b'", "'-x.example'", "'firm'", "'nothing'", "'acme.example'", "'sleeping'")
    assert before == kept
    assert all(any(name.strip("'") in fault for fault in faults) for name in named)
    assert len(faults) == len(named)


def test_a_level_that_is_not_known_is_refused_by_name() -> None:
    [fault] = faults_of({"client_id": "a", "isolation_level": "firm"})
    assert fault == "isolation_level 'firm' is not allowed: use one of soft, medium, hard."
    assert faults_of({"client_id": "a"}, config=CONFIG | {"isolation_level": "firm"}) == [fault]


SERVICE_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown service": ({"shop": {}}, "'shop' is not in the catalog (site)"),
    "unknown key": ({"site": {"privileged": True}}, "privileged is not known"),
    "bad value": ({"site": {"port": 0}}, "port 0"),
    "no mapping": ({"site": "big"}, "services.site must be a mapping"),
}


@pytest.mark.parametrize(("services", "named"), SERVICE_FAULTS.values(), ids=SERVICE_FAULTS)
def test_a_fault_of_a_service_names_the_client(services: dict[str, Any], named: str) -> None:
    [fault] = faults_of({"client_id": "acme", "services": services})
    assert fault.startswith("Client 'acme': ")
    assert named in fault


def test_a_service_that_the_catalog_has_lost_is_named_also_when_nobody_touches_its_client() -> None:
    before = edited(empty_document(), {"client_id": "a", "services": {"shop": {}}}, config=CONFIG_WITH_SHOP)
    for wanted in ([], [{"client_id": "b"}]):
        [fault] = faults_of(*wanted, before=before)
        assert fault == "Client 'a': services: 'shop' is not in the catalog (site)."


# ---------------------------------------------------------------- host names

# First client's names, second client's names, whether they meet.
MEETINGS: dict[str, tuple[list[str], list[str], bool]] = {
    "different": (["a.example"], ["b.example"], False),
    "equal": (["a.example"], ["a.example"], True),
    "equal but for case": (["a.example"], ["A.EXAMPLE"], True),
    "equal but for spelling": (
        ["xn--bcher-kva.example"],
        ["B\N{LATIN CAPITAL LETTER U WITH DIAERESIS}cher.example"],
        True,
    ),
    "equal aliases": (["a.example", "x.example"], ["b.example", "x.example"], True),
    "alias and domain": (["a.example", "b.example"], ["b.example"], True),
    "equal wildcards": (["*.a.example"], ["*.a.example"], True),
    "wildcard and a name below it": (["*.a.example"], ["www.a.example"], True),
    "name and a wildcard above it": (["www.a.example"], ["*.a.example"], True),
    "wildcard and the name it begins with": (["*.a.example"], ["a.example"], False),
    "wildcard and a name two levels below": (["*.a.example"], ["x.www.a.example"], False),
    "wildcards of two levels": (["*.a.example"], ["*.www.a.example"], False),
    "one name as the end of the other": (["a.example"], ["xa.example"], False),
}


@pytest.mark.parametrize("together", [True, False], ids=["in one edit", "one after the other"])
@pytest.mark.parametrize("order", [1, -1], ids=["forwards", "backwards"])
@pytest.mark.parametrize(("ones", "others", "meet"), MEETINGS.values(), ids=MEETINGS)
def test_a_host_name_belongs_to_one_client(
    ones: list[str], others: list[str], meet: bool, order: int, together: bool
) -> None:
    first, second = (
        {"client_id": client_id, "domain": names[0], "aliases": names[1:]}
        for client_id, names in list({"one": ones, "other": others}.items())[::order]
    )
    document, edit = empty_document(), [first, second]
    if not together:
        document, edit = edited(document, first), [second]
    if meet:
        faults = faults_of(*edit, before=document)
        assert all("belongs to client" in fault and "'one'" in fault and "'other'" in fault for fault in faults)
    else:
        assert len(edited(document, *edit)["clients"]) == 2


LABELS = st.sampled_from(
    ["a", "b", "www", "*", "B", "xn--bcher-kva", "b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher", "shop"]
)
DOMAINS = st.lists(LABELS, min_size=1, max_size=3).map(lambda labels: ".".join([*labels, "example"]))
CLIENTS = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d-1", "d_1"]),
    st.tuples(
        DOMAINS | st.none(), st.lists(DOMAINS, max_size=2), st.sampled_from([["site"], ["shop"], ["site", "shop"], []])
    ),
    min_size=1,
    max_size=4,
)


def covers(pattern: str, name: str) -> bool:
    """Whether a request for a name goes to whoever owns the pattern; written the slow and obvious way."""
    if pattern == name:
        return True
    head, _dot, rest = name.partition(".")
    return pattern == f"*.{rest}" and head != "*"


@given(CLIENTS, st.permutations(range(4)))
def test_no_sequence_of_edits_gives_one_name_to_two_clients_or_two_services(
    wanted: dict[str, tuple[str | None, list[str], list[str]]], order: Sequence[int]
) -> None:
    document = empty_document()
    items = list(wanted.items())
    for number in order:
        for client_id, (domain, aliases, services) in items[number : number + 1]:
            edit = {"client_id": client_id, "domain": domain, "aliases": aliases, "services": dict.fromkeys(services)}
            try:
                document = edited(document, edit, config=CONFIG_WITH_SHOP)
            except InvalidInput as refused:
                assert refused.faults
    for one, other in itertools.permutations(document["clients"], 2):
        for name, pattern in itertools.product(hostnames(one, CONFIG_WITH_SHOP), hostnames(other, CONFIG_WITH_SHOP)):
            assert not covers(pattern, name), (one["client_id"], name, other["client_id"], pattern)
    for entry in document["clients"]:
        names = [
            name
            for service in routed_services(entry, CONFIG_WITH_SHOP)
            for name in service_hostnames(entry, CONFIG_WITH_SHOP, service)
        ]
        assert len(names) == len(set(names))


def test_names_that_a_change_of_the_catalog_makes_are_found_without_any_edit() -> None:
    before = edited(
        empty_document(),
        {"client_id": "a", "domain": "example.com", "services": {"shop": {"subdomain": "buy"}}},
        {"client_id": "b", "domain": "www.example.com"},
        config=CONFIG_WITH_SHOP,
    )
    before["clients"][0]["services"]["shop"] = {}
    config = effective_config([("config.yaml", {"services": {"shop": SHOP | {"subdomain": "www"}}})])
    [fault] = faults_of(config=config, before=before)
    assert "www.example.com" in fault


def test_two_services_at_one_name_are_refused() -> None:
    config = effective_config([("config.yaml", {"services": {"other": {"image": "o:1", "port": 80}}})])
    [fault] = faults_of({"client_id": "a", "services": {"site": {}, "other": {}}}, config=config)
    assert fault == (
        "The services 'other' and 'site' of client 'a' would both answer at a.localhost; "
        "give one of them another subdomain."
    )


def test_a_subdomain_that_makes_no_host_name_is_refused() -> None:
    long = ".".join(["a" * 61] * 4) + ".abcd"
    [fault] = faults_of({"client_id": "a", "domain": long, "services": {"shop": {}}}, config=CONFIG_WITH_SHOP)
    assert "longer than 253" in fault


# Subdomain of the service -> names at which it answers, for a domain, an alias and a wildcard.
ANSWERS = {None: ["*.a.example", "a.example", "b.example"], "shop": ["shop.a.example", "shop.b.example"]}


@pytest.mark.parametrize(("subdomain", "names"), ANSWERS.items())
def test_a_service_answers_at_its_names(subdomain: str | None, names: list[str]) -> None:
    services = {"shop": {"image": "s:1", "port": 1, **({"subdomain": subdomain} if subdomain else {})}}
    config = effective_config([("config.yaml", {"services": services})])
    edit = {"client_id": "a", "domain": "a.example", "aliases": ["b.example", "*.a.example", "a.example"]}
    [client] = registered(config, edit | {"services": {"shop": {}}})
    assert service_hostnames(client, config, "shop") == names
    assert hostnames(client, config) == sorted({"*.a.example", "a.example", "b.example", *names})


def test_overrides_are_laid_over_the_catalog_and_leave_it_alone() -> None:
    kept = deepcopy(CONFIG_WITH_SHOP)
    [client] = registered(CONFIG_WITH_SHOP, {"client_id": "a", "services": {"shop": {"port": 81}, "worker": {}}})
    services = client_services(client, CONFIG_WITH_SHOP)
    assert services["shop"] == CONFIG_WITH_SHOP["services"]["shop"] | {"port": 81}
    assert services["worker"] == CONFIG_WITH_SHOP["services"]["worker"]
    assert routed_services(client, CONFIG_WITH_SHOP) == ["shop"]
    assert kept == CONFIG_WITH_SHOP


# ---------------------------------------------------------------- allocations


def assert_apart(document: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> None:
    """No two clients share anything, and a registry like that is accepted when it is read again."""
    check_document(document, "clients.json")
    holders = [*document["clients"], *document.get("shared", [])]
    for key in ("index", "uid", "gid"):
        assert len({holder[key] for holder in holders}) == len(holders)
    subnets = [
        ipaddress.IPv4Network(holder[key])
        for holder in holders
        for key in ("subnet", "internal_subnet")
        if key in holder
    ]
    for one, other in itertools.combinations(subnets, 2):
        assert not one.overlaps(other)
    for subnet in subnets if config else ():
        assert subnet.subnet_of(ipaddress.IPv4Network(config["network_pool"]))


def free_subnets(entries: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any]) -> int:
    """How many parts of the pool meet nobody's subnet; counted the slow and obvious way."""
    parts = ipaddress.IPv4Network(settings["network_pool"]).subnets(new_prefix=settings["subnet_prefix"])
    used = [ipaddress.IPv4Network(entry["subnet"]) for entry in entries.values()]
    return sum(not any(part.overlaps(network) for network in used) for part in parts)


SETTINGS = st.fixed_dictionaries(
    {
        "network_pool": st.sampled_from(["10.1.0.0/24", "10.1.0.0/22", "10.1.0.128/25", "10.2.0.0/24"]),
        "subnet_prefix": st.sampled_from([27, 28, 29]),
        "uid_base": st.sampled_from([200000, 200001, 200003]),
    }
)
STEPS = st.lists(
    st.tuples(
        SETTINGS,
        st.lists(st.sampled_from("abcdefghij"), max_size=4),
        st.lists(st.sampled_from("abcdefghij"), max_size=2),
    ),
    min_size=1,
    max_size=5,
)


@given(STEPS)
def test_allocations_never_change_and_never_meet_whatever_the_settings_become(
    steps: list[tuple[dict[str, Any], list[str], list[str]]],
) -> None:
    document = empty_document()
    for settings, added, vanished in steps:
        config = effective_config([("config.yaml", settings)])
        before = by_id(document)
        try:
            document = edited(document, *({"client_id": client_id} for client_id in added), config=config)
        except InvalidInput as refused:
            assert "has no free" in str(refused)
            assert free_subnets(before, settings) < len(set(added) - before.keys())
            continue
        assert_apart(document)
        after = by_id(document)
        for client_id, entry in before.items():
            assert {key: after[client_id][key] for key in ALLOCATED} == {key: entry[key] for key in ALLOCATED}
        for client_id in after.keys() - before.keys():
            assert ipaddress.IPv4Network(after[client_id]["subnet"]).subnet_of(
                ipaddress.IPv4Network(settings["network_pool"])
            )
            assert after[client_id]["subnet"].endswith(f"/{settings['subnet_prefix']}")
        document["clients"] = [entry for entry in document["clients"] if entry["client_id"] not in vanished]


@pytest.mark.parametrize("number", [1, 7, 16])
def test_clients_added_one_by_one_or_all_at_once_stand_apart(number: int) -> None:
    config = effective_config([("config.yaml", {"network_pool": "10.1.0.0/24"})])
    edits = [{"client_id": f"c{n}"} for n in range(number)]
    at_once = edited(empty_document(), *edits, config=config)
    one_by_one = empty_document()
    for edit in edits:
        one_by_one = edited(one_by_one, edit, config=config)
    for document in (at_once, one_by_one):
        assert len(document["clients"]) == number
        assert_apart(document, config)


def test_a_full_pool_is_told_and_another_one_of_the_same_size_cures_it() -> None:
    full = {"network_pool": "10.1.0.0/24", "subnet_prefix": 28}
    config = effective_config([("config.yaml", full)])
    document = edited(empty_document(), *({"client_id": f"c{n}"} for n in range(16)), config=config)
    [fault] = faults_of({"client_id": "more"}, config=config, before=document)
    assert fault.startswith("network_pool 10.1.0.0/24 has no free /28 left for client 'more'")
    other = effective_config([("config.yaml", full | {"network_pool": "10.2.0.0/24"})])
    document = edited(document, {"client_id": "more"}, config=other)
    assert by_id(document)["more"]["subnet"] == "10.2.0.0/28"
    assert_apart(document)


def test_a_thousand_clients_are_added_at_once_in_reasonable_time() -> None:
    document = edited(empty_document(), *({"client_id": f"c{n}"} for n in range(1000)))
    assert_apart({"version": 1, "clients": document["clients"][:100]}, CONFIG)
    assert len({entry["subnet"] for entry in document["clients"]}) == 1000


# Occupied network -> whether it stands in the way of the pool 10.217.0.0/16.
OCCUPIED = {
    "10.217.3.0/24": True,
    "10.0.0.0/8": True,
    "10.218.0.0/16": False,
    "172.17.0.0/16": False,
    "10.217.255.255/32": True,
}


@pytest.mark.parametrize(("network", "in_the_way"), OCCUPIED.items())
def test_a_pool_that_something_else_uses_is_refused_for_new_clients_alone(network: str, in_the_way: bool) -> None:
    before = edited(empty_document(), {"client_id": "old"})
    occupied = [(network, "a route on eth0")]
    assert plan_registry(before, [{"client_id": "old"}], CONFIG, occupied) == (before, [])
    if in_the_way:
        with pytest.raises(InvalidInput, match=rf"10\.217\.0\.0/16 overlaps {network} \(a route on eth0\)"):
            plan_registry(before, [{"client_id": "new"}], CONFIG, occupied)
    else:
        assert len(plan_registry(before, [{"client_id": "new"}], CONFIG, occupied)[1]) == 1


# ---------------------------------------------------------------- levels


def test_what_clients_share_is_allocated_for_the_first_soft_client_and_kept() -> None:
    soft = {"isolation_level": "soft"}
    document, changes = plan_registry(empty_document(), [{"client_id": "a"}, {"client_id": "b", **soft}], CONFIG)
    item = {"service": "site", "index": 3, "subnet": "10.217.0.32/28", "uid": 1900000003, "gid": 1900000003}
    assert document["shared"] == [item]
    assert [(change.kind, change.name, change.client_id) for change in changes] == [
        ("registry entry", "a", "a"),
        ("registry entry", "b", "b"),
        ("shared service", "site", None),
    ]
    assert shared_allocations(document) == [item | {"state": "present"}]
    for edit, state in (
        ({"client_id": "c", **soft}, "present"),
        ({"client_id": "b", "isolation_level": "medium"}, "present"),
        ({"client_id": "c", "state": "suspended"}, "present"),
        ({"client_id": "c", "state": "absent"}, "absent"),
        ({"client_id": "c", "state": "present"}, "present"),
        ({"client_id": "c", "services": {}}, "absent"),
    ):
        document = edited(document, edit)
        assert shared_allocations(document) == [item | {"state": state}]
        assert_apart(document)
    assert "shared" not in edited(empty_document(), {"client_id": "a"})


def test_a_hard_client_gets_a_second_subnet_once() -> None:
    document = edited(empty_document(), {"client_id": "a"}, {"client_id": "b", "isolation_level": "hard"})
    assert ("internal_subnet" in by_id(document)["a"], by_id(document)["b"]["internal_subnet"]) == (
        False,
        "10.217.0.32/28",
    )
    document = edited(document, {"client_id": "a", "isolation_level": "hard"})
    assert by_id(document)["a"]["internal_subnet"] == "10.217.0.48/28"
    # It stays with the client, so that the way back needs nothing new.
    back = edited(document, {"client_id": "a", "isolation_level": "medium"})
    assert edited(back, {"client_id": "a", "isolation_level": "hard"}) == document


LEVEL_STEPS = st.lists(
    st.lists(
        st.fixed_dictionaries(
            {"client_id": st.sampled_from("abcd")},
            optional={
                "isolation_level": st.sampled_from(["soft", "medium", "hard"]),
                "state": st.sampled_from(["present", "suspended", "absent"]),
                "services": st.sampled_from([{}, {"site": {}}, {"pair": {}}, {"site": {}, "pair": {}}, {"shop": {}}]),
            },
        ),
        max_size=3,
    ),
    min_size=1,
    max_size=6,
)


@given(LEVEL_STEPS, st.sampled_from(["10.1.0.0/24", "10.1.0.0/22"]))
def test_whatever_the_levels_become_no_allocation_meets_another_or_changes(
    steps: list[list[dict[str, Any]]], pool: str
) -> None:
    config = CONFIG_OF_LEVELS | {"network_pool": pool, "subnet_prefix": 27}
    document = empty_document()
    for edit in steps:
        gone = [name for name, entry in by_id(document).items() if entry["state"] == "absent"][:1]
        try:
            after = plan_registry(document, edit, config, forget=gone)[0]
        except InvalidInput as refused:
            assert refused.faults
            continue
        assert_apart(after, config)
        entries = by_id(after)
        for client_id, entry in by_id(document).items():
            kept = [key for key in (*ALLOCATED, "internal_subnet") if key in entry] if client_id in entries else []
            assert [entries[client_id][key] for key in kept] == [entry[key] for key in kept]
        assert [item for item in after.get("shared", []) if item in document.get("shared", [])] == document.get(
            "shared", []
        )
        for entry in entries.values():
            assert entry["isolation_level"] != "hard" or "internal_subnet" in entry
        served = {item["service"] for item in shared_allocations(after) if item["state"] == "present"}
        assert served == shared_services(after["clients"])
        document = after


DENY = {"egress": "deny", "egress_allow": ["203.0.113.7/32:443/tcp"]}
RATE = {"rate_limit": {"average": 5, "burst": 9}}
ROOM = {"resources": {"memory": "64m", "cpus": 0.25}}

# Level, what is said of the client -> what its entry says, or words of the refusal.
LEVEL_SETTINGS: dict[str, tuple[str, dict[str, Any], dict[str, Any] | str]] = {
    "a soft client's rate": ("soft", RATE, RATE),
    "a medium client's rate": ("medium", RATE, RATE),
    "a medium client's way out": ("medium", DENY, DENY),
    "a hard client's way out": ("hard", DENY, DENY),
    "a hard client's resources": ("hard", ROOM, ROOM),
    "a soft client's way out": (
        "soft",
        {"egress": "deny"},
        "egress is no setting of the level 'soft', which knows rate",
    ),
    "a soft client's resources": ("soft", ROOM, "resources is no setting of the level 'soft'"),
    "a medium client's resources": ("medium", ROOM, "resources is no setting of the level 'medium'"),
    "a hard client's rate": ("hard", RATE, "rate_limit is no setting of the level 'hard'"),
    "an unknown policy": ("medium", {"egress": "maybe"}, "egress"),
    "no destination": ("medium", {"egress_allow": ["everywhere"]}, "everywhere"),
    "half a rate": ("soft", {"rate_limit": {"average": 5}}, "rate_limit must have average and burst"),
    "a rate that is text": ("soft", {"rate_limit": "5"}, "rate_limit must have average and burst"),
    "a rate below none": ("soft", {"rate_limit": {"average": -1, "burst": 1}}, "rate_limit.average"),
    "an unknown resource": ("hard", {"resources": {"gpus": 1}}, "resources.gpus is not known"),
    "too little memory": ("hard", {"resources": {"memory": "1m"}}, "resources.memory '1m' is not allowed"),
    "resources that are text": ("hard", {"resources": "big"}, "resources 'big' must be a mapping"),
}


@pytest.mark.parametrize(("level", "said", "expected"), LEVEL_SETTINGS.values(), ids=LEVEL_SETTINGS)
def test_a_level_knows_its_own_settings(level: str, said: dict[str, Any], expected: dict[str, Any] | str) -> None:
    edit = {"client_id": "a", "isolation_level": level, **said}
    if isinstance(expected, str):
        [fault] = faults_of(edit)
        assert fault.startswith("Client 'a': ")
        assert expected in fault
    else:
        [entry] = registered(CONFIG, edit)
        assert {key: entry[key] for key in OF_LEVELS if key in entry} == expected


OF_LEVELS = ("egress", "egress_allow", "rate_limit", "resources")
# Level before, settings before, level after -> what is left.
DROPPED = [
    ("medium", DENY | RATE, "hard", DENY),
    ("medium", DENY | RATE, "soft", RATE),
    ("hard", DENY | ROOM, "medium", DENY),
    ("hard", DENY | ROOM, "soft", {}),
    ("soft", RATE, "medium", RATE),
    ("soft", RATE, "hard", {}),
]


@pytest.mark.parametrize(("level", "said", "new_level", "left"), DROPPED)
def test_what_the_new_level_does_not_know_goes(
    level: str, said: dict[str, Any], new_level: str, left: dict[str, Any]
) -> None:
    document = edited(empty_document(), {"client_id": "a", "isolation_level": level, **said})
    # Not by an edit of something else.
    same = by_id(edited(document, {"client_id": "a", "state": "suspended"}))["a"]
    assert {key: same[key] for key in OF_LEVELS if key in same} == said
    entry = by_id(edited(document, {"client_id": "a", "isolation_level": new_level}))["a"]
    assert {key: entry[key] for key in OF_LEVELS if key in entry} == left
    # It can be said with the change of the level.
    again = by_id(edited(document, {"client_id": "a", "isolation_level": new_level, **left}))["a"]
    assert again == entry


def test_resources_are_changed_key_by_key() -> None:
    document = edited(empty_document(), {"client_id": "a", "isolation_level": "hard", **ROOM})
    nulls = {"memory": None, "cpus": 1.0, "pids": None, "disk": None}
    entry = by_id(edited(document, {"client_id": "a", "resources": nulls}))["a"]
    assert entry["resources"] == {"memory": "64m", "cpus": 1.0}


# Services of a soft client -> what the refusal says, or nothing.
SOFT_SERVICES: dict[str, tuple[dict[str, Any], str]] = {
    "shared": ({"site": {}}, ""),
    "shared, without what the service needs alone": ({"site": {}, "pair": {}}, ""),
    "none": ({}, ""),
    "not shared": (
        {"shop": {}},
        "Client 'a': services: 'shop' cannot be shared, its catalog entry has no key 'shared'; at this level there are "
        "site, pair.",
    ),
    "with overrides": (
        {"site": {"cpus": 2}},
        "Client 'a': services.site: the instance serves several clients, so it has no settings of one client.",
    ),
}


@pytest.mark.parametrize(("services", "said"), SOFT_SERVICES.values(), ids=SOFT_SERVICES)
def test_a_soft_client_has_what_can_be_shared_as_it_is(services: dict[str, Any], said: str) -> None:
    edit = {"client_id": "a", "isolation_level": "soft", "services": services}
    if said:
        [fault] = faults_of(edit, config=CONFIG_OF_LEVELS)
        assert fault == said
        medium = edited(empty_document(), edit | {"isolation_level": "medium"}, config=CONFIG_OF_LEVELS)
        assert faults_of({"client_id": "a", "isolation_level": "soft"}, config=CONFIG_OF_LEVELS, before=medium) == [
            fault
        ]
    else:
        document = edited(empty_document(), edit, config=CONFIG_OF_LEVELS)
        assert {item["service"] for item in document.get("shared", [])} == set(services)


def test_a_service_that_needs_another_one_needs_it_of_the_same_client() -> None:
    edit = {"client_id": "a", "services": {"pair": {}}}
    [fault] = faults_of(edit, config=CONFIG_OF_LEVELS)
    assert fault == "Client 'a': services.pair depends on 'worker', which this client does not have."
    [client] = registered(CONFIG_OF_LEVELS, edit | {"services": {"pair": {}, "worker": {}}})
    assert list(client_services(client, CONFIG_OF_LEVELS)) == ["worker", "pair"]


# ---------------------------------------------------------------- reading

ENTRY = registered(CONFIG, {"client_id": "a"})[0]
OTHER = ENTRY | {
    "client_id": "b",
    "domain": "b.localhost",
    "index": 2,
    "uid": 70000,
    "gid": 70000,
    "subnet": "10.217.0.16/28",
}

DOCUMENTS: dict[str, tuple[Any, str]] = {
    "no mapping": ([], "is no client registry"),
    "no clients": ({"version": 1}, "is no client registry"),
    "clients that are no list": ({"version": 1, "clients": {}}, "is no client registry"),
    "later version": ({"version": 2, "clients": []}, "has version 2"),
    "no version": ({"clients": []}, "is no client registry"),
    "entry that is no mapping": ({"version": 1, "clients": ["a"]}, "entry 1, 'a', is not allowed"),
    "entry without services": (
        {"version": 1, "clients": [{key: value for key, value in ENTRY.items() if key != "services"}]},
        "client 'a' lacks services, an object",
    ),
    "index that is text": (
        {"version": 1, "clients": [ENTRY | {"index": "1"}]},
        "index '1' of client 'a' is not allowed",
    ),
    "bad id": (
        {"version": 1, "clients": [ENTRY | {"client_id": "../x"}]},
        "client_id '../x' of entry 1 is not allowed",
    ),
    "bad subnet": ({"version": 1, "clients": [ENTRY | {"subnet": "all"}]}, "subnet 'all' of client 'a' is not allowed"),
    "bad state": ({"version": 1, "clients": [ENTRY | {"state": "presnt"}]}, "state 'presnt' of client 'a' is not"),
    "unknown level": (
        {"version": 1, "clients": [ENTRY | {"isolation_level": "firm"}]},
        "isolation_level 'firm' of client",
    ),
    "client twice": (
        {"version": 1, "clients": [OTHER, OTHER | {"index": 3}]},
        "client_id 'b' of client 'b' stands in it twice",
    ),
    "index twice": (
        {"version": 1, "clients": [ENTRY, OTHER | {"index": 1}]},
        "index 1 of client 'b' stands in it twice",
    ),
    "uid twice": ({"version": 1, "clients": [ENTRY, OTHER | {"uid": ENTRY["uid"]}]}, "uid 1900000001 of client 'b'"),
    "subnets that overlap": (
        {"version": 1, "clients": [ENTRY, OTHER | {"subnet": "10.217.0.0/24"}]},
        "the subnets 10.217.0.0/24 of client 'b' and 10.217.0.0/28 of client 'a' overlap",
    ),
}


@pytest.mark.parametrize(("document", "named"), DOCUMENTS.values(), ids=DOCUMENTS)
def test_a_file_that_is_no_registry_is_refused_with_its_path(document: Any, named: str) -> None:
    with pytest.raises(TenancyError) as refused:
        check_document(document, "/x/clients.json")
    assert str(refused.value).startswith("/x/clients.json")
    assert named in str(refused.value)


def test_a_good_document_is_read_as_it_is() -> None:
    document = {"version": 1, "clients": [ENTRY, OTHER], "note": "kept"}
    assert check_document(document, "x") == document
    assert edited(document, {"client_id": "c"})["note"] == "kept"


def test_clients_are_selected_by_id() -> None:
    document = {"version": 1, "clients": [ENTRY, OTHER]}
    assert select_clients(document, None) == [ENTRY, OTHER]
    assert select_clients(document, ["b", "a", "b"]) == [ENTRY, OTHER]
    assert select_clients(document, []) == []
    with pytest.raises(InvalidInput) as refused:
        select_clients(document, ["x", "b", "y"])
    assert refused.value.faults == [
        "There is no client 'x'; there are a, b.",
        "There is no client 'y'; there are a, b.",
    ]
