# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The registry's file edge: read, lock, write as a whole."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._files import atomic_write, read_text
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry import (
    check_document,
    empty_document,
)


def load(path: str) -> dict[str, Any]:
    """The registry; an empty one when there is no file.

    Raises:
        TenancyError: The file is damaged, no registry, or of another version; it is left as it is.
    """
    text = read_text(path)
    if text is None:
        return empty_document()
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as exc:
        at = f" at line {exc.lineno}, column {exc.colno}" if isinstance(exc, json.JSONDecodeError) else ""
        raise TenancyError(f"{path} is damaged{at}; it was left as it is: restore it from a copy.") from exc
    return check_document(document, path)


def as_json(document: Mapping[str, Any]) -> str:
    """The registry as its file holds it."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def save(path: str, document: Mapping[str, Any]) -> None:
    """Write the registry as a whole."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    atomic_write(path, as_json(document).encode(), mode=0o640)
