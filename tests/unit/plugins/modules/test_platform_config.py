# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module platform_config on real files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.agency_stack.multi_tenancy.plugins.modules import platform_config
from ansible_collections.agency_stack.multi_tenancy.tests.unit.fake_engine import FakeEngine
from ansible_collections.agency_stack.multi_tenancy.tests.unit.helpers import ladder, tree

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "root" / "multi_tenancy" / "config.yaml"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")


def test_the_first_run_writes_settings_and_registration(
    run_module: Run, tmp_path: Path, engine: FakeEngine, path: Path
) -> None:
    result = ladder(run_module, platform_config, tmp_path, engine, set={"root_domain": "example.com"})
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["root_domain"] == "example.com"
    assert (result["config"]["root_domain"], result["path"]) == ("example.com", str(path))
    registration = json.loads((tmp_path / "root" / "registry" / "multi_tenancy.json").read_text(encoding="utf-8"))
    assert registration["clients"] == str(tmp_path / "root" / "multi_tenancy" / "clients.json")
    log = (tmp_path / "log" / "components" / "multi_tenancy.log").read_text(encoding="utf-8")
    assert [json.loads(line)["kind"] for line in log.splitlines()] == ["settings", "registration"]


def test_a_later_run_keeps_the_operators_file(run_module: Run, path: Path) -> None:
    text = "# mine\r\nroot_domain: example.com # here\r\nedge:\r\n  http_port: 8000\r\n"
    path.parent.mkdir(parents=True)
    path.write_bytes(text.encode())
    result = run_module(platform_config)
    assert (result["config"]["root_domain"], result["config"]["edge"]["http_port"]) == ("example.com", 8000)
    assert path.read_bytes() == text.encode()


def test_only_what_is_set_changes(run_module: Run, path: Path) -> None:
    write(path, "# mine\nroot_domain: localhost\nhealth_timeout: 5\n")
    result = run_module(platform_config, set={"root_domain": "example.com", "health_timeout": 5})
    assert path.read_text(encoding="utf-8") == '# mine\nroot_domain: "example.com"\nhealth_timeout: 5\n'
    assert (result["config"]["root_domain"], result["config"]["health_timeout"]) == ("example.com", 5)


def test_overrides_are_used_and_not_written(run_module: Run, path: Path) -> None:
    write(path, "root_domain: a.example\n")
    result = run_module(platform_config, overrides={"root_domain": "b.example", "edge": {"http_port": 81}})
    assert (result["config"]["root_domain"], result["config"]["edge"]["http_port"]) == ("b.example", 81)
    assert path.read_text(encoding="utf-8") == "root_domain: a.example\n"


FAULTS: dict[str, tuple[bytes, dict[str, Any], str]] = {
    "no YAML": (b"root_domain: [\n", {}, "is no valid YAML at line 2, column 1"),
    "a date that is none": (b"root_domain: 2026-13-45\n", {}, "is no valid YAML"),
    "two documents": (b"a: 1\n---\nb: 1\n", {}, "is no valid YAML"),
    "a list": (b"- a\n", {}, "must hold settings of the form 'key: value'"),
    "not UTF-8": (b"root_domain: \xff\n", {}, "is not UTF-8 text"),
    "unknown key": (b"colour: red\n", {}, "'colour' is no setting"),
    "unknown key that is set": (b"", {"set": {"colour": "red"}}, "'colour' is no setting"),
    "unknown override": (b"", {"overrides": {"colour": "red"}}, "The call: 'colour' is no setting"),
    "bad value that is set": (b"", {"set": {"isolation_level": "hard"}}, "'hard' is not available"),
    "key in an odd form": (
        b'"root_domain": a.example\n"root_domain" : b.example\n',
        {"set": {"root_domain": "c d"}},
        "'c d' is not",
    ),
    "text that no line can be set in": (b"x: |\n  a\n...\n", {"set": {"root_domain": "c.example"}}, "valid YAML"),
}


@pytest.mark.parametrize(("content", "args", "named"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_told_and_nothing_is_written(
    run_module: Run, tmp_path: Path, path: Path, content: bytes, args: dict[str, Any], named: str
) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    before = tree(tmp_path)
    result = run_module(platform_config, **args)
    assert result["failed"]
    assert named in result["msg"]
    assert tree(tmp_path) == before
