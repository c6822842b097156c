# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The catalog: services are checked as a whole, and nothing that is accepted can leave the client's own folder."""

from __future__ import annotations

import os.path
from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._catalog import (
    ALLOWED_CAPABILITIES,
    SERVICE_SPEC,
    in_order,
    merge,
    normalise_services,
    parse_duration,
    parse_size,
    parse_volume,
    shared_service,
)
from hypothesis import example, given
from hypothesis import strategies as st

SIZES = {
    "6m": 6 * 1024**2,
    "256M": 256 * 1024**2,
    "1g": 1024**3,
    "2GB": 2 * 1024**3,
    "3kb": 3 * 1024,
    "512": 512,
    "512b": 512,
    " 5k\n": 5 * 1024,
}
NO_SIZES = ("", "m", "0", "0m", "-1m", "1.5g", "1t", "1 g", "1e3", "\N{ARABIC-INDIC DIGIT ONE}m", "9" * 16)
DURATIONS = {
    "30s": 30 * 10**9,
    "1m30s": 90 * 10**9,
    "1h": 3600 * 10**9,
    "1h1m1s1ms": 3661001 * 10**6,
    "250ms": 250 * 10**6,
    "0s": 0,
}
NO_DURATIONS = ("", "30", "s", "-1s", "1s1m", "1.5s", "1 s", "\N{ARABIC-INDIC DIGIT ONE}s")
VOLUMES = {
    "site:/srv/www": ("site", "/srv/www", False),
    "site:/srv/www:ro": ("site", "/srv/www", True),
    "site:/srv/www:rw": ("site", "/srv/www", False),
}
NO_VOLUMES = (
    "", "site", "site:", ":/srv", "/etc:/srv", "../x:/srv", "a/../b:/srv", "a/..:/srv", "./a:/srv", ".a:/srv", "~:/srv",
    "a//b:/srv", "a/:/srv", "a/b:/srv",
    "site:srv", "site:/srv/../etc", "site:/..", "site:/srv:z", "site:/srv:ro:rw", "si te:/srv",
    "site:/srv\n", "a\0:/srv", "$HOME:/srv", "/".join("a" * 9) + ":/srv",
)  # fmt: skip

# Value -> what the fault must name.
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "no image": ({}, "image"),
    "bad image": ({"image": "A B"}, "image 'A B'"),
    "unknown key": ({"image": "a", "privileged": True}, "privileged is not known"),
    "key that is a number": ({"image": "a", 7: 1}, "7 is not known"),
    "unknown key below": ({"image": "a", "healthcheck": {"test": ["CMD", "x"], "disable": 1}}, "healthcheck.disable"),
    "capability that is not on offer": ({"image": "a", "cap_add": ["SYS_ADMIN"]}, "cap_add"),
    "memory below the engine's minimum": ({"image": "a", "mem_limit": "5m"}, "mem_limit '5m'"),
    "memory beyond all numbers": ({"image": "a", "mem_limit": "9" * 15 + "g"}, "mem_limit"),
    "memory that is none": ({"image": "a", "mem_limit": "much"}, "mem_limit"),
    "no cpu": ({"image": "a", "cpus": 0}, "cpus"),
    "not a number of cpus": ({"image": "a", "cpus": float("nan")}, "cpus"),
    "no process": ({"image": "a", "pids_limit": 0}, "pids_limit"),
    "port 0": ({"image": "a", "port": 0}, "port 0"),
    "port 65536": ({"image": "a", "port": 65536}, "port 65536"),
    "user by name": ({"image": "a", "user": "root"}, "user 'root'"),
    "subdomain of two parts": ({"image": "a", "subdomain": "a.b"}, "subdomain 'a.b'"),
    "subdomain that breaks out": ({"image": "a", "subdomain": "a`)"}, "subdomain"),
    "signal": ({"image": "a", "stop_signal": "KILL"}, "stop_signal"),
    "grace period": ({"image": "a", "stop_grace_period": "10"}, "stop_grace_period"),
    "interval": ({"image": "a", "healthcheck": {"test": ["CMD", "x"], "interval": "often"}}, "healthcheck.interval"),
    "empty health check": ({"image": "a", "healthcheck": {"test": []}}, "healthcheck.test"),
    "health check without a program": ({"image": "a", "healthcheck": {"test": ["CMD"]}}, "healthcheck.test"),
    "health check without its kind": ({"image": "a", "healthcheck": {"test": ["curl", "x"]}}, "healthcheck.test"),
    "no health check at all": ({"image": "a", "healthcheck": {"test": ["NONE"]}}, "healthcheck.test"),
    "volume outside": ({"image": "a", "volumes": ["../../etc:/x"]}, "volumes: '../../etc:/x'"),
    "volume of the host": ({"image": "a", "volumes": ["/var/run/docker.sock:/x"]}, "volumes"),
    "tmpfs": ({"image": "a", "tmpfs": ["tmp"]}, "tmpfs 'tmp'"),
    "tmpfs that climbs": ({"image": "a", "tmpfs": ["/a/../b"]}, "tmpfs"),
    "variable's name": ({"image": "a", "environment": {"A-B": "x"}}, "environment: 'A-B'"),
    "variable's value": ({"image": "a", "environment": {"A": ["x"]}}, "environment.A"),
    "NUL in a variable": ({"image": "a", "environment": {"A": "x\0y"}}, "environment.A"),
    "text for a list": ({"image": "a", "command": "nginx -g 'daemon off;', x"}, "command"),
    "order": ({"image": "a", "deploy": {"update_config": {"order": "never"}}}, "order"),
    "dependency that is text": (
        {"image": "a", "depends_on": "db"},
        ".depends_on must be a list of names, or a mapping",
    ),
    "dependency that is a number": ({"image": "a", "depends_on": [1]}, ".depends_on must be a list of names"),
    "unknown condition": (
        {"image": "a", "depends_on": {"db": "service_ready"}},
        "depends_on.db 'service_ready' is not",
    ),
    "dependency with another key": (
        {"image": "a", "depends_on": {"db": {"condition": "service_started", "restart": True}}},
        "depends_on.db",
    ),
    "dependency without a condition": ({"image": "a", "depends_on": {"db": {}}}, "use {condition: service_started} or"),
    "secret in a folder": ({"image": "a", "secrets": ["a/b"]}, "secrets: 'a/b' is not allowed: use the name of a file"),
    "secret that climbs": ({"image": "a", "secrets": [".."]}, "secrets: '..'"),
    "secret without a name": ({"image": "a", "secrets": [""]}, "secrets: ''"),
    "shared that is text": ({"image": "a", "shared": "yes"}, "shared 'yes' must be a mapping"),
    "unknown key of shared": ({"image": "a", "shared": {"colour": 1}}, ".shared: colour is not known"),
    "bad value of shared": ({"image": "a", "shared": {"mem_limit": "1m"}}, ".shared.mem_limit '1m'"),
    "two shared volumes": (
        {"image": "a", "volumes": ["a:/a", "b:/b"], "shared": {}},
        ".shared: a shared instance has one",
    ),
    "shared secrets": ({"image": "a", "secrets": ["db"], "shared": {}}, "belong to a client"),
    "shared dependencies": ({"image": "a", "depends_on": ["db"], "shared": {}}, "belong to a client"),
    "user of a shared instance": ({"image": "a", "shared": {"user": "1:1"}}, "belong to a client"),
    "port of its own": ({"image": "a", "port": 1, "shared": {"port": 2}}, ".shared: port and subdomain are those of"),
    "subdomain of its own": ({"image": "a", "shared": {"subdomain": "x"}}, ".shared: port and subdomain are those of"),
}


@pytest.mark.parametrize(("text", "size"), SIZES.items())
def test_a_size_is_read_as_compose_reads_it(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", NO_SIZES)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        parse_size(text)


@pytest.mark.parametrize(("text", "nanoseconds"), DURATIONS.items())
def test_a_duration_is_read_as_compose_reads_it(text: str, nanoseconds: int) -> None:
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize("text", NO_DURATIONS)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        parse_duration(text)


@given(st.integers(0, 999), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_a_duration_is_the_sum_of_its_parts(hours: int, minutes: int, seconds: int, milliseconds: int) -> None:
    text = f"{hours}h{minutes}m{seconds}s{milliseconds}ms"
    assert parse_duration(text) == (hours * 3600 + minutes * 60 + seconds) * 10**9 + milliseconds * 10**6


@pytest.mark.parametrize(("text", "parts"), VOLUMES.items())
def test_a_volume_is_taken_apart(text: str, parts: tuple[str, str, bool]) -> None:
    assert parse_volume(text) == parts


@pytest.mark.parametrize("text", NO_VOLUMES)
def test_what_is_no_volume_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no volume"):
        parse_volume(text)


@given(st.text("ab.:/-_ro\n\0~", max_size=40) | st.text())
@example("a/..:/x")
def test_no_accepted_volume_leaves_the_data_folder(text: str) -> None:
    try:
        source, target, _read_only = parse_volume(text)
    except ValueError:
        return
    inside = os.path.normpath(os.path.join("/root/clients/acme/data", source))
    assert inside.startswith("/root/clients/acme/data/")
    assert inside == f"/root/clients/acme/data/{source}"
    assert os.path.isabs(target)
    assert ".." not in target.split("/")


@pytest.mark.parametrize(("service", "named"), FAULTS.values(), ids=FAULTS)
def test_a_fault_names_the_service_and_the_key(service: dict[str, Any], named: str) -> None:
    _normal, faults = normalise_services({"shop": service})
    assert any(fault.startswith("services.shop") and named in fault for fault in faults)
    assert all(fault.endswith(".") and fault.isprintable() for fault in faults)


# As it may be written -> conditions by name.
DEPENDENCIES: dict[str, tuple[Any, dict[str, str]]] = {
    "nothing": (None, {}),
    "an empty list": ([], {}),
    "a list": (["db", "cache"], {"db": "service_started", "cache": "service_started"}),
    "Compose's mapping": ({"db": {"condition": "service_healthy"}}, {"db": "service_healthy"}),
    "normalised already": ({"db": "service_healthy", "cache": "service_started"},) * 2,
}


@pytest.mark.parametrize(("written", "meant"), DEPENDENCIES.values(), ids=DEPENDENCIES)
def test_dependencies_are_read_as_compose_reads_them(written: Any, meant: dict[str, str]) -> None:
    normal, faults = normalise_services({"shop": {"image": "a", "depends_on": written}})
    assert (faults, normal["shop"]["depends_on"]) == ([], meant)


# Needed by name -> the order, or what the refusal says.
ORDERS: dict[str, tuple[dict[str, list[str]], list[str] | str]] = {
    "nothing": ({}, []),
    "by name": ({"b": [], "a": []}, ["a", "b"]),
    "a chain": ({"a": ["b"], "b": ["c"], "c": []}, ["c", "b", "a"]),
    "a diamond": ({"a": ["b", "c"], "b": ["d"], "c": ["d"], "d": []}, ["d", "b", "c", "a"]),
    "missing": ({"a": ["b"], "b": ["x"]}, "services.b depends on 'x', which this client does not have."),
    "itself": ({"a": ["a"]}, "services: a depend on each other in a circle."),
    "a circle beside others": ({"a": ["b"], "b": ["a"], "c": []}, "services: a, b depend on each other in a circle."),
}


@pytest.mark.parametrize(("needed", "expected"), ORDERS.values(), ids=ORDERS)
def test_each_service_comes_after_those_that_it_needs(needed: dict[str, list[str]], expected: list[str] | str) -> None:
    services = {name: {"depends_on": dict.fromkeys(names, "service_started")} for name, names in needed.items()}
    if isinstance(expected, list):
        assert in_order(services) == expected
    else:
        with pytest.raises(ValueError) as refused:
            in_order(services)
        assert str(refused.value) == expected


def test_the_shared_form_goes_over_the_service() -> None:
    service = {
        "image": "a",
        "port": 80,
        "secrets": ["db.pw"],
        "depends_on": ["db"],
        "volumes": ["a:/a", "b:/b:ro"],
        "environment": {"A": 1, "B": 2},
        "shared": {"environment": {"B": 3}, "secrets": [], "depends_on": [], "volumes": ["a:/all"]},
    }
    normal, faults = normalise_services({"shop": service})
    assert faults == []
    shared, faults = shared_service("shop", normal["shop"])
    assert faults == []
    assert {key: shared.get(key) for key in service} == {
        "image": "a",
        "port": 80,
        "secrets": [],
        "depends_on": {},
        "volumes": ["a:/all"],
        "environment": {"A": 1, "B": 3},
        "shared": None,
    }
    # The service itself is as it was, and a second look says the same.
    assert normal["shop"]["secrets"] == ["db.pw"]
    assert normalise_services(normal) == (normal, [])


@pytest.mark.parametrize("name", ["edge", "traefik"])
def test_names_of_the_platforms_own_are_reserved(name: str) -> None:
    normal, faults = normalise_services({name: {"image": "a"}})
    assert (normal, faults) == ({}, [f"The service name '{name}' is reserved for the platform."])


def test_all_faults_of_all_services_are_told_at_once() -> None:
    _normal, faults = normalise_services(
        {
            "one": {"image": "a", "port": 0, "user": "root", "mem_limit": "x", "volumes": ["/a:/b", "c"]},
            "Two": {"image": "a"},
            "three": "text",
            7: {"image": "a"},
        }
    )
    assert len(faults) == 8
    for named in ("port 0", "user 'root'", "mem_limit", "'/a:/b'", "'c'", "'Two'", "services.three", "7"):
        assert any(named in fault for fault in faults), named


def test_defaults_are_filled_in_and_null_means_the_default() -> None:
    given_nothing, no_faults = normalise_services({"shop": {"image": "a"}})
    given_nulls, dummy = normalise_services({"shop": dict.fromkeys(SERVICE_SPEC) | {"image": "a"}})
    assert no_faults == []
    assert given_nulls == given_nothing
    shop = given_nothing["shop"]
    assert (shop["read_only"], shop["cap_add"], shop["volumes"], shop["environment"]) == (True, [], [], {})
    assert shop["deploy"]["update_config"]["order"] == "stop-first"
    assert "healthcheck" not in shop


def test_normalising_twice_changes_nothing_and_leaves_the_input_alone() -> None:
    services = {
        "shop": {
            "image": "registry.example:5000/a/b:1@sha256:" + "0" * 64,
            "cap_add": list(ALLOWED_CAPABILITIES),
            "healthcheck": {"test": ["CMD-SHELL", "true"]},
            "environment": {"A": 1},
        }
    }
    before = repr(services)
    once, faults = normalise_services(services)
    assert (faults, repr(services)) == ([], before)
    assert normalise_services(once) == (once, [])


JSON = st.recursive(
    st.none() | st.integers() | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
MAPPINGS = st.dictionaries(st.sampled_from("abc"), JSON, max_size=3)


@given(MAPPINGS, MAPPINGS)
def test_merging_keeps_its_arguments_and_is_idempotent(weak: dict[str, Any], strong: dict[str, Any]) -> None:
    before = repr((weak, strong))
    merged = merge(weak, strong)
    assert repr((weak, strong)) == before
    assert merge(merged, strong) == merged
    for key in weak.keys() - strong.keys():
        assert merged[key] == weak[key]
    for key, value in strong.items():
        if value is None:
            assert key not in merged
        elif not isinstance(value, dict):
            assert merged[key] == value


LEVEL_KEYS = ("depends_on", "secrets", "shared")


@given(
    st.dictionaries(
        st.sampled_from(("image", "port", "volumes", "healthcheck", "x", "environment", *LEVEL_KEYS)),
        JSON,
        max_size=4,
    )
)
def test_no_input_makes_the_check_stumble(service: dict[str, Any]) -> None:
    normal, faults = normalise_services({"shop": service})
    assert normal or faults
