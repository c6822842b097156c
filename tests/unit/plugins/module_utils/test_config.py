# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings: precedence, defaults, faults by name, and edits that keep the operator's own lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from hypothesis import example, given
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
    settings = {"root_domain": "a b", "isolation_level": "firm", "uid_base": 1, "services": {"x": {"image": "A"}}}
    with pytest.raises(InvalidInput) as refused:
        effective_config([(FILE, settings)])
    assert len(refused.value.faults) == 4


# The layers, weakest first -> the source of each fault.
SOURCES: dict[str, tuple[list[dict[Any, Any]], list[str]]] = {
    "unknown keys": ([{"color": 1}, {"colour": 1}], ["a", "b"]),
    "values": ([{"root_domain": "a b"}, {"uid_base": 1}], ["a", "b"]),
    "stronger value": ([{"root_domain": "a b"}, {"root_domain": "c d"}], ["b"]),
    "same value again": ([{"uid_base": 1}, {}, {"uid_base": 1}], ["a"]),
    "cured and brought back": ([{"uid_base": 1}, {"uid_base": 70000}, {"uid_base": 1}], ["c"]),
    "cured": ([{"uid_base": 1, "health_timeout": 0}, {"uid_base": 70000}], ["a"]),
    "two that do not fit": ([{"edge": {"http_port": 81}}, {}, {"edge": {"https_port": 81}}], ["c"]),
    "below": ([{"services": {"x": {"image": "x:1"}}}, {"services": {"x": {"port": 0}}}], ["b"]),
    "of the wrong type": ([{"edge": {"http_port": 81}}, {"services": ["site"]}], ["b"]),
}


@pytest.mark.parametrize(("layers", "sources"), SOURCES.values(), ids=SOURCES)
def test_a_fault_is_told_with_the_layer_that_brought_it(layers: list[dict[Any, Any]], sources: list[str]) -> None:
    with pytest.raises(InvalidInput) as refused:
        effective_config(list(zip("abc", layers, strict=False)))
    assert sorted(fault.split(":")[0] for fault in refused.value.faults) == sources


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


WRITTEN: dict[str, dict[str, Any]] = {
    "nothing": {},
    "one": {"root_domain": "example.com"},
    "the three that are always written": {
        "default_client_id": "first",
        "root_domain": "example.com",
        "isolation_level": "medium",
    },
    "others": {"uid_base": 200000, "network_pool": "10.1.0.0/16", "client_services": []},
    "null": {"root_domain": None, "edge": None, "uid_base": None},
    "part of a mapping": {"edge": {"http_port": 8000}},
    "whole mapping": {"firewall": {"clients_reach_edge": True}},
    "empty mappings": {"edge": {}, "services": {}},
    "services": {
        "services": {
            "whoami": {
                "image": "traefik/whoami:v1.11",
                "command": ["--port=8080", "#", "\N{GRINNING FACE}", "\x85\u2028\ufeff", "a: b"],
                "environment": {"NO": "no", "y": 1, "A_1": "'\"", "EMPTY": ""},
                "port": 8080,
                "cpus": 0.5,
                "read_only": False,
                "healthcheck": {"test": ["CMD", "x"]},
            }
        },
        "client_services": ["site", "whoami"],
    },
}


@pytest.mark.parametrize("settings", WRITTEN.values(), ids=WRITTEN)
def test_the_first_file_says_what_was_chosen_and_means_the_same(settings: dict[str, Any]) -> None:
    text = initial_text(settings)
    written = yaml.safe_load(text)
    chosen = {key: value for key, value in settings.items() if value is not None}
    assert {key: written[key] for key in chosen if chosen[key] or key in written} == {
        key: value for key, value in chosen.items() if value or key in written
    }
    assert effective_config([(FILE, written)]) == effective_config([(FILE, settings)])
    # And stays so when it is made anew from what it says.
    assert initial_text(written) == text


def test_what_was_not_chosen_of_a_mapping_stands_below_it_as_a_comment() -> None:
    text = initial_text({"edge": {"http_port": 8000}})
    assert 'edge:\n  http_port: 8000\n#   image: "built-in"\n#   https_port: 443\n' in text


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
    assert after[2] == 'root_domain: "example.com"   # here'
    assert after[:2] + after[3:] == before[:2] + before[3:]


# Text, settings -> text afterwards.
EDITED: dict[str, tuple[str, dict[str, Any], str]] = {
    "no line end": ("a: 1", {"b": "x.y"}, 'a: 1\nb: "x.y"\n'),
    "empty text": ("", {"b": "x.y"}, 'b: "x.y"\n'),
    "comments alone": ("# mine\n---\n", {"b": 1}, "# mine\n---\nb: 1\n"),
    "letters beyond ASCII": (
        "# \N{GRINNING FACE}\na: \N{SNOWMAN} # mine\nb: 1\n",
        {"a": "\N{GRINNING FACE}"},
        '# \N{GRINNING FACE}\na: "\N{GRINNING FACE}" # mine\nb: 1\n',
    ),
    "nothing to set": ("a: 1", {}, "a: 1"),
    "already there": ("a:   {b:   1}", {"a": {"b": 1}}, "a:   {b:   1}"),
    "null": ("a: 1\n", {"a": None}, "a: null\n"),
    "instead of null": ("a: # mine\nb: 2\n", {"a": 1}, "a: 1 # mine\nb: 2\n"),
    "quoted key": ("'a' : 1 # mine\n", {"a": 2}, "a: 2 # mine\n"),
    "line ends of another system": ("a: 1\r\nb: 2\r\n", {"a": 3, "c": 4}, "a: 3\r\nb: 2\r\nc: 4\r\n"),
    "literal": ("a: |\n  x\n  y\n\n# mine\nb: 1\n", {"a": 2}, "a: 2\n\n# mine\nb: 1\n"),
    "several lines": ("a: x\n  y\n  z # mine\nb: 1\n", {"a": 2}, "a: 2 # mine\nb: 1\n"),
    "list": ("a:\n- x # one\n- y # two\n# mine\nb: 1\n", {"a": ["z"]}, 'a: ["z"] # two\n# mine\nb: 1\n'),
    "mapping on one line": ("a: {b: 1} # mine\n", {"a": {"b": 2}}, "a:\n  b: 2 # mine\n"),
    "whole text on one line": ("{a: 1} # mine\n", {"b": 2}, "a: 1\nb: 2 # mine\n"),
    "a value in a mapping": (
        "a: # one\n    b: 1 # two\n    # three\n    c: 2\n# four\nd: 3\n",
        {"a": {"b": 4, "c": 2}},
        "a: # one\n    b: 4 # two\n    # three\n    c: 2\n# four\nd: 3\n",
    ),
    "another key in a mapping": (
        "a:\n    b: 1 # one\n# two\nd: 3\n",
        {"a": {"b": 1, "c": {"x": True}}},
        "a:\n    b: 1 # one\n    c:\n      x: true\n# two\nd: 3\n",
    ),
    "keys in mappings in each other": (
        "a:\n  b:\n    c:\n      d: 1",
        {"a": {"b": {"c": {"d": 1, "x": 2}, "q": 3}, "z": 4}},
        "a:\n  b:\n    c:\n      d: 1\n      x: 2\n    q: 3\n  z: 4",
    ),
    "a key goes": (
        "a:\n  # one\n  b: 1 # two\n  # three\n  c: 2\n# four\nd: 3\n",
        {"a": {"c": 2}},
        "a:\n  # one\n  # three\n  c: 2\n# four\nd: 3\n",
    ),
    "the last key goes and another comes": (
        "a: # one\r\n  b: 1\r\n  c:\r\n    d: 1 # two\r\n  # three\r\ne: 3\r\n",
        {"a": {"b": 1, "x": 2}},
        "a: # one\r\n  b: 1\r\n  x: 2\r\n  # three\r\ne: 3\r\n",
    ),
    "all keys go": ("a: # one\n  b: 1 # two\nc: 2\n", {"a": {}}, "a: {} # two\nc: 2\n"),
    "other keys come": ("a:\n  b: 1 # one\nc: 2\n", {"a": {"x": 1}}, "a:\n  x: 1 # one\nc: 2\n"),
    "keys from another mapping": (
        "a: &x\n  b: 1\n  c: 2\nd:\n  <<: *x\n  e: 3\n",
        {"d": {"b": 1, "c": 4, "e": 3}},
        "a: &x\n  b: 1\n  c: 2\nd:\n  <<: *x\n  e: 3\n  c: 4\n",
    ),
    "mapping instead of a value": ("a: 1 # mine\nb: 2\n", {"a": {"x": 1}}, "a:\n  x: 1 # mine\nb: 2\n"),
    "what another key refers to": ("a: &x 1\nb: *x\nc: 3\n", {"b": 2}, "a: &x 1\nb: 2\nc: 3\n"),
    "what another mapping refers to": (
        "a: &x\n  q: 1\nb: *x # mine\nc: 3\n",
        {"b": {"q": 2}},
        "a: &x\n  q: 1\nb:\n  q: 2 # mine\nc: 3\n",
    ),
}


@pytest.mark.parametrize(("text", "settings", "after"), EDITED.values(), ids=EDITED)
def test_only_what_differs_is_written(text: str, settings: dict[str, Any], after: str) -> None:
    assert text_with(text, settings) == after
    assert yaml.safe_load(after) == (yaml.safe_load(text) or {}) | settings
    assert text_with(after, settings) == after


# What no setting can hold: half a character, and numbers that YAML does not know in JSON's form.
SCALARS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.integers() | st.booleans()
KEYS = st.sampled_from(["a", "b", "c", "image", "on", "NO", "null", "7", "x y", "-", "#"])
NESTED = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)
TOP = st.sampled_from(["root_domain", "isolation_level", "edge", "services", "other"])
SETTINGS = st.dictionaries(TOP, NESTED, max_size=4)


@given(st.dictionaries(TOP, SCALARS | st.none(), max_size=4))
def test_what_was_set_is_what_the_file_says(settings: dict[str, Any]) -> None:
    text = text_with(FILE_TEXT, settings)
    assert yaml.safe_load(text) == yaml.safe_load(FILE_TEXT) | settings
    assert text_with(text, settings) == text


def styled(settings: Mapping[str, Any], flows: Sequence[bool], end: str) -> str:
    """Settings as people write them: in many styles, with a comment above each of them."""
    text = ""
    for number, (key, value) in enumerate(settings.items()):
        if flows[number % len(flows)]:
            body = f"{key}: {yaml.safe_dump([value], default_flow_style=True)[1:-2]} # end\n"
        else:
            body = yaml.safe_dump({key: value}, default_flow_style=False, indent=3)
        text += f"# about {key}\n{body}\n"
    return text.replace("\n", end)


@given(SETTINGS, st.lists(st.booleans(), min_size=1, max_size=4), st.sampled_from(["\n", "\r\n"]), SETTINGS)
@example({"edge": {"a": {"b": 1}}}, [False], "\n", {"edge": {"a": {"b": 1, "c": 1}, "x": 1}})
def test_any_edit_of_any_file_keeps_all_other_keys_and_comments(
    before: dict[str, Any], flows: list[bool], end: str, settings: dict[str, Any]
) -> None:
    text = styled(before, flows, end)
    assert (yaml.safe_load(text) or {}) == before
    after = text_with(text, settings)
    assert (yaml.safe_load(after) or {}) == before | settings
    assert text_with(after, settings) == after
    assert [line for line in text.split(end) if line.startswith("# ")] == [
        line for line in after.split(end) if line.startswith("# ")
    ]
    if not set(settings) & set(before):
        assert after.startswith(text)
