# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The registry's file: read as it was written, refused when damaged, left as it is then."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry import empty_document
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry_store import as_json, load, save

DAMAGED = {
    "empty": b"",
    "half": b'{"version": 1, "clients": [{"client_id"',
    "NUL bytes after a crash": b"\0" * 512,
    "not UTF-8": b'{"version": 1, "clients": ["\xff"]}',
    "endless nesting": b"[" * 100_000,
    "another thing": b'{"a": 1}',
    "later version": b'{"version": 99, "clients": []}',
}


def test_what_was_saved_is_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "clients.json"
    document = empty_document() | {"note": "\N{SNOWMAN}"}
    save(str(path), document)
    assert load(str(path)) == document
    assert path.read_text(encoding="utf-8") == as_json(document)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_without_a_file_there_are_no_clients(tmp_path: Path) -> None:
    assert load(str(tmp_path / "clients.json")) == {"version": 1, "clients": []}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_named_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "clients.json"
    path.write_bytes(content)
    with pytest.raises(TenancyError) as refused:
        load(str(path))
    assert str(path) in str(refused.value)
    assert path.read_bytes() == content


def test_the_place_of_the_damage_is_told(tmp_path: Path) -> None:
    path = tmp_path / "clients.json"
    path.write_text('{"version": 1,\n "clients": [,]}', encoding="utf-8")
    with pytest.raises(TenancyError, match="at line 2, column 14"):
        load(str(path))


def test_the_text_is_json_that_people_can_read() -> None:
    text = as_json({"version": 1, "clients": [{"domain": "\N{SNOWMAN}.example"}]})
    assert json.loads(text)["version"] == 1
    assert "\N{SNOWMAN}" in text
    assert text.count("\n") > 3
