# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the unit tests share: settings, clients, an engine in memory, and a way to run a module."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import docker
import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils import _stack_apply
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._config import effective_config
from ansible_collections.agency_stack.multi_tenancy.tests.unit.fake_engine import FakeEngine
from ansible_collections.agency_stack.multi_tenancy.tests.unit.helpers import registered
from hypothesis import settings

RunModule = Callable[..., dict[str, Any]]

# The machine that runs the tests is shared: a slow example says nothing.
settings.register_profile("unit", deadline=None, max_examples=2000 if os.environ.get("TENANCY_FULL") else 60)
settings.load_profile("unit")


@pytest.fixture
def config() -> dict[str, Any]:
    """The effective settings of a platform that chose nothing."""
    return effective_config([])


@pytest.fixture
def client(config: dict[str, Any]) -> dict[str, Any]:
    """A registered client."""
    return registered(config, {"client_id": "acme", "domain": "acme.example.com"})[0]


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Waiting for containers takes no time."""
    fake = Clock()
    monkeypatch.setattr(_stack_apply, "time", fake)
    return fake


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, clock: Clock, config: dict[str, Any]) -> FakeEngine:
    """An engine in memory, with the platform's own images, that every module reaches."""
    fake = FakeEngine()
    fake.local_images = {config["edge"]["image"], config["services"]["site"]["image"]}
    monkeypatch.setattr(docker, "APIClient", lambda **_options: fake)
    return fake


@pytest.fixture
def run_module(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> RunModule:
    """Run a module below tmp_path and return its result; `check` runs it in check mode."""

    def run(module: ModuleType, check: bool = False, **args: Any) -> dict[str, Any]:
        has_places = "- agency_stack.multi_tenancy.platform\n" in module.DOCUMENTATION
        places = {"root": str(tmp_path / "root"), "log_dir": str(tmp_path / "log")} if has_places else {}
        args = places | args | {"_ansible_check_mode": check, "_ansible_diff": True}
        capsys.readouterr()
        with patch_module_args(args), pytest.raises(SystemExit):
            module.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    return run
