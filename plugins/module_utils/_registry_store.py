# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The registry's file edge: read, lock, write as a whole."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
from collections.abc import Mapping
from typing import Any

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._files import (
    atomic_write,
    read_text,
    sync_directory,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry import (
    check_document,
    empty_document,
)

# How many earlier generations of the registry are kept beside it.
GENERATIONS = 10
_GENERATION = re.compile(r"clients-(\d{8})\.json")


def load(path: str) -> dict[str, Any]:
    """The registry; an empty one when there is no file.

    Raises:
        TenancyError: The file is damaged, no registry, or of another version; it is left as it is.
    """
    text = read_text(path)
    if text is None:
        return empty_document()
    try:
        return _parse(text, path)
    except TenancyError as exc:
        raise TenancyError(f"{exc} {_how_to_restore(path)}".rstrip()) from exc


def _parse(text: str, path: str) -> dict[str, Any]:
    try:
        document = json.loads(
            text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_float=_no_infinity
        )
        return check_document(document, path)
    except (ValueError, RecursionError) as exc:
        at = f" at line {exc.lineno}, column {exc.colno}" if isinstance(exc, json.JSONDecodeError) else ""
        why = f" ({exc})" if isinstance(exc, ValueError) and not at else ""
        raise TenancyError(f"{path} is damaged{at}{why}; it was left as it is: restore it from a copy.") from exc


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands in one object twice")
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _no_infinity(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number in it is too large")
    return number


def generations(path: str) -> list[str]:
    """The earlier generations of a registry, the oldest first."""
    directory = os.path.join(os.path.dirname(path), "generations")
    try:
        names = sorted(name for name in os.listdir(directory) if _GENERATION.fullmatch(name))
    except FileNotFoundError:
        return []
    return [os.path.join(directory, name) for name in names]


def _how_to_restore(path: str) -> str:
    """The sentence that names the newest generation that can be used."""
    for candidate in reversed(generations(path)):
        try:
            _parse(read_text(candidate) or "", candidate)
        except TenancyError:
            continue
        return (
            f"The newest good generation is {candidate}; restore it with: {shlex.join(['cp', '-p', candidate, path])}"
        )
    return ""


def _keep_generation(path: str) -> None:
    """Give the present file a second name, before another takes its place."""
    kept = generations(path)
    directory = os.path.join(os.path.dirname(path), "generations")
    os.makedirs(directory, mode=0o750, exist_ok=True)
    try:
        # A run that was killed here got as far as this.
        if not kept or not os.path.samefile(kept[-1], path):
            number = int(_GENERATION.fullmatch(os.path.basename(kept[-1]))[1]) + 1 if kept else 1  # type: ignore[index]
            kept.append(os.path.join(directory, f"clients-{number:08d}.json"))
            os.link(path, kept[-1])
    except FileNotFoundError:
        return  # the first write of all
    for old in kept[:-GENERATIONS]:
        os.unlink(old)
    sync_directory(directory)


def as_json(document: Mapping[str, Any]) -> str:
    """The registry as its file holds it."""
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def save(path: str, document: Mapping[str, Any]) -> None:
    """Write the registry as a whole; its lock must be held.

    Raises:
        TenancyError: It could not be read again; nothing is written then.
    """
    try:
        data = as_json(document).encode()
    except (ValueError, TypeError, RecursionError) as exc:
        raise TenancyError(f"The new registry cannot be written as JSON ({ascii(str(exc))[1:-1]}).") from exc
    _parse(data.decode(), path)
    directory, name = os.path.split(path)
    os.makedirs(directory, mode=0o755, exist_ok=True)
    for left in os.listdir(directory):
        # A writer that was killed; under the lock there is no other.
        if left.startswith(f".{name}."):
            os.unlink(os.path.join(directory, left))
    _keep_generation(path)
    atomic_write(path, data, mode=0o640)
