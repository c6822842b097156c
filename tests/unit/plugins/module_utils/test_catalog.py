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
    merge,
    normalise_services,
    parse_duration,
    parse_size,
    parse_volume,
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


@given(
    st.dictionaries(st.sampled_from(["image", "port", "volumes", "healthcheck", "x", "environment"]), JSON, max_size=4)
)
def test_no_input_makes_the_check_stumble(service: dict[str, Any]) -> None:
    normal, faults = normalise_services({"shop": service})
    assert normal or faults
