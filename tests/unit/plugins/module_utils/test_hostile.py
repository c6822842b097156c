# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hostile input from the edit to all that is made of it: refused in printable sentences, or harmless everywhere."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._catalog import SERVICE_SPEC
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._config import effective_config
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import Layout
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import InvalidInput
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry import (
    check_document,
    empty_document,
    plan_registry,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry_store import as_json
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._storage import removed_name
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._tenant import (
    containers,
    directories,
    effective_text,
    network,
    routes,
    welcome_page,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._traefik import (
    HEADER,
    ClientRoutes,
    Route,
    check_routes,
    render,
)
from ansible_collections.agency_stack.multi_tenancy.tests.unit.hostile import (
    DOMAINS,
    ENVIRONMENT_KEYS,
    ENVIRONMENT_VALUES,
    IDS,
    SERVICE_NAMES,
    VOLUMES,
)
from hypothesis import given
from hypothesis import strategies as st

CONFIG = effective_config([])
LAYOUT = Layout("/root/agency", "/log")

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"Host\(`((?:{_LABEL}\.)*{_LABEL})`\)")
_WILDCARD = re.compile(rf"HostRegexp\(`\^\[a-z0-9-\]\+((?:\\\.{_LABEL})+)\$`\)")
# The engine's own grammar of names.
_DOCKER_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")


def hosts_of(rule: str) -> list[str]:
    """The host names of a rule of Traefik's; anything but matchers of one host each is an error."""
    found = []
    for matcher in rule.split(" || "):
        host, wildcard = _HOST.fullmatch(matcher), _WILDCARD.fullmatch(matcher)
        assert host or wildcard, rule
        found.append(host[1] if host else "*" + wildcard[1].replace("\\", ""))  # type: ignore[index]
    return found


def assert_told_well(refused: InvalidInput) -> None:
    assert refused.faults
    for fault in refused.faults:
        assert fault.isascii(), fault
        assert fault.isprintable(), fault
        assert len(fault) < 800
        assert fault.endswith("."), fault


def assert_harmless(document: Mapping[str, Any], client: Mapping[str, Any]) -> None:
    """Look at all that is made of a client."""
    text = as_json(document)
    assert check_document(json.loads(text.encode()), "clients.json") == document
    home = f"{LAYOUT.root}/clients/{client['client_id']}"
    assert os.path.dirname(os.path.normpath(home)) == f"{LAYOUT.root}/clients"
    for directory in directories(client, CONFIG, LAYOUT):
        path = os.path.normpath(directory.path)
        assert path == directory.path
        assert path == home or path.startswith((home + "/", "/log/clients/" + client["client_id"]))
    kept = os.path.normpath(LAYOUT.removed(removed_name(client)))
    assert os.path.dirname(kept) == f"{LAYOUT.root}/multi_tenancy/removed"

    spec = network(client, CONFIG)
    assert _DOCKER_NAME.fullmatch(spec.name)
    assert re.fullmatch(r"mt-[0-9]{1,6}", spec.bridge)
    for container in containers(client, CONFIG, LAYOUT):
        assert _DOCKER_NAME.fullmatch(container.name)
        assert all(bind["source"].startswith(f"{home}/data/") for bind in container.binds)
        assert all(os.path.normpath(bind["source"]) == bind["source"] for bind in container.binds)
        assert all(":" not in bind["source"] + bind["target"] for bind in container.binds)
        for key, value in container.environment.items():
            assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key)
            assert "\0" not in value
            value.encode()
    effective_text(client, CONFIG, LAYOUT).encode()
    assert "<script" not in welcome_page(client)

    subnet = client["subnet"]
    address = subnet.replace(".0/28", ".2")
    made = [Route(r["client_id"], r["service"], r["hostnames"], address, r["port"]) for r in routes(client, CONFIG)]
    wanted = ClientRoutes(client["client_id"], subnet, made)
    check_routes(wanted)
    rendered = json.loads(render(wanted).removeprefix(HEADER))
    rules = [router["rule"] for router in rendered["http"]["routers"].values()]
    names = sorted({client["domain"], *client["aliases"]})
    assert [sorted(hosts_of(rule)) for rule in rules] == [names] * len(rules)
    for name in rendered["http"]["routers"]:
        assert re.fullmatch(r"[a-z0-9_-]+\.[a-z0-9-]+", name)


def tried(edit: Mapping[str, Any]) -> bool:
    """Whether an edit is taken; what comes of it is looked at either way."""
    try:
        document, [change] = plan_registry(empty_document(), [edit], CONFIG, now="2026-01-31T12:00:00+00:00")
    except InvalidInput as refused:
        assert_told_well(refused)
        return False
    [client] = document["clients"]
    assert change.name == client["client_id"]
    assert_harmless(document, client)
    return True


def of_service(**overrides: Any) -> dict[str, Any]:
    return {"client_id": "acme", "domain": "acme.example", "services": {"site": overrides}}


# What is tried -> the corpus, and the edit that is made of each.
CORPUS: dict[str, tuple[list[Any], Any]] = {
    "ids": (IDS, lambda value: {"client_id": value}),
    "ids of those who leave": (IDS, lambda value: {"client_id": value, "domain": "x.example", "state": "suspended"}),
    "domains": (DOMAINS, lambda value: {"client_id": "acme", "domain": value}),
    "aliases": (DOMAINS, lambda value: {"client_id": "acme", "domain": "acme.example", "aliases": [value]}),
    "service names": (SERVICE_NAMES, lambda value: {"client_id": "acme", "services": {value: {"image": "x:1"}}}),
    "volumes": (VOLUMES, lambda value: of_service(volumes=[value])),
    "environment keys": (ENVIRONMENT_KEYS, lambda value: of_service(environment={value: "x"})),
    "environment values": (ENVIRONMENT_VALUES, lambda value: of_service(environment={"KEY": value})),
    "images": (SERVICE_NAMES, lambda value: of_service(image=value)),
    "commands": (ENVIRONMENT_VALUES, lambda value: of_service(command=[value])),
    "unknown keys": (SERVICE_NAMES, lambda value: of_service(**{value: "x"})),
    "capabilities": (SERVICE_NAMES, lambda value: of_service(cap_add=[value])),
    "temporary folders": (VOLUMES, lambda value: of_service(tmpfs=[value])),
    "ports": (ENVIRONMENT_VALUES, lambda value: of_service(port=value)),
    "limits": (ENVIRONMENT_VALUES, lambda value: of_service(mem_limit=value, cpus=value, pids_limit=value)),
    "times": (ENVIRONMENT_VALUES, lambda value: of_service(stop_grace_period=value)),
    "levels": (SERVICE_NAMES, lambda value: {"client_id": "acme", "isolation_level": value}),
    "states": (SERVICE_NAMES, lambda value: {"client_id": "acme", "state": value}),
}


def test_the_corpus_is_large() -> None:
    for corpus in (IDS, DOMAINS, VOLUMES):
        assert len({repr(value) for value in corpus}) > 500


@pytest.mark.parametrize(("corpus", "edit"), CORPUS.values(), ids=CORPUS)
def test_hostile_input_is_refused_in_one_sentence_or_harmless(corpus: list[Any], edit: Any) -> None:
    failed = []
    for value in corpus:
        try:
            tried(edit(value))
        except Exception as exc:
            failed.append((ascii(value)[:80], type(exc).__name__, ascii(str(exc))[:300]))
    assert failed == []


def test_the_harmless_is_taken() -> None:
    """Otherwise everything above could pass by refusing everything."""
    good = [
        {"client_id": "acme"},
        {"client_id": "acme", "domain": "b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example", "aliases": ["*.x.org"]},
        of_service(volumes=["site:/srv/x:ro"], environment={"KEY": "{{ `id` }}\n\u202e"}),
    ]
    assert all(tried(edit) for edit in good)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(["site", "shop"]) | st.text(max_size=5),
        st.none() | st.dictionaries(st.sampled_from(sorted(SERVICE_SPEC)) | st.text(max_size=5), ANYTHING, max_size=4),
        max_size=2,
    )
)
def test_no_override_whatever_breaks_anything(services: dict[str, Any]) -> None:
    tried({"client_id": "acme", "domain": "acme.example", "services": services})


@given(st.fixed_dictionaries({"client_id": ANYTHING}, optional={"domain": ANYTHING, "services": ANYTHING}))
def test_no_edit_whatever_breaks_anything(edit: dict[str, Any]) -> None:
    tried(edit)
