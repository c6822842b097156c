# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module toolbox on real files, with a stand-in for pip's downloads."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.action.toolbox import pack
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils import _toolbox_store
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._toolbox import COLLECTION, SCRIPTS
from ansible_collections.agency_stack.multi_tenancy.plugins.modules import toolbox
from ansible_collections.agency_stack.multi_tenancy.tests.unit.fake_engine import FakeEngine
from ansible_collections.agency_stack.multi_tenancy.tests.unit.helpers import ladder

RunModule = Callable[..., dict[str, Any]]


class Programs:
    """What the host's programs answer; venv really makes a folder."""

    def __init__(self) -> None:
        self.broken: dict[str, str] = {}
        self.called: list[str] = []

    def __call__(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        line = " ".join(command)
        self.called.append(line)
        for part, reason in self.broken.items():
            if part in line:
                return subprocess.CompletedProcess(command, 1, "", reason)
        if "-m venv" in line:
            (Path(command[-1]) / "bin").mkdir(parents=True)
            (Path(command[-1]) / "bin" / "python").symlink_to("/bin/true")
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Programs:
    fake = Programs()
    monkeypatch.setattr(_toolbox_store, "_call", fake)
    return fake


@pytest.fixture
def archive(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("archive") / "toolbox.zip"
    pack({"requirements/runtime.txt": b"", "tools/client.py": b"new"}, str(path))
    return str(path)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "root" / "multi_tenancy"
    path.mkdir(parents=True)
    return path


def names(base: Path) -> set[str]:
    return {path.name for path in (base / "toolbox").iterdir()} - {".lock", "current"}


def test_ladder(
    run_module: RunModule, programs: Programs, archive: str, base: Path, tmp_path: Path, engine: FakeEngine
) -> None:
    args = {"version": "v1", "requirements": "r1", "archive": archive}
    ladder(run_module, toolbox, tmp_path, engine, **args)
    assert (base / "toolbox" / "current" / COLLECTION / "tools" / "client.py").read_text() == "new"
    assert (base / "venv" / "bin" / "python").exists()
    scripts = sorted((base / "scripts").iterdir())
    assert [script.stem for script in scripts] == sorted(SCRIPTS)
    assert {oct(script.stat().st_mode) for script in scripts} == {"0o100755"}


def test_archive_is_asked_for_only_when_it_is_needed(
    run_module: RunModule, programs: Programs, archive: str, base: Path
) -> None:
    asked = run_module(toolbox, version="v1", requirements="r1")
    assert (asked["changed"], asked["needs_archive"]) == (False, True)
    run_module(toolbox, version="v1", requirements="r1", archive=archive)
    assert "needs_archive" not in run_module(toolbox, version="v1", requirements="r1")
    assert "needs_archive" not in run_module(toolbox, version="v1", requirements="r2")


def test_old_versions_go_unless_a_script_runs_from_them(
    run_module: RunModule, programs: Programs, archive: str, base: Path
) -> None:
    run_module(toolbox, version="v1", requirements="r1", archive=archive)
    fd = os.open(base / "toolbox" / "v1", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    run_module(toolbox, version="v2", requirements="r2", archive=archive)
    assert {"v1", "v2"} <= names(base)
    assert len(names(base)) == 3
    os.close(fd)
    result = run_module(toolbox, version="v2", requirements="r2")
    assert [(change["action"], Path(change["name"]).name) for change in result["changes"]] == [("delete", "v1")]
    assert len(names(base)) == 2


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"pip install": "ERROR: Could not find a version\nERROR: No matching"}, "(Could not find a version); check"),
        ({"-m venv": "No space left on device"}, "(No space left on device); check the space"),
        (
            {"ensurepip": "", "apt-get": "E: Unable to locate"},
            "python3-venv cannot be installed on the host (E: Unable",
        ),
    ],
)
def test_what_fails_leaves_the_old_version_at_work_and_is_repaired(
    run_module: RunModule, programs: Programs, archive: str, base: Path, broken: dict[str, str], said: str
) -> None:
    run_module(toolbox, version="v1", requirements="r1", archive=archive)
    links = [os.readlink(base / "toolbox" / "current"), os.readlink(base / "venv")]
    programs.broken = broken
    args: dict[str, Any] = {"version": "v2", "requirements": "r2", "archive": archive}
    result = run_module(toolbox, defer_failures=True, **args)
    assert [said in failure["msg"] for failure in result["failures"]] == [True], result["failures"]
    assert [os.readlink(base / "toolbox" / "current"), os.readlink(base / "venv")] == links
    assert run_module(toolbox, **args)["failed"]
    programs.broken = {}
    run_module(toolbox, version="v2", requirements="r2")
    assert os.readlink(base / "toolbox" / "current") == "v2"
    assert len(names(base)) == 2


def test_missing_venv_module_is_installed(run_module: RunModule, programs: Programs, archive: str, base: Path) -> None:
    programs.broken = {"ensurepip": ""}
    run_module(toolbox, version="v1", requirements="r1", archive=archive)
    assert [call.split()[0] for call in programs.called if "python3-venv" in call] == ["apt-get"]


def test_what_is_in_the_way_is_named(run_module: RunModule, programs: Programs, archive: str, base: Path) -> None:
    (base / "venv").mkdir()
    result = run_module(toolbox, version="v1", requirements="r1", archive=archive)
    assert f"{base / 'venv'} must be a link of the toolbox" in result["msg"]
