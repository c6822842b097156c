# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bare machines on which a stranger types make, and how long that took."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "hosts"))

from stranger import Stranger  # noqa: E402
from tenancy import Tenancy  # noqa: E402
from testhost import CHECKOUT, Machine  # noqa: E402

WALL_TIMES = pytest.StashKey[list[tuple[float, str, str]]]()


def _stranger(flavour: str, wall_times: list[tuple[float, str, str]]) -> Iterator[Stranger]:
    machine = Machine(f"stranger-{flavour}")
    machine.down()
    try:
        machine.up(flavour)
        stranger = Stranger(machine, wall_times, environment=machine.lend_downloads())
        machine.put_checkout(stranger.directory)
        yield stranger
    finally:
        machine.down()


@pytest.fixture(scope="session")
def wall_times(pytestconfig: pytest.Config) -> list[tuple[float, str, str]]:
    """Seconds, test and command, in order."""
    return pytestconfig.stash.setdefault(WALL_TIMES, [])


@pytest.fixture(scope="module")
def stranger(request: pytest.FixtureRequest, wall_times: list[tuple[float, str, str]]) -> Iterator[Stranger]:
    """A stranger at a new machine of the flavour that the test module names in FLAVOUR."""
    yield from _stranger(request.module.FLAVOUR, wall_times)


@pytest.fixture
def tenancy(stranger: Stranger) -> Tenancy:
    """What is really there on the machine."""
    return Tenancy(stranger.machine)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show the wall times and keep them for docs/benchmarks.md."""
    measured = config.stash.get(WALL_TIMES, [])
    if not measured:
        return
    terminalreporter.section("wall times in seconds")
    for seconds, test, command in measured:
        terminalreporter.write_line(f"{seconds:7.1f}  {test}: {command}")
    (CHECKOUT / ".cache" / "bare-wall-times.json").write_text(json.dumps(measured, indent=2) + "\n")
