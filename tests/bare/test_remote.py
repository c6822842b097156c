# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two remote machines, managed from this one with make, INVENTORY and LIMIT; the tests build on each other."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from testhost import CHECKOUT, Machine

NAMES = ("remote-one", "remote-two")


class Office:
    """Somebody at this machine who manages the two others.

    Args:
        machines: The others by name.
        inventory: Their inventory file.
    """

    def __init__(self, machines: dict[str, Machine], inventory: Path) -> None:
        self.machines = machines
        self.inventory = inventory

    def make(self, target: str = "multi_tenancy", **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a target of make with variables."""
        words = [f"{name}={value}" for name, value in variables.items()]
        return subprocess.run(
            ["make", target, f"INVENTORY={self.inventory}", *words],
            cwd=CHECKOUT,
            env=os.environ | {"ANSIBLE_NOCOLOR": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    """Two machines without an engine, reached over SSH."""
    machines = {name: Machine(name) for name in NAMES}
    try:
        for machine in machines.values():
            machine.down()
            machine.up("ssh")
        inventory = tmp_path_factory.mktemp("office") / "hosts.json"
        hosts = {name: connection(machine) for name, machine in machines.items()}
        inventory.write_text(json.dumps({"all": {"hosts": hosts}}))
        yield Office(machines, inventory)
    finally:
        for machine in machines.values():
            machine.down()


def connection(machine: Machine) -> dict[str, object]:
    """How Ansible reaches a machine."""
    access = machine.access()
    return {
        "ansible_host": access["address"],
        "ansible_user": access["user"],
        "ansible_ssh_private_key_file": access["identity_file"],
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={access['known_hosts']} -o IdentitiesOnly=yes",
        "ansible_python_interpreter": "/usr/bin/python3",
    }


def is_bare(machine: Machine) -> bool:
    """Whether nothing of the platform is on a machine."""
    return machine.run("test -e /opt/agency_stack || command -v dockerd", check=False).returncode != 0


def test_check_run_on_a_bare_remote_machine_touches_nothing(office: Office) -> None:
    done = office.make(LIMIT="remote-one", CLIENT_ID="acme", CHECK="1")
    assert done.returncode == 0, done.stdout
    assert "Would install: " in done.stdout and "docker.io" in done.stdout
    assert is_bare(office.machines["remote-one"])


def test_edit_of_one_client_on_several_hosts_is_refused(office: Office) -> None:
    done = office.make(CLIENT_ID="acme")
    assert done.returncode != 0
    assert "would be edited on 2 hosts (remote-one, remote-two): name one of them with LIMIT=" in done.stdout
    assert all(is_bare(machine) for machine in office.machines.values())


def test_client_comes_online_on_the_named_machine_alone(office: Office) -> None:
    done = office.make(LIMIT="remote-one", CLIENT_ID="acme", DOMAIN="acme.example.com")
    assert done.returncode == 0, done.stdout
    one, two = office.machines.values()
    context = one.read("/opt/agency_stack/multi_tenancy/ca/ca.crt")
    authority = office.inventory.parent / "ca.crt"
    authority.write_text(context)
    url = "https://acme.example.com/"
    page = subprocess.run(
        ["curl", "-sS", "--cacert", authority, "--resolve", f"acme.example.com:443:{one.address}", url],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "<strong>acme</strong>" in page.stdout, page.stderr
    assert is_bare(two)


def test_second_run_changes_nothing(office: Office) -> None:
    done = office.make(LIMIT="remote-one", CLIENT_ID="acme", DOMAIN="acme.example.com")
    assert done.returncode == 0, done.stdout
    assert re.search(r"remote-one .* changed=0 ", done.stdout), done.stdout


def test_status_of_a_remote_machine(office: Office) -> None:
    done = office.make("multi_tenancy-status", LIMIT="remote-one")
    assert done.returncode == 0, done.stdout
    assert "acme.example.com" in done.stdout and "installed by us" in done.stdout
