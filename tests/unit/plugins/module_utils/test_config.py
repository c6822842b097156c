# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings: precedence, defaults, faults by name, and edits that keep the operator's own lines."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._config import (
    CONFIG_SPEC,
    effective_config,
    initial_text,
    text_with,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._images import reference
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import InvalidInput
from hypothesis import given
from hypothesis import strategies as st

FILE = "config.yaml"

# Settings -> what the fault must name.
FAULTS: dict[str, tuple[dict[Any, Any], str]] = {
    "unknown key": ({"colour": "red"}, "'colour' is no setting; known are default_client_id"),
    "unknown key that is a number": ({7: 1}, "'7' is no setting"),
    "unknown key below": ({"edge": {"colour": 1}}, "edge.colour is not known"),
    "unknown key of a service": ({"services": {"site": {"colour": 1}}}, "colour is not known"),
    "default_client_id": ({"default_client_id": "A"}, "default_client_id: client_id 'A'"),
    "reserved default_client_id": ({"default_client_id": "edge"}, "reserved"),
    "root_domain": ({"root_domain": "a b"}, "root_domain: domain 'a b'"),
    "unknown level": ({"isolation_level": "firm"}, "isolation_level 'firm' is not allowed"),
    "incomplete level soft": ({"isolation_level": "soft"}, "isolation_level 'soft' is not available"),
    "incomplete level hard": ({"isolation_level": "hard"}, "isolation_level 'hard' is not available"),
    "no pool": ({"network_pool": "many"}, "network_pool: "),
    "pool with host bits": ({"network_pool": "10.0.0.1/16"}, "has host bits set"),
    "IPv6 pool": ({"network_pool": "fd00::/48"}, "network_pool: "),
    "public pool": ({"network_pool": "8.8.0.0/16"}, "is not a private range"),
    "loopback as pool": ({"network_pool": "127.0.0.0/16"}, "is not a private range"),
    "link-local addresses as pool": ({"network_pool": "169.254.0.0/16"}, "is not a private range"),
    "everything as pool": ({"network_pool": "0.0.0.0/0"}, "is not a private range"),
    "subnets too small": ({"subnet_prefix": 30}, "subnet_prefix 30"),
    "subnet as large as the pool": ({"subnet_prefix": 16}, "subnet_prefix 16"),
    "prefix": ({"name_prefix": "Too-long"}, "name_prefix 'Too-long'"),
    "uid_base of the system": ({"uid_base": 1000}, "uid_base"),
    "health_timeout": ({"health_timeout": 0}, "health_timeout"),
    "number that is none": ({"health_timeout": "soon"}, "health_timeout"),
    "equal ports": ({"edge": {"http_port": 443}}, "three different ports"),
    "no port": ({"edge": {"http_port": 70000}}, "ports from 1 to 65535"),
    "edge's image": ({"edge": {"image": "A B"}}, "edge.image 'A B'"),
    "edge's memory": ({"edge": {"mem_limit": "much"}}, "edge.mem_limit"),
    "built-in image of a service that has none": (
        {"services": {"shop": {"image": "built-in"}}},
        "services.shop: there is no built-in image",
    ),
    "service of clients that is not in the catalog": (
        {"client_services": ["shop"]},
        "'shop' is not in the catalog (site)",
    ),
    "services as a list": ({"services": ["site"]}, "services"),
}


@pytest.mark.parametrize(("settings", "named"), FAULTS.values(), ids=FAULTS)
def test_a_fault_names_the_file_and_the_setting(settings: dict[Any, Any], named: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        effective_config([(FILE, settings)])
    [fault] = refused.value.faults
    assert fault.startswith(f"{FILE}: ")
    assert named in fault
    assert fault.isprintable()


def test_all_faults_are_told_at_once() -> None:
    settings = {"root_domain": "a b", "isolation_level": "hard", "uid_base": 1, "services": {"x": {"image": "A"}}}
    with pytest.raises(InvalidInput) as refused:
        effective_config([(FILE, settings)])
    assert len(refused.value.faults) == 4


def test_an_unknown_setting_is_told_with_the_place_it_comes_from() -> None:
    with pytest.raises(InvalidInput) as refused:
        effective_config([(FILE, {"color": 1}), ("The call", {"colour": 1})])
    assert [fault.split("'")[0] for fault in refused.value.faults] == [f"{FILE}: ", "The call: "]


def test_without_any_setting_every_key_is_there() -> None:
    config = effective_config([])
    assert set(config) == set(CONFIG_SPEC)
    assert (config["isolation_level"], config["root_domain"], config["client_services"]) == (
        "medium",
        "localhost",
        ["site"],
    )
    assert config["edge"]["image"] == reference("edge")
    assert config["services"]["site"]["image"] == reference("site")


def test_the_stronger_layer_wins_key_by_key() -> None:
    config = effective_config(
        [
            (FILE, {"root_domain": "a.example", "edge": {"http_port": 8000, "https_port": 8443}, "health_timeout": 5}),
            ("The call", {"root_domain": "b.example", "edge": {"http_port": 9000}, "health_timeout": None}),
        ]
    )
    assert config["root_domain"] == "b.example"
    assert (config["edge"]["http_port"], config["edge"]["https_port"]) == (9000, 8443)
    assert config["health_timeout"] == 60


def test_one_key_of_a_built_in_service_changes_nothing_else_of_it() -> None:
    usual = effective_config([])["services"]["site"]
    changed = effective_config([(FILE, {"services": {"site": {"mem_limit": "128m"}}})])["services"]["site"]
    assert changed == usual | {"mem_limit": "128m"}


def test_lists_are_replaced_as_a_whole() -> None:
    config = effective_config([(FILE, {"services": {"site": {"volumes": ["other:/srv/www:ro"]}}})])
    assert config["services"]["site"]["volumes"] == ["other:/srv/www:ro"]


def test_empty_keys_mean_the_defaults() -> None:
    text = "services:\nedge:\nclient_services:\nhealth_timeout:\nfirewall:\n"
    assert effective_config([(FILE, yaml.safe_load(text))]) == effective_config([])


def test_another_prefix_has_a_firewall_table_of_its_own() -> None:
    assert effective_config([])["firewall"]["table"] == "agency_stack"
    assert effective_config([(FILE, {"name_prefix": "it"})])["firewall"]["table"] == "agency_stack_it"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"root_domain": "example.com"},
        {"default_client_id": "first", "root_domain": "example.com", "isolation_level": "medium"},
        {"uid_base": 200000, "network_pool": "10.1.0.0/16", "client_services": []},
    ],
    ids=["nothing", "one", "the three that are always written", "others"],
)
def test_the_first_file_says_what_was_chosen_and_means_the_same(settings: dict[str, Any]) -> None:
    written = yaml.safe_load(initial_text(settings))
    assert {key: written[key] for key in settings} == settings
    assert effective_config([(FILE, written)]) == effective_config([(FILE, settings)])


def test_the_commented_lines_of_the_first_file_are_the_defaults() -> None:
    uncommented = "".join(
        line.removeprefix("# ") + "\n"
        for line in initial_text({}).splitlines()
        if not line.startswith("# ") or ":" in line.split()[1]
    )
    assert effective_config([(FILE, yaml.safe_load(uncommented))]) == effective_config([])


FILE_TEXT = """\
---
# Mine; do not touch.
root_domain: localhost   # here

edge:
    http_port: 8000  # root_domain: no
# root_domain: commented
notes: |
  root_domain: inside a text
isolation_level:   medium
"""


def test_setting_a_value_keeps_every_other_line() -> None:
    text = text_with(FILE_TEXT, {"root_domain": "example.com"})
    before, after = FILE_TEXT.splitlines(), text.splitlines()
    assert after[2] == 'root_domain: "example.com"'
    assert after[:2] + after[3:] == before[:2] + before[3:]


def test_a_setting_that_is_not_there_is_added_at_the_end() -> None:
    assert text_with("a: 1", {"root_domain": "x.y"}) == 'a: 1\nroot_domain: "x.y"\n'
    assert text_with("", {"root_domain": "x.y"}) == 'root_domain: "x.y"\n'


# JSON writes letters beyond the first plane in a way that is not YAML's; no setting can hold them.
SCALARS = (
    st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]), max_size=20) | st.integers() | st.booleans()
)


@given(
    st.dictionaries(st.sampled_from(["root_domain", "isolation_level", "other", "health_timeout"]), SCALARS, max_size=4)
)
def test_what_was_set_is_what_the_file_says(settings: dict[str, Any]) -> None:
    text = text_with(FILE_TEXT, settings)
    assert yaml.safe_load(text) == yaml.safe_load(FILE_TEXT) | settings
    assert text_with(text, settings) == text
