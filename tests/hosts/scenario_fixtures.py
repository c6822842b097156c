# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A pytest plugin with what the tests of all Molecule scenarios share."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tenancy import Tenancy
from testhost import Machine, run
from visitor import Visitor, trusted


@dataclass(frozen=True)
class Recap:
    """What a run of a playbook reported."""

    changed: int
    output: str


@pytest.fixture(scope="module")
def machine(host: Any) -> Machine:
    """The machine under test, named like Molecule's instance."""
    return Machine(host.backend.get_hostname())


@pytest.fixture(scope="module")
def tenancy(machine: Machine) -> Tenancy:
    """What is really there on the machine."""
    return Tenancy(machine)


@pytest.fixture(scope="module")
def outside(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Visitor:
    """A visitor from elsewhere."""
    return trusted(machine, tmp_path_factory.mktemp("outside"))


@pytest.fixture(scope="module")
def inside(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Visitor:
    """A visitor at the machine itself."""
    return trusted(machine, tmp_path_factory.mktemp("inside"), inside=True)


@pytest.fixture(scope="session")
def converge() -> Callable[[], Recap]:
    """Runs the scenario's converge playbook once more."""

    def once_more() -> Recap:
        playbook = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"]) / "converge.yml"
        done = run(["ansible-playbook", "--inventory", os.environ["MOLECULE_INVENTORY_FILE"], str(playbook)])
        # Molecule asks for colours.
        counts = re.findall(r"changed=(\d+)", done.stdout.rpartition("PLAY RECAP")[2])
        assert counts, f"The playbook reached no machine:\n{done.stdout}"
        return Recap(sum(map(int, counts)), done.stdout)

    return once_more
