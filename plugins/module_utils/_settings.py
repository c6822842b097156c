# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings' file edge: config.yaml and the component's registration, read and compared."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from ansible.module_utils.basic import missing_required_lib
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._catalog import merge
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._config import (
    effective_config,
    initial_text,
    text_with,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._files import read_text
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import Layout
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._legacy import (
    BEFORE_UPGRADE,
    old_settings,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._names import printable
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import Change, InvalidInput, TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry import fault_of_plain

try:
    import yaml

    HAS_YAML = True
except ImportError:
    HAS_YAML = False


def parse(text: str, path: str) -> dict[str, Any]:
    """The settings in a text of config.yaml."""
    if not text.strip():
        return {}
    if not HAS_YAML:
        raise TenancyError(f"{path} cannot be read: {missing_required_lib('PyYAML')}")
    try:
        _refuse_twice(yaml.compose(text, Loader=yaml.SafeLoader))
        settings = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as exc:
        # The latter for what looks like a date and is none.
        mark = getattr(exc, "problem_mark", None)
        at = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        why = str(getattr(exc, "problem", None) or getattr(exc, "reason", None) or exc)[:200]
        told = printable(" ".join(why.encode("ascii", "backslashreplace").decode().split()))
        raise TenancyError(f"{path} is no valid YAML{at}: {told}; correct it.") from exc
    except RecursionError as exc:
        raise TenancyError(f"{path} is nested too deeply; correct it.") from exc
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise TenancyError(f"{path} must hold settings of the form 'key: value'.")
    return settings


def _refuse_twice(root: Any) -> None:
    """Of a key that stands in one mapping twice YAML would take the last one, and readers the first.

    Raises:
        ConstructorError: There is one.
    """
    todo, seen = [root], set()
    while todo:
        node = todo.pop()
        if not isinstance(node, yaml.CollectionNode) or id(node) in seen:
            continue
        seen.add(id(node))
        keys: set[tuple[str, str]] = set()
        for item in node.value:
            key, *others = item if isinstance(item, tuple) else (item,)
            todo += [key, *others]
            if others and isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in keys:
                    problem = f"the key {key.value} stands there twice"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                keys.add((key.tag, key.value))


def registration(layout: Layout) -> str:
    """The component registration that other AgencyStack tools read."""
    document = {
        "component": "multi_tenancy",
        "collection": "agency_stack.multi_tenancy",
        "root": layout.base(),
        "config": layout.config,
        "clients": layout.registry,
        "log": os.path.join(layout.log_dir, "components", "multi_tenancy.log"),
    }
    return json.dumps(document, indent=2) + "\n"


def plan_settings(
    layout: Layout,
    chosen: Mapping[str, Any],
    overrides: Mapping[str, Any],
    custom: Mapping[str, Any] | None = None,
    custom_source: str = "custom settings",
    regenerate: bool = False,
    now: datetime | None = None,
) -> tuple[dict[str, Any], list[Change]]:
    """The effective settings, and how the files differ from what they must say.

    Precedence: defaults, config.yaml, custom, chosen, overrides. An earlier installer's config.yaml is replaced by one
    that says the same, and kept beside it.

    Args:
        layout: Where the files lie.
        chosen: Top-level settings to be written.
        overrides: Settings for this run alone.
        custom: Settings to be written, mappings merged key by key.
        custom_source: The name of what they come from, for messages.
        regenerate: Whether config.yaml is written anew, without the comments that it has; the old one is kept.
        now: The time for the name of a kept file.

    Raises:
        TenancyError: A file cannot be read, or the settings are wrong.
    """
    before = read_text(layout.config)
    present = {} if before is None else parse(before, layout.config)
    old = old_settings(present)
    base = present if old is None else old
    layers = [(layout.config, base), (custom_source, custom or {}), ("The call", chosen), ("The call", overrides)]
    faults = []
    for source, settings in layers:
        for key, value in settings.items():
            fault = (
                fault_of_plain(value, f"{source}: {key}") if isinstance(key, str) else f"A key of {source} is no text."
            )
            faults += [fault] if fault else []
    if faults:
        raise InvalidInput(faults)
    config = effective_config(layers)
    wanted = merge(merge(base, custom or {}), chosen)
    changes = []
    if before is None:
        after = initial_text(wanted)
    elif old is None and not regenerate:
        after = _edited(before, present, wanted, layout.config)
    else:
        after = initial_text(wanted)
        if after != before:
            names = _names_beside(layout.config, now or datetime.now(UTC), old is not None)
            changes += _kept_beside(before, layout.config, names)
    for kind, path, earlier, later in (
        ("settings", layout.config, before, after),
        ("registration", layout.registration, read_text(layout.registration), registration(layout)),
    ):
        if earlier != later:
            changes.append(Change("create" if earlier is None else "update", kind, path, earlier, later, payload=later))
    return config, changes


def _edited(text: str, present: dict[str, Any], wanted: Mapping[str, Any], path: str) -> str:
    """The text of config.yaml with what differs set in it."""
    differing = {key: wanted.get(key) for key in (*wanted, *present) if wanted.get(key) != present.get(key)}
    if not differing:
        return text
    after = text_with(text, differing)
    try:
        right = parse(after, path) == present | differing
    except TenancyError:
        right = False
    if not right:
        raise TenancyError(f"{', '.join(differing)} cannot be set in {path}; set it there by hand.")
    return after


def _names_beside(path: str, now: datetime, upgrade: bool) -> Iterator[str]:
    """Names for what a file said before, the best first."""
    if upgrade:
        yield path + BEFORE_UPGRADE
    name = f"{path}.{now.astimezone(UTC):%Y%m%dT%H%M%SZ}"
    yield name
    for number in itertools.count(2):
        yield f"{name}.{number}"


def _kept_beside(text: str, path: str, names: Iterator[str]) -> list[Change]:
    """How a text is kept under the first name that is free; not at all where an interrupted run has kept it already."""
    for name in names:
        there = read_text(name)
        if there is None:
            return [Change("create", "earlier settings", name, None, f"what {path} says before this run", payload=text)]
        if there == text:
            break
    return []
