# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The contract is declared once, and the documentation says the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils import _contract
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._contract import (
    GUARANTEES,
    LEVEL_SETTINGS,
    LEVELS,
    contract_table,
    fault_of_level,
)

DOCS = Path(_contract.__file__).resolve().parents[2] / "docs" / "isolation.md"


def test_the_documentation_holds_the_contract() -> None:
    assert contract_table() in DOCS.read_text(encoding="utf-8"), (
        f"Put the text of {_contract.__name__}.contract_table() into {DOCS.name} in place of its table."
    )


def test_every_line_says_something_of_every_level() -> None:
    for row in GUARANTEES:
        assert all((row.what, row.soft, row.medium, row.hard, row.enforced, row.tested))
        assert "|" not in "".join((row.what, row.soft, row.medium, row.hard, row.enforced, row.tested))


def test_levels_accept_settings_that_exist() -> None:
    assert {key for level in LEVELS.values() for key in level.accepts} == set(LEVEL_SETTINGS)


@pytest.mark.parametrize("name", ["Soft", "", None, 7, "x" * 200])
def test_an_unknown_level_is_refused_with_those_there_are(name: object) -> None:
    fault = fault_of_level(name)
    assert fault is not None
    assert fault.endswith("use one of soft, medium, hard.")
    assert len(fault) < 200


@pytest.mark.parametrize("name", LEVELS)
def test_every_level_is_served(name: str) -> None:
    assert fault_of_level(name) is None
