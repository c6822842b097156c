# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the host is like: tables of the kernel read, and every reason against it told."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils import _host
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._host import (
    HostFacts,
    engine_is_managed,
    faults_of_host,
    missing_packages,
    read_listeners,
    read_port_start,
    read_rotation,
    read_routes,
    read_system,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import TenancyError

GOOD = HostFacts(
    uid=0,
    system=("debian", "12"),
    engine="20.10.24",
    engine_managed=True,
    packages=[],
    listeners=[],
    subnets=[],
    port_start=1024,
    systemd=True,
)

FAULTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "good": ({}, []),
    "newer": ({"system": ("debian", "13")}, []),
    "testing": ({"system": ("debian", "")}, []),
    "not root": ({"uid": 1000}, ["Root rights are needed"]),
    "older": ({"system": ("debian", "11")}, ["The system debian 11 is not supported: use Debian 12 or newer."]),
    "another": ({"system": ("ubuntu", "24.04")}, ["The system ubuntu 24.04 is not supported"]),
    "nothing known": ({"system": ("", "")}, ["The system of this host is not supported"]),
    "port taken": ({"listeners": [(443, 12, "nginx")]}, ["Port 443 is taken by the process nginx (pid 12)"]),
    "port taken by somebody": ({"listeners": [(80, None, "")]}, ["Port 80 is taken by a process that cannot be seen"]),
    "other port": ({"listeners": [(22, 1, "sshd")]}, []),
    "all at once": (
        {"uid": 1, "system": ("arch", ""), "listeners": [(80, 1, "x"), (443, 2, "y")]},
        ["Root", "The system arch is", "Port 80", "Port 443"],
    ),
}


@pytest.mark.parametrize(("changed", "named"), FAULTS.values(), ids=FAULTS)
def test_every_reason_against_a_host_is_told(changed: dict[str, Any], named: list[str]) -> None:
    faults = faults_of_host(replace(GOOD, **changed), [80, 443])
    assert len(faults) == len(named)
    assert all(fault.startswith(name) for fault, name in zip(faults, named, strict=True))


RELEASES = {
    "Debian 12": ('PRETTY_NAME="Debian"\nVERSION_ID="12"\nID=debian\n', ("debian", "12")),
    "single quotes": ("ID='debian'\nVERSION_ID='13'\n", ("debian", "13")),
    "testing": ("# comment\n\nID=debian\nVERSION_CODENAME=forky\n", ("debian", "")),
    "nothing": (None, ("", "")),
}


@pytest.mark.parametrize(("text", "system"), RELEASES.values(), ids=RELEASES)
def test_the_system_is_read(monkeypatch: pytest.MonkeyPatch, text: str | None, system: tuple[str, str]) -> None:
    monkeypatch.setattr(_host, "read_text", {"/etc/os-release": text}.get)
    assert read_system() == system


def test_routes_are_read_but_for_the_default_and_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    table = (
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
        "eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        "eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
        "mt-1\t0000D90A\t00000000\t0001\t0\t0\t0\tF0FFFFFF\t0\t0\t0\n"
        "docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
        "wg0\t0100000A\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0\n"
    )
    monkeypatch.setattr(_host, "read_text", {"/proc/net/route": table}.get)
    assert read_routes("mt-") == [
        ("192.168.1.0/24", "a route on eth0"),
        ("172.17.0.0/16", "a route on docker0"),
        ("10.0.0.1/32", "a route on wg0"),
    ]


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
def listener(request: pytest.FixtureRequest) -> Iterator[int]:
    with socket.socket(request.param) as server:
        server.bind(("127.0.0.1" if request.param == socket.AF_INET else "::1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_listening_process_is_named(listener: int) -> None:
    [(port, pid, program)] = read_listeners([listener, 1], ["0" * 64])
    assert (port, pid) == (listener, os.getpid())
    with open(f"/proc/{pid}/comm", encoding="utf-8") as handle:
        assert program == handle.read().strip()


def test_a_connection_is_no_listener() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as connected:
        assert read_listeners([connected.getsockname()[1]], []) == []


def test_a_listener_in_our_own_container_is_no_stranger(listener: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = _host.read_text
    ours = f"/proc/{os.getpid()}/cgroup"
    monkeypatch.setattr(_host, "read_text", lambda path: "0::/docker/abc123\n" if path == ours else real(path))
    assert read_listeners([listener], ["abc123"]) == []
    assert len(read_listeners([listener], ["def456"])) == 1


def test_a_listener_without_a_visible_process_is_still_told(listener: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_host.glob, "iglob", lambda _pattern: iter(()))
    assert read_listeners([listener], []) == [(listener, None, "")]


ALL = {"nft", "sysctl", "logrotate", "mkfs.ext4", "losetup", "mountpoint"}

# Programs on the host, libraries of the interpreter, whether an engine answers -> missing packages.
PACKAGES: dict[str, tuple[set[str], set[str], bool, list[str]]] = {
    "all there": ({*ALL, "dockerd"}, {"docker", "yaml", "cryptography"}, True, []),
    "bare": (
        set(),
        set(),
        False,
        [
            *("nftables", "procps", "logrotate", "e2fsprogs", "mount", "util-linux"),
            *("python3-docker", "python3-yaml", "python3-cryptography", "docker.io"),
        ],
    ),
    "foreign engine": (ALL, {"docker", "yaml", "cryptography"}, True, []),
    "engine installed and stopped": (
        {*ALL, "dockerd"},
        {"docker", "yaml", "cryptography"},
        False,
        [],
    ),
    "no logrotate": ({*ALL, "dockerd"} - {"logrotate"}, {"docker", "yaml", "cryptography"}, True, ["logrotate"]),
}


@pytest.mark.parametrize(("programs", "libraries", "answers", "missing"), PACKAGES.values(), ids=PACKAGES)
def test_missing_packages_are_listed(
    monkeypatch: pytest.MonkeyPatch, programs: set[str], libraries: set[str], answers: bool, missing: list[str]
) -> None:
    monkeypatch.setattr(
        _host.shutil, "which", lambda name, path: name if name in programs and "/sbin" in path else None
    )
    monkeypatch.setattr(_host.importlib.util, "find_spec", lambda name: name if name in libraries else None)
    assert missing_packages(answers) == missing


@pytest.mark.parametrize(("text", "port"), [("80\n", 80), (None, 1024)])
def test_the_first_port_for_everybody_is_read(monkeypatch: pytest.MonkeyPatch, text: str | None, port: int) -> None:
    monkeypatch.setattr(_host, "read_text", lambda _path: text)
    assert read_port_start() == port


# Name of the table -> name of the file.
ROTATIONS = {"agency_stack": "agency-stack", "agency_stack_it": "agency-stack-it"}


@pytest.mark.parametrize("text", [None, "", "# ours\n"])
@pytest.mark.parametrize(("table", "name"), ROTATIONS.items())
def test_the_file_for_logrotate_is_read(
    monkeypatch: pytest.MonkeyPatch, table: str, name: str, text: str | None
) -> None:
    path = f"/etc/logrotate.d/{name}"
    monkeypatch.setattr(_host, "read_text", {path: text}.get)
    assert read_rotation(table) == {"path": path, "text": text or ""}


def test_a_file_for_logrotate_that_is_no_text_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_path: str) -> str:
        raise TenancyError("not UTF-8")

    monkeypatch.setattr(_host, "read_text", broken)
    assert read_rotation("agency_stack")["text"] == ""


@pytest.mark.parametrize(
    ("info", "managed"),
    [
        ({"Labels": ["agency_stack.managed=true"]}, True),
        ({"Labels": ["a=b"]}, False),
        ({"Labels": None}, False),
        ({}, False),
    ],
)
def test_our_own_engine_is_known_by_its_label(info: dict[str, Any], managed: bool) -> None:
    assert engine_is_managed(info) == managed
