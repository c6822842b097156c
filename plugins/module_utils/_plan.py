# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a planner returns: an ordered list of changes, and the diff that Ansible shows for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Action = Literal["create", "update", "recreate", "delete"]


class TenancyError(Exception):
    """A fault that the operator can act on; its text is one clear sentence."""


class InvalidInput(TenancyError):
    """One or more faults of the input, all of them told at once."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = list(faults)
        super().__init__(" ".join(self.faults))


@dataclass(frozen=True)
class Change:
    """One difference between what is wanted and what exists.

    before and after are what the diff shows (never a secret): None (absent), text, or plain data.
    payload is for the applier alone and is never printed.
    """

    action: Action
    kind: str
    name: str
    before: Any = None
    after: Any = None
    client_id: str | None = None
    payload: Any = None

    def summary(self) -> dict[str, Any]:
        """The change as the module result lists it."""
        return {"action": self.action, "kind": self.kind, "name": self.name, "client_id": self.client_id}


def as_text(value: Any) -> str:
    """One side of a diff as text: nothing for None, text as it is, data as stable JSON."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
    return text if text.endswith("\n") or not text else text + "\n"


def as_diff(changes: Sequence[Change]) -> list[dict[str, str]]:
    """The changes in the form in which Ansible prints a diff, one entry per object."""
    return [
        {
            "before_header": f"{change.kind} {change.name}" + (" (absent)" if change.before is None else ""),
            "after_header": f"{change.kind} {change.name} ({change.action})",
            "before": as_text(change.before),
            "after": as_text(change.after),
        }
        for change in changes
    ]


def spec_hash(spec: Any) -> str:
    """SHA-256 over the canonical JSON of a specification; kept as a label of what was made from it."""
    canonical = json.dumps(spec, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()
