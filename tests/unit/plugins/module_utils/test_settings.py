# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings' files: custom settings become part of them, a regenerated or upgraded file loses nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils import _config, _settings
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._config import effective_config, initial_text
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import Layout
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import Change, InvalidInput, TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._settings import parse, plan_settings
from ansible_collections.agency_stack.multi_tenancy.tests.unit.helpers import tree
from hypothesis import given
from hypothesis import strategies as st

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)

TEXT = """\
# Mine.
root_domain: agency.example  # ours
edge:
  # The old web server has 80.
  http_port: 8000
services:
  whoami:  # for tests
    image: traefik/whoami:v1.11
    port: 8080
# The end.
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "multi_tenancy" / "config.yaml"
    path.parent.mkdir()
    return path


def plan(path: Path, chosen: Mapping[str, Any] | None = None, **options: Any) -> tuple[dict[str, Any], list[Change]]:
    """What concerns the settings, without the registration of the component."""
    overrides = options.pop("overrides", {})
    config, changes = plan_settings(Layout(str(path.parents[1])), chosen or {}, overrides, now=NOON, **options)
    return config, [change for change in changes if change.kind != "registration"]


def apply(changes: Sequence[Change]) -> None:
    for change in changes:
        Path(change.name).write_text(change.payload, encoding="utf-8", newline="")


def names(changes: Sequence[Change]) -> list[str]:
    return [Path(change.name).name for change in changes]


# Text -> what is said of it.
UNREADABLE: dict[str, tuple[str, str]] = {
    "key twice": (
        "a: 1\nb: 2\na: 3\n",
        "x is no valid YAML at line 3, column 1: the key a stands there twice; correct it.",
    ),
    "key twice below": (
        "a: [{b: 1, 'b': 2}]\n",
        "x is no valid YAML at line 1, column 12: the key b stands there twice;",
    ),
    "key twice in a key": (
        "? {a: 1, a: 1}\n: 1\n",
        "x is no valid YAML at line 1, column 10: the key a stands there twice;",
    ),
    "tab": (
        "edge:\n\thttp_port: 80\n",
        "at line 2, column 1: found character '\\t' that cannot start any token; correct it.",
    ),
    "control character": ("a: \x07\n", "x is no valid YAML: special characters are not allowed; correct it."),
    "too many digits": (f"a: {'9' * 5000}\n", "x is no valid YAML: Exceeds the limit"),
    "endless lists": (f"a: {'[' * 5000}\n", "x is nested too deeply; correct it."),
    "list": ("- a\n", "x must hold settings of the form 'key: value'."),
}


@pytest.mark.parametrize(("text", "told"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_read_is_told_in_one_sentence(text: str, told: str) -> None:
    with pytest.raises(TenancyError) as refused:
        parse(text, "x")
    assert told in str(refused.value)
    assert str(refused.value).isascii()
    assert str(refused.value).isprintable()


def test_a_key_that_comes_from_another_mapping_too_stands_there_once() -> None:
    text = "a: &a {x: 1, y: 1}\nc: [[&b {<<: *a, x: 2}]]\nd: {<<: *b, y: 3}\n7: 1\n'7': 2\n"
    assert parse(text, "x") == {"a": {"x": 1, "y": 1}, "c": [[{"x": 2, "y": 1}]], "d": {"x": 2, "y": 3}, 7: 1, "7": 2}


def test_without_a_yaml_library_a_bare_host_gets_its_first_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_settings, "HAS_YAML", False)
    monkeypatch.delattr(_settings, "yaml")
    monkeypatch.delattr(_config, "yaml")
    assert parse(" \n", "nothing") == {}
    config, [change] = plan(path, {"root_domain": "a.example"}, custom={"edge": {"http_port": 81}}, regenerate=True)
    assert (config["root_domain"], config["edge"]["http_port"]) == ("a.example", 81)
    assert yaml.safe_load(change.after)["edge"] == {"http_port": 81}
    with pytest.raises(TenancyError, match=r"agency\.yml cannot be read: .*PyYAML"):
        parse("a: 1", "agency.yml")


# ---------------------------------------------------------------- custom settings

# Text, custom settings -> text afterwards.
CUSTOM: dict[str, tuple[str, dict[str, Any], str]] = {
    "nothing": (TEXT, {}, TEXT),
    "what it says": (TEXT, {"edge": {"http_port": 8000}, "root_domain": "agency.example"}, TEXT),
    "one value": (TEXT, {"edge": {"http_port": 8001}}, TEXT.replace("8000", "8001")),
    "another value beside it": (
        TEXT,
        {"edge": {"https_port": 8443}},
        TEXT.replace("http_port: 8000\n", "http_port: 8000\n  https_port: 8443\n"),
    ),
    "deep inside": (
        TEXT,
        {"services": {"whoami": {"mem_limit": "32m", "port": 8081}, "web": {"image": "web:1"}}},
        TEXT.replace("8080\n", '8081\n    mem_limit: "32m"\n  web:\n    image: "web:1"\n'),
    ),
    "another setting": (TEXT, {"client_services": ["site", "whoami"]}, TEXT + 'client_services: ["site", "whoami"]\n'),
    "null": (TEXT, {"root_domain": None}, TEXT.replace("agency.example", "null")),
    "null of nothing": (TEXT, {"health_timeout": None}, TEXT),
    "null deep inside": (TEXT, {"services": {"whoami": {"port": None}}}, TEXT.replace("    port: 8080\n", "")),
    "empty file": ("", {"edge": {"http_port": 1}}, "edge:\n  http_port: 1\n"),
    "text on one line": (
        "{edge: {http_port: 1}}\n",
        {"edge": {"https_port": 2}},
        "edge:\n  http_port: 1\n  https_port: 2\n",
    ),
}


@pytest.mark.parametrize(("text", "custom", "after"), CUSTOM.values(), ids=CUSTOM)
def test_custom_settings_are_merged_into_the_file_which_stays_as_it_is_elsewhere(
    path: Path, text: str, custom: dict[str, Any], after: str
) -> None:
    path.write_text(text, encoding="utf-8")
    config, changes = plan(path, custom=custom)
    assert [(change.before, change.after) for change in changes] == ([(text, after)] if text != after else [])
    apply(changes)
    assert config == effective_config([("c", yaml.safe_load(after))])
    # The next run knows them, with the custom settings and without.
    assert plan(path, custom=custom) == (config, [])
    assert plan(path) == (config, [])


def test_on_the_first_run_custom_settings_stand_in_the_file(path: Path) -> None:
    custom = {"services": {"whoami": {"image": "w:1", "port": 80}}, "root_domain": "a.example"}
    config, [change] = plan(path, {"root_domain": "b.example"}, custom=custom)
    assert (change.action, change.before) == ("create", None)
    assert 'services:\n  whoami:\n    image: "w:1"\n    port: 80\n' in change.after
    assert (config["root_domain"], config["services"]["whoami"]["port"]) == ("b.example", 80)
    apply([change])
    assert plan(path, {"root_domain": "b.example"}, custom=custom) == (config, [])


def test_each_layer_is_stronger_than_the_one_before(path: Path) -> None:
    path.write_text("health_timeout: 1\nuid_base: 70001\nsubnet_prefix: 25\nname_prefix: a\n", encoding="utf-8")
    custom = {"uid_base": 70002, "subnet_prefix": 26, "name_prefix": "b"}
    config, [change] = plan(
        path, {"subnet_prefix": 27, "name_prefix": "c"}, custom=custom, overrides={"name_prefix": "d"}
    )
    keys = ("root_domain", "health_timeout", "uid_base", "subnet_prefix", "name_prefix")
    assert [config[key] for key in keys] == ["localhost", 1, 70002, 27, "d"]
    assert change.after == 'health_timeout: 1\nuid_base: 70002\nsubnet_prefix: 27\nname_prefix: "c"\n'


# Text of config.yaml, custom settings -> source and fault.
WRONG: dict[str, tuple[str, Any, str, str]] = {
    "unknown key": (TEXT, {"colour": "red"}, "agency.yml", "'colour' is no setting; known are"),
    "unknown key below": (TEXT, {"edge": {"colour": 1}}, "agency.yml", "edge.colour is not known"),
    "bad value": (TEXT, {"isolation_level": "firm"}, "agency.yml", "isolation_level 'firm' is not allowed"),
    "bad value that stands there": ("uid_base: 1\n", {"health_timeout": 5}, "config.yaml", "uid_base must lie between"),
    "no mapping": (TEXT, {"edge": 5}, "agency.yml", "edge 5 must be a mapping"),
    "a key that is no text": (TEXT, {7: 1}, "agency.yml", "A key of agency.yml is no text"),
    "a key below that is no text": (
        TEXT,
        {"services": {7: {}}},
        "agency.yml",
        "A key of agency.yml: services is no text",
    ),
    "a date": (TEXT, {"root_domain": date(2026, 1, 31)}, "agency.yml", "root_domain holds a date; use text, numbers"),
    "NaN": (TEXT, {"services": {"x": {"cpus": float("nan")}}}, "agency.yml", "services.x.cpus holds a number"),
    "NUL": (TEXT, {"services": {"x": {"command": ["\0"]}}}, "agency.yml", "services.x.command holds NUL"),
    "ports that do not fit": (TEXT, {"edge": {"https_port": 8000}}, "agency.yml", "three different ports"),
    "a date in the file": ("root_domain: 2026-01-31\n", {}, "config.yaml", "root_domain holds a date"),
    "endless mapping in the file": ("edge: &x\n  http_port: *x\n", {}, "config.yaml", "is nested too deeply"),
}


@pytest.mark.parametrize(("text", "custom", "source", "named"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("regenerate", [False, True])
def test_a_fault_names_its_source_and_nothing_is_planned(
    path: Path, text: str, custom: Any, source: str, named: str, regenerate: bool
) -> None:
    path.write_text(text, encoding="utf-8")
    before = tree(path.parent)
    with pytest.raises(InvalidInput) as refused:
        plan(path, custom=custom, custom_source="agency.yml", regenerate=regenerate)
    [fault] = refused.value.faults
    begin = str(path) if source == "config.yaml" else source
    assert fault.startswith((f"{begin}: ", f"A key of {begin}", f"a key of {begin}: "))
    assert named in fault
    assert fault.isprintable()
    assert tree(path.parent) == before


# What can be read and not be changed.
STUBBORN: dict[str, tuple[str, dict[str, Any]]] = {
    "end of the document": ("root_domain: a.example\n...\n", {"health_timeout": 5}),
    "key with a question mark": ("? health_timeout\n: 4\n", {"health_timeout": 5}),
    "what others refer to": ("health_timeout: &x 4\nsubnet_prefix: *x\n", {"health_timeout": 5, "subnet_prefix": 28}),
    "begin of the document in the same line": ("--- {health_timeout: 4}\n", {"health_timeout": 5}),
}


@pytest.mark.parametrize(("text", "custom"), STUBBORN.values(), ids=STUBBORN)
def test_a_text_that_cannot_be_changed_is_left_to_the_operator(path: Path, text: str, custom: dict[str, Any]) -> None:
    path.write_text(text, encoding="utf-8")
    try:
        _config, [change] = plan(path, custom=custom)
    except TenancyError as exc:
        assert str(exc).endswith(f"cannot be set in {path}; set it there by hand.")
    else:
        assert yaml.safe_load(change.after) == yaml.safe_load(text) | custom


GIVEN = st.fixed_dictionaries(
    {},
    optional={
        "root_domain": st.sampled_from([None, "a.example", "b.example"]),
        "health_timeout": st.none() | st.integers(1, 3600),
        "client_services": st.sampled_from([None, [], ["site"]]),
        "edge": st.none()
        | st.fixed_dictionaries(
            {}, optional={"http_port": st.none() | st.integers(1000, 1009), "mem_limit": st.sampled_from(["64m", "1g"])}
        ),
        "services": st.none()
        | st.dictionaries(
            st.sampled_from(["site", "web", "shop"]),
            st.fixed_dictionaries(
                {"image": st.sampled_from(["x:1", "y:1"])},
                optional={
                    "environment": st.dictionaries(st.sampled_from(["A", "NO", "y"]), st.text("a\n:# '\"", max_size=5)),
                    "command": st.lists(st.text("a\n:# '\"\N{SNOWMAN}", max_size=5), max_size=2),
                    "mem_limit": st.sampled_from([None, "32m"]),
                },
            ),
        ),
    },
)


@given(GIVEN, GIVEN, GIVEN, st.booleans())
def test_whatever_is_merged_is_in_force_afterwards_and_needs_no_second_write(
    tmp_path_factory: pytest.TempPathFactory,
    first: dict[str, Any],
    custom: dict[str, Any],
    other: dict[str, Any],
    regenerate: bool,
) -> None:
    path = tmp_path_factory.getbasetemp() / "settings" / "multi_tenancy" / "config.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(initial_text(first) + "# The end.\n", encoding="utf-8")
    kept: list[str] = []
    for settings in (custom, other):
        wanted = effective_config([("c", yaml.safe_load(path.read_text(encoding="utf-8"))), ("custom", settings)])
        config, changes = plan(path, custom=settings, regenerate=regenerate)
        assert config == wanted
        before = path.read_text(encoding="utf-8")
        apply(changes)
        assert plan(path, custom=settings, regenerate=regenerate) == (config, [])
        assert plan(path) == (config, [])
        if not regenerate:
            assert path.read_text(encoding="utf-8").count("# The end.\n") == 1
        elif changes:
            kept.append(changes[0].name)
            assert Path(kept[-1]).read_text(encoding="utf-8") == before
    assert len(set(kept)) == len(kept)
    for name in kept:
        Path(name).unlink()


# ---------------------------------------------------------------- written anew


def test_a_regenerated_file_has_the_values_of_the_old_one_which_is_kept(path: Path) -> None:
    path.write_text(TEXT, encoding="utf-8")
    before = plan(path)[0]
    config, changes = plan(path, regenerate=True)
    assert config == before
    assert names(changes) == ["config.yaml.20260131T120000Z", "config.yaml"]
    assert [change.action for change in changes] == ["create", "update"]
    assert changes[0].payload == TEXT
    assert changes[1].after == initial_text(yaml.safe_load(TEXT))
    assert "# health_timeout: 60\n" in changes[1].after
    # What it says is told once, and not by the copy.
    assert "whoami" not in changes[0].after
    apply(changes)
    assert plan(path, regenerate=True) == plan(path) == (config, [])


def test_a_regenerated_file_has_what_is_chosen_and_custom_as_well(path: Path) -> None:
    path.write_text(TEXT, encoding="utf-8")
    config, changes = plan(path, {"root_domain": "b.example"}, custom={"edge": {"http_port": None}}, regenerate=True)
    assert yaml.safe_load(changes[1].after)["root_domain"] == "b.example"
    assert config["edge"]["http_port"] == 80
    assert "#   http_port: 80\n" in changes[1].after


def test_without_a_file_there_is_nothing_to_keep(path: Path) -> None:
    assert plan(path, regenerate=True) == plan(path)
    assert names(plan(path, regenerate=True)[1]) == ["config.yaml"]


def test_an_earlier_copy_is_never_overwritten(path: Path) -> None:
    zone = timezone(timedelta(hours=2))
    for number in range(3):
        path.write_text(f"# {number}\n", encoding="utf-8")
        layout = Layout(str(path.parents[1]))
        dummy, changes = plan_settings(layout, {}, {}, regenerate=True, now=NOON.astimezone(zone))
        apply(changes[:2])
    copies = {entry.name: entry.read_text(encoding="utf-8") for entry in path.parent.iterdir() if entry != path}
    assert copies == {
        "config.yaml.20260131T120000Z": "# 0\n",
        "config.yaml.20260131T120000Z.2": "# 1\n",
        "config.yaml.20260131T120000Z.3": "# 2\n",
    }


# ---------------------------------------------------------------- an earlier installer's file

OLD = """\
# Multi-tenancy configuration
default_client: main
root_domain: agency.example
isolation_level: medium
key_rotation_days: 90
clients_file: /opt/agency_stack/multi_tenancy/clients.json
paths:
  clients: /opt/agency_stack/clients
security:
  enforce_isolation: true
  isolation_strategies:
    soft: shared
"""
WANTED = {"default_client_id": "main", "root_domain": "agency.example", "isolation_level": "medium"}


def test_the_file_of_an_earlier_installer_is_replaced_and_kept(path: Path) -> None:
    path.write_text(OLD, encoding="utf-8")
    (path.parent / "custom_config.yaml").write_text("anything: 1\n", encoding="utf-8")
    config, changes = plan(path)
    assert {key: config[key] for key in WANTED} == WANTED
    assert names(changes) == ["config.yaml.before-upgrade", "config.yaml"]
    assert (changes[0].payload, changes[1].after) == (OLD, initial_text(WANTED))
    assert changes[1].before == OLD
    apply(changes)
    assert plan(path) == (config, [])
    assert (path.parent / "custom_config.yaml").read_text(encoding="utf-8") == "anything: 1\n"


def test_an_upgrade_of_the_settings_that_was_interrupted_goes_on(path: Path) -> None:
    path.write_text(OLD, encoding="utf-8")
    changes = plan(path)[1]
    apply(changes[:1])
    assert plan(path)[1] == changes[1:]


@pytest.mark.parametrize("regenerate", [False, True])
def test_another_file_of_that_name_stays(path: Path, regenerate: bool) -> None:
    path.write_text(OLD, encoding="utf-8")
    path.with_name("config.yaml.before-upgrade").write_text("mine", encoding="utf-8")
    changes = plan(path, regenerate=regenerate)[1]
    assert names(changes) == ["config.yaml.20260131T120000Z", "config.yaml"]


@pytest.mark.parametrize("key", ["default_client", "clients_file"])
def test_a_file_that_is_not_quite_that_is_refused_by_name(path: Path, key: str) -> None:
    path.write_text("".join(line for line in OLD.splitlines(True) if not line.startswith(key)), encoding="utf-8")
    with pytest.raises(InvalidInput, match="'security' is no setting"):
        plan(path)


def test_an_old_level_that_cannot_be_served_is_refused_until_another_one_is_chosen(path: Path) -> None:
    path.write_text(OLD.replace("isolation_level: medium", "isolation_level: firm"), encoding="utf-8")
    with pytest.raises(InvalidInput) as refused:
        plan(path)
    assert str(refused.value).startswith(f"{path}: isolation_level 'firm' is not allowed")
    for options in ({"chosen": {"isolation_level": "medium"}}, {"custom": {"isolation_level": "medium"}}):
        config, changes = plan(path, **options)
        assert config["isolation_level"] == "medium"
        assert yaml.safe_load(changes[1].after) == WANTED
