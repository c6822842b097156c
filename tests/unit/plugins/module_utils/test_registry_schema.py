# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The registry's schema: shipped as it is used, and read here as the library jsonschema reads it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils import _registry_schema
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._config import effective_config
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._contract import LEVELS
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._names import canonical_domain
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import InvalidInput, TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry import (
    DATA_FATES,
    STATES,
    VERSION,
    check_document,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry_schema import (
    ENTRY_SCHEMA,
    SCHEMA,
    find_fault,
    schema_text,
)
from ansible_collections.agency_stack.multi_tenancy.tests.unit.helpers import registered
from ansible_collections.agency_stack.multi_tenancy.tests.unit.hostile import DOMAINS, IDS
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

SHIPPED = Path(__file__).parents[4] / "docs" / "clients.schema.json"
LIBRARY = Draft202012Validator(SCHEMA)
GOOD = registered(effective_config([]), {"client_id": "acme", "domain": "acme.example.com", "aliases": ["b.example"]})[
    0
] | {
    "created_at": "2026-01-31T12:00:00+00:00",
    "protected": True,
    "removal": "keep",
    "removed_at": "",
    "internal_subnet": "10.217.0.16/28",
    "egress": "deny",
    "egress_allow": ["203.0.113.0/24:443"],
    "rate_limit": {"average": 50, "burst": 100},
    "resources": {"memory": "512m", "cpus": 0.5, "pids": 512, "disk": "1g"},
}
OPTIONAL = {
    *("created_at", "protected", "removal", "removed_at", "internal_subnet"),
    *("egress", "egress_allow", "rate_limit", "resources"),
}


def parts(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A schema and all schemas in it."""
    yield schema
    for key in ("items", "additionalProperties", "propertyNames"):
        if key in schema:
            yield from parts(schema[key])
    for part in schema.get("properties", {}).values():
        yield from parts(part)


def document(**entry: Any) -> dict[str, Any]:
    return {"version": 1, "clients": [GOOD | entry]}


def told(value: Any) -> str:
    with pytest.raises(TenancyError) as refused:
        check_document(value, "/x/clients.json")
    message = str(refused.value)
    assert message.isascii()
    assert message.isprintable()
    return message


# ---------------------------------------------------------------- the schema itself


def test_the_shipped_schema_is_the_one_in_use() -> None:
    module = _registry_schema.__name__
    assert SHIPPED.read_text(encoding="utf-8") == schema_text(), (
        "docs/clients.schema.json is out of date; in the checkout run: PYTHONPATH=.ansible/collections "
        f".venv-dev/bin/python -c 'from {module} import schema_text; print(schema_text(), end=\"\")' "
        "> docs/clients.schema.json"
    )


def test_it_is_a_schema_and_every_part_of_it_says_what_it_is() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    for part in parts(SCHEMA):
        assert part["description"][0].islower()
        # What comes after it can count on the type.
        assert next(key for key in part if key not in ("$schema", "title", "description")) == "type"


def test_it_says_what_the_code_says() -> None:
    known = ENTRY_SCHEMA["properties"]
    assert known["state"]["enum"] == list(STATES)
    assert known["removal"]["enum"] == list(DATA_FATES)
    assert known["isolation_level"]["enum"] == list(LEVELS)
    assert SCHEMA["properties"]["version"]["const"] == VERSION
    assert set(GOOD) == set(known)
    assert set(ENTRY_SCHEMA["required"]) == set(known) - OPTIONAL


def test_the_documentation_has_a_row_for_every_key() -> None:
    text = SHIPPED.with_name("registry.md").read_text(encoding="utf-8")
    rows = [line.split("`")[1] for line in text.splitlines() if line.startswith("| `")]
    assert rows[: len(ENTRY_SCHEMA["properties"])] == list(ENTRY_SCHEMA["properties"])


def test_a_keyword_that_is_not_known_here_is_never_passed_over() -> None:
    with pytest.raises(KeyError, match="uniqueItems"):
        find_fault({"type": "array", "uniqueItems": True}, [])


# ---------------------------------------------------------------- beside the library

MISSING = object()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
# What lies at the borders.
NEAR: list[Any] = [
    *("", "a", "a\n", "acme\n", "all", "-a", "a_b", "a" * 32, "a" * 33, "\N{SNOWMAN}", "\ud800"),
    *("localhost", "localhost\n", "*.localhost", "*.a.example", "a.example\n", "A.example", "1.2.3.4", "a.1", "a.1a"),
    *("a..b", ".a.b", "a.b.", "x" * 63 + ".example", "x" * 64 + ".example", "a." * 125 + "abc", "a." * 126 + "ab"),
    *("10.1.0.0/28", "10.1.0.0/28\n", "10.1.0.0/30", "10.01.0.0/28", "172.32.0.0/28", "172.31.0.0/9", "192.168.1.0/29"),
    *("medium", "Medium", "keep", "burn", "present", "absent", "2026-01-31T12:00:00Z", "2026-01-31 12:00:00"),
    *(0, 1, 2, -1, 1.0, 1.5, 65535, 65536, 65536.0, 99999999, 99999999.5, 100000000, 2147483647, 2147483648, 10**30),
    *(None, True, False, [], {}, ["a.example"], ["a.example", "B"], [[]], {"site": {}}, {"Site": {}}, {"site": []}),
    *({"a" * 24: {}}, {"a" * 25: {}}, {"site\n": {}}, {"site": {"x": None}}, {"version": 1, "clients": []}),
]
VALUES = st.sampled_from(NEAR) | JSON
CHANGES = st.dictionaries(st.sampled_from([*GOOD, "note"]), st.just(MISSING) | VALUES, max_size=2)


def changed(value: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: part for key, part in {**value, **changes}.items() if part is not MISSING}


ENTRIES = CHANGES.map(lambda changes: changed(GOOD, changes)) | VALUES
WHOLE = st.dictionaries(st.sampled_from(["version", "clients", "note"]), st.just(MISSING) | VALUES, max_size=1)


@given(st.lists(ENTRIES, max_size=3), WHOLE)
def test_it_accepts_what_the_library_accepts_and_nothing_else(
    clients: list[dict[str, Any]], changes: dict[str, Any]
) -> None:
    value = changed({"version": 1, "clients": clients}, changes)
    fault = find_fault(SCHEMA, value)
    assert (fault is None) == LIBRARY.is_valid(value)
    if fault is not None:
        # The place that it names is one that the library finds, too.
        places = {tuple(error.absolute_path) for error in LIBRARY.iter_errors(value)}
        assert places & {fault.at, fault.at[:-1]}


@pytest.mark.parametrize("key", [*GOOD, "note"])
def test_each_border_is_drawn_where_the_library_draws_it(key: str) -> None:
    outcomes = set()
    for value in [GOOD.get(key, "mine"), *NEAR, *IDS, *DOMAINS]:
        valid = find_fault(SCHEMA, document(**{key: value})) is None
        assert valid == LIBRARY.is_valid(document(**{key: value})), value
        outcomes.add(valid)
    assert outcomes == ({True} if key == "note" else {True, False})


@given(st.sampled_from([value for value in DOMAINS if isinstance(value, str)]) | st.from_regex(r"[a-zA-Z0-9.*-]{1,20}"))
def test_every_host_name_in_its_canonical_form_may_stand_in_the_file(value: str) -> None:
    try:
        name = canonical_domain(value)
    except InvalidInput:
        name = None
    if name is not None:
        assert find_fault(SCHEMA, document(domain=name, aliases=[name])) is None
    if name != value and not any(label.startswith("xn--") for label in value.split(".")):
        assert find_fault(SCHEMA, document(domain=value)) is not None
        assert find_fault(SCHEMA, document(aliases=[value])) is not None


# ---------------------------------------------------------------- what people read

UID = f"it must be {ENTRY_SCHEMA['properties']['uid']['description']}"
# What is different in the entry -> what is said.
SENTENCES: dict[str, tuple[dict[str, Any], str]] = {
    "range": ({"uid": 5}, f"uid 5 of client 'acme' is not allowed: {UID};"),
    "type": ({"uid": "5"}, f"uid '5' of client 'acme' is not allowed: {UID};"),
    "missing": ({"uid": MISSING}, f"client 'acme' lacks uid, {UID.removeprefix('it must be ')};"),
    "choice": (
        {"state": "gone"},
        "state 'gone' of client 'acme' is not allowed: it must be what the client is to be, one",
    ),
    "inside a list": (
        {"aliases": ["b.example", "B"]},
        "aliases[1] 'B' of client 'acme' is not allowed: it must be a host",
    ),
    "inside a mapping": (
        {"services": {"site": 1}},
        "services.site 1 of client 'acme' is not allowed: it must be an object",
    ),
    "a name": (
        {"services": {"a b\n": {}}},
        r"services.a b\n 'a b\n' of client 'acme' is not allowed: it must be a name",
    ),
    "reserved": ({"client_id": "all"}, "client_id 'all' of client 'all' is not allowed: it must be the client's name"),
    "no name": ({"client_id": "A\n"}, r"client_id 'A\n' of entry 1 is not allowed: it must be the client's name"),
    "nameless": ({"client_id": MISSING}, "entry 1 lacks client_id, the client's name"),
    "number with a point": (
        {"uid": 65536.0},
        "client 'acme' has the uid 65536.0, which must be written without a decimal point;",
    ),
    "host bits": (
        {"subnet": "10.1.0.1/28"},
        "client 'acme' has a subnet that is none (10.1.0.1/28 has host bits set);",
    ),
}


@pytest.mark.parametrize(("changes", "sentence"), SENTENCES.values(), ids=SENTENCES)
def test_one_sentence_names_file_client_key_and_what_is_allowed(changes: dict[str, Any], sentence: str) -> None:
    message = told({"version": 1, "clients": [changed(GOOD, changes)]})
    assert message.startswith(f"/x/clients.json: {sentence}")
    assert message.endswith("; restore the file from a copy.")
    assert len(message) < 600


def test_an_entry_that_is_no_object_is_named_by_its_number() -> None:
    message = told({"version": 1, "clients": [GOOD, "b"]})
    assert message.startswith("/x/clients.json: entry 2, 'b', is not allowed: it must be an object that describes")


@pytest.mark.parametrize("clients", [[], {}, None, [{"form": "another"}]], ids=["none", "mapping", "null", "others"])
def test_a_later_version_is_left_alone_whatever_it_says(clients: Any) -> None:
    message = told({"version": VERSION + 1, "clients": clients})
    assert message == (
        f"/x/clients.json has version {VERSION + 1} and this collection knows version {VERSION}; nothing was touched: "
        "use the collection that wrote it."
    )


@pytest.mark.parametrize("version", [0, True, 1.0, "1", None])
def test_what_is_no_version_is_no_registry(version: Any) -> None:
    assert "is no client registry" in told({"version": version, "clients": []})


def test_what_nobody_knows_is_kept() -> None:
    value = {"version": 1, "note": ["mine"], "clients": [GOOD | {"note": {"any": [1, None]}}]}
    assert check_document(value, "x") == value


def test_500_clients_are_checked_in_no_time() -> None:
    clients = registered(
        effective_config([]), *({"client_id": f"c{n}", "aliases": [f"www.c{n}.example"]} for n in range(500))
    )
    spent = []
    for dummy in range(5):
        # Of this process alone, since the machine may be busy.
        begin = time.process_time()
        check_document({"version": 1, "clients": clients}, "x")
        spent.append(time.process_time() - begin)
    assert min(spent) < 0.1
