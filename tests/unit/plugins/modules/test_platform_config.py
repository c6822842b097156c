# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module platform_config on real files."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils import _settings
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


class Noon(datetime):
    """A clock that stands still, so that a check and the run after it name the same file."""

    @classmethod
    def now(cls, tz: Any = None) -> Noon:
        return cls(2026, 1, 31, 12, tzinfo=tz)


def test_custom_settings_are_written_once(run_module: Run, tmp_path: Path, engine: FakeEngine, path: Path) -> None:
    write(path, "# mine\nedge:\n  http_port: 8000 # taken\n")
    custom = {"edge": {"https_port": 8443}, "services": {"whoami": {"image": "w:1"}}}
    result = ladder(run_module, platform_config, tmp_path, engine, custom=custom, custom_source="agency.yml")
    assert (result["config"]["edge"]["http_port"], result["config"]["edge"]["https_port"]) == (8000, 8443)
    text = '# mine\nedge:\n  http_port: 8000 # taken\n  https_port: 8443\nservices:\n  whoami:\n    image: "w:1"\n'
    assert path.read_text(encoding="utf-8") == text
    assert run_module(platform_config)["config"] == result["config"]


def test_force_writes_the_file_anew_and_keeps_the_old_one(
    run_module: Run, tmp_path: Path, engine: FakeEngine, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_settings, "datetime", Noon)
    write(path, "# mine\nhealth_timeout: 5\n")
    result = ladder(run_module, platform_config, tmp_path, engine, force=True)
    assert result["config"]["health_timeout"] == 5
    assert "\nhealth_timeout: 5\n" in path.read_text(encoding="utf-8")
    kept = path.with_name("config.yaml.20260131T120000Z")
    assert kept.read_text(encoding="utf-8") == "# mine\nhealth_timeout: 5\n"
    assert [stat.S_IMODE(file.stat().st_mode) for file in (path, kept)] == [0o640, 0o640]
    assert stat.S_IMODE((tmp_path / "root" / "registry" / "multi_tenancy.json").stat().st_mode) == 0o644


def test_the_settings_of_an_earlier_installer_are_taken_over(
    run_module: Run, tmp_path: Path, engine: FakeEngine, path: Path
) -> None:
    text = "default_client: main\nroot_domain: a.example\nisolation_level: medium\nclients_file: x\npaths: {}\n"
    write(path, text)
    result = ladder(run_module, platform_config, tmp_path, engine)
    assert (result["config"]["default_client_id"], result["config"]["root_domain"]) == ("main", "a.example")
    assert path.with_name("config.yaml.before-upgrade").read_text(encoding="utf-8") == text


FAULTS: dict[str, tuple[bytes, dict[str, Any], str]] = {
    "no YAML": (b"root_domain: [\n", {}, "is no valid YAML at line 2, column 1"),
    "a date that is none": (b"root_domain: 2026-13-45\n", {}, "is no valid YAML"),
    "two documents": (b"a: 1\n---\nb: 1\n", {}, "is no valid YAML"),
    "a list": (b"- a\n", {}, "must hold settings of the form 'key: value'"),
    "not UTF-8": (b"root_domain: \xff\n", {}, "is not UTF-8 text"),
    "unknown key": (b"colour: red\n", {}, "'colour' is no setting"),
    "unknown key that is set": (b"", {"set": {"colour": "red"}}, "'colour' is no setting"),
    "unknown override": (b"", {"overrides": {"colour": "red"}}, "The call: 'colour' is no setting"),
    "bad value that is set": (b"", {"set": {"isolation_level": "firm"}}, "'firm' is not allowed"),
    "key twice": (
        b'"root_domain": a.example\nroot_domain : b.example\n',
        {"set": {"root_domain": "c.example"}},
        "line 2, column 1: the key root_domain stands there twice",
    ),
    "text that no line can be set in": (
        b"health_timeout: 5\n...\n",
        {"set": {"root_domain": "c.example"}},
        "root_domain cannot be set in",
    ),
    "unknown custom setting": (
        b"",
        {"custom": {"colour": "red"}, "custom_source": "agency.yml"},
        "agency.yml: 'colour' is no setting",
    ),
    "bad custom value": (b"", {"custom": {"edge": {"http_port": 443}}}, "custom settings: edge: http_port"),
    "bad value with force": (b"uid_base: 1\n", {"force": True}, "config.yaml: uid_base must"),
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
