# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reservations of hard clients, and whether the host admits them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import InvalidInput
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._resources import (
    GIB,
    MIB,
    Capacity,
    HostSize,
    Resources,
    admission_faults,
    capacity_of,
    free_disk,
    parse_resources,
    read_host,
    resource_faults,
    size_text,
    wanted_resources,
)
from hypothesis import given
from hypothesis import strategies as st

WHOLE = {"memory": "512m", "cpus": 1.5, "pids": 512, "disk": "2g"}


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        (WHOLE, Resources(512 * MIB, 1.5, 512, 2 * GIB)),
        ({"memory": "32m", "cpus": "0.01", "pids": "16", "disk": "16m"}, Resources(32 * MIB, 0.01, 16, 16 * MIB)),
        (
            {"memory": 33554432, "cpus": 4096, "pids": 4194304.0, "disk": "16MB"},
            Resources(32 * MIB, 4096, 4194304, 16 * MIB),
        ),
    ],
)
def test_what_is_understood(given_: dict[str, Any], expected: Resources) -> None:
    assert parse_resources(given_) == expected
    assert resource_faults(given_) == []


@pytest.mark.parametrize(
    ("given_", "fault"),
    [
        ({"memory": "31m"}, "resources.memory '31m' is not allowed: use 32m or more."),
        ({"memory": "2097152g"}, "resources.memory '2097152g' is not allowed: use 32m or more."),
        ({"memory": "much"}, "resources.memory: 'much' is no size such as 256m or 2g; use 32m or more."),
        ({"memory": True}, "resources.memory: True is no size such as 256m or 2g; use 32m or more."),
        ({"memory": -1}, "resources.memory: '-1' is no size such as 256m or 2g; use 32m or more."),
        ({"disk": "15m"}, "resources.disk '15m' is not allowed: use 16m or more."),
        ({"disk": None}, "resources.disk: None is no size such as 256m or 2g; use 16m or more."),
        ({"cpus": 0.001}, "resources.cpus 0.001 is not allowed: use 0.01 to 4096."),
        ({"cpus": 4097}, "resources.cpus 4097 is not allowed: use 0.01 to 4096."),
        ({"cpus": float("nan")}, "resources.cpus: nan is no number such as 0.5 or 2; use 0.01 to 4096."),
        ({"cpus": float("inf")}, "resources.cpus: inf is no number such as 0.5 or 2; use 0.01 to 4096."),
        ({"cpus": "1_0"}, "resources.cpus: '1_0' is no number such as 0.5 or 2; use 0.01 to 4096."),
        ({"cpus": True}, "resources.cpus: True is no number such as 0.5 or 2; use 0.01 to 4096."),
        ({"pids": 15}, "resources.pids 15 is not allowed: use 16 to 4194304."),
        ({"pids": 16.5}, "resources.pids: 16.5 is no whole number; use 16 to 4194304."),
        ({"pids": [16]}, "resources.pids: [16] is no number such as 0.5 or 2; use 16 to 4194304."),
        ({"ram": "1g"}, "resources.ram is not known; known are memory, cpus, pids, disk."),
        ({"\x1b[2J": 1}, "resources.\\x1b[2J is not known; known are memory, cpus, pids, disk."),
        ("512m", "resources '512m' must be a mapping with some of memory, cpus, pids, disk."),
    ],
)
def test_what_is_refused(given_: Any, fault: str) -> None:
    assert resource_faults(given_) == [fault]
    with pytest.raises(InvalidInput) as caught:
        parse_resources({**WHOLE, **given_} if isinstance(given_, dict) else given_)
    assert caught.value.faults == [fault]


def test_every_fault_is_told_at_once() -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_resources({"memory": "1m", "cpus": 0, "nice": 1}, "Client 'acme': resources")
    assert caught.value.faults == [
        "Client 'acme': resources.memory '1m' is not allowed: use 32m or more.",
        "Client 'acme': resources.cpus 0 is not allowed: use 0.01 to 4096.",
        "Client 'acme': resources.nice is not known; known are memory, cpus, pids, disk.",
        "Client 'acme': resources.pids is missing.",
        "Client 'acme': resources.disk is missing.",
    ]


def test_an_entry_goes_over_the_defaults_of_the_level() -> None:
    config = {"hard": {"egress": "deny", **WHOLE}}
    assert wanted_resources({"client_id": "acme"}, config) == Resources(512 * MIB, 1.5, 512, 2 * GIB)
    own = wanted_resources({"client_id": "acme", "resources": {"disk": "3g"}}, config)
    assert own == Resources(512 * MIB, 1.5, 512, 3 * GIB)


def test_capacity_is_what_the_host_has() -> None:
    settings = {"reserved_memory": "512m", "reserved_cpus": 0.5, "reserved_disk": "0", "cpu_overcommit": 2.0}
    assert capacity_of(HostSize(8 * GIB, 4, 100 * GIB), settings) == Capacity(
        8 * GIB, 8.0, 100 * GIB, 512 * MIB, 0.5, 0
    )


def test_this_host_is_read(tmp_path: Path) -> None:
    volumes = tmp_path / "not" / "yet" / "there"
    before = read_host(str(volumes))
    assert before.memory > 64 * MIB
    assert before.cpus >= 1
    assert abs(before.disk - free_disk(str(tmp_path))) < 64 * MIB
    volumes.mkdir(parents=True)
    for name in ("acme.img", "half.new"):
        with open(volumes / name, "wb") as handle:
            handle.truncate(1024 * MIB)
    # A hole takes nothing, and so gives nothing back.
    assert abs(read_host(str(volumes)).disk - free_disk(str(tmp_path))) < 64 * MIB


HOST = Capacity(8 * GIB, 4.0, 100 * GIB, reserved_memory=512 * MIB, reserved_cpus=0.5, reserved_disk=2 * GIB)


def of(memory: float = 0.1, cpus: float = 0.1, disk: float = 0.1) -> Resources:
    return Resources(int(memory * GIB), cpus, 100, int(disk * GIB))


@pytest.mark.parametrize(
    ("wanted", "touched", "faults"),
    [
        ({}, [], []),
        ({"a": of(7.5, 3.5, 98)}, ["a"], []),
        (
            {"a": of(7.6)},
            ["a"],
            ["Client 'a' asks for 7.6 GiB of memory; 7.5 GiB of 8.0 GiB are left after 512 MiB for the host."],
        ),
        (
            {"a": of(2.1), "b": of(2.1), "c": of(2.1), "d": of(2)},
            ["d"],
            [
                "Client 'd' asks for 2.0 GiB of memory; 1.2 GiB of 8.0 GiB are left after what 3 other hard clients "
                "reserve and 512 MiB for the host."
            ],
        ),
        (
            {"a": of(cpus=3.2), "b": of(cpus=0.5)},
            ["b"],
            [
                "Client 'b' asks for 0.5 CPUs; 0.3 of 4 CPUs are left after what 1 other hard client reserves and "
                "0.5 CPUs for the host."
            ],
        ),
        (
            {"a": of(8, 4, 99)},
            ["a"],
            [
                "Client 'a' asks for 8.0 GiB of memory; 7.5 GiB of 8.0 GiB are left after 512 MiB for the host.",
                "Client 'a' asks for 4 CPUs; 3.5 of 4 CPUs are left after 0.5 CPUs for the host.",
                "Client 'a' asks for 99.0 GiB of disk; 98.0 GiB of 100.0 GiB are left after 2.0 GiB for the host.",
            ],
        ),
        # Those that are not touched are never judged, also where they have too much.
        ({"a": of(9), "b": of(9)}, [], []),
        (
            {"a": of(9), "b": of(0.1)},
            ["b"],
            [
                "Client 'b' asks for 103 MiB of memory; 0 MiB of 8.0 GiB are left after what 1 other hard client "
                "reserves and 512 MiB for the host."
            ],
        ),
        # Of two new ones the first fits, and the one that does not takes nothing from a third.
        (
            {"a": of(4), "b": of(4), "c": of(3)},
            ["a", "b", "c"],
            [
                "Client 'b' asks for 4.0 GiB of memory; 3.5 GiB of 8.0 GiB are left after what 1 other hard client "
                "reserves and 512 MiB for the host."
            ],
        ),
    ],
)
def test_admission(wanted: dict[str, Resources], touched: list[str], faults: list[str]) -> None:
    assert admission_faults(wanted, HOST, touched) == faults


def test_what_a_client_has_already_is_not_judged_again() -> None:
    # The disk has become full meanwhile; the memory that it asks for is there.
    full = Capacity(8 * GIB, 4.0, 1 * GIB)
    wanted, before = {"a": of(memory=2, disk=5)}, {"a": of(memory=1, disk=5)}
    assert len(admission_faults(wanted, full, ["a"])) == 1
    assert admission_faults(wanted, full, ["a"], before) == []
    [fault] = admission_faults({"a": of(memory=2, disk=5.5)}, full, ["a"], before)
    assert fault == "Client 'a' asks for 5.5 GiB of disk; 1.0 GiB of 1.0 GiB are left."
    # One that is refused keeps what it has.
    both = {"a": of(memory=9), "b": of(memory=7.5)}
    assert len(admission_faults(both, full, ["a", "b"], {"a": of(memory=1)})) == 2


@given(
    wanted=st.dictionaries(
        st.sampled_from("abcdefgh"),
        st.builds(
            Resources,
            memory=st.integers(1, 10**10),
            cpus=st.floats(0.01, 8),
            pids=st.just(16),
            disk=st.integers(1, 10**11),
        ),
    ),
    touched=st.frozensets(st.sampled_from("abcdefgh")),
)
def test_what_is_admitted_fits_and_the_others_are_never_blamed(
    wanted: dict[str, Resources], touched: frozenset[str]
) -> None:
    faults = admission_faults(wanted, HOST, touched)
    blamed = {fault.split("'")[1] for fault in faults}
    assert blamed <= touched & set(wanted)
    admitted = [resources for client_id, resources in wanted.items() if client_id not in blamed]
    if touched - blamed and set(wanted) <= touched:
        assert sum(r.memory for r in admitted) <= HOST.memory - HOST.reserved_memory
        assert sum(r.cpus for r in admitted) <= HOST.cpus - HOST.reserved_cpus + 1e-6
        assert sum(r.disk for r in admitted) <= HOST.disk - HOST.reserved_disk


@pytest.mark.parametrize(
    ("size", "down", "up"),
    [
        (0, "0 MiB", "0 MiB"),
        (2000, "0 MiB", "1 MiB"),
        (512 * MIB, "512 MiB", "512 MiB"),
        (GIB - 1, "1023 MiB", "1024 MiB"),
        (2 * GIB - 1, "1.9 GiB", "2.0 GiB"),
        (2 * GIB, "2.0 GiB", "2.0 GiB"),
        (2 * GIB + 1, "2.0 GiB", "2.1 GiB"),
    ],
)
def test_sizes_for_people(size: int, down: str, up: str) -> None:
    assert (size_text(size), size_text(size, up=True)) == (down, up)
