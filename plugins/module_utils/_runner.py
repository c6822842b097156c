# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one boundary between planners and Ansible: plan, show, apply, report."""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import (
    Change,
    InvalidInput,
    TenancyError,
    as_diff,
)

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

COMPONENT_LOG = "components/multi_tenancy.log"


def guarded(module: AnsibleModule, body: Callable[[], None]) -> None:
    """Run the body of a module; turn a fault the operator can act on into fail_json."""
    try:
        body()
    except InvalidInput as exc:
        module.fail_json(msg=str(exc), faults=exc.faults)
    except TenancyError as exc:
        module.fail_json(msg=str(exc))
    except OSError as exc:
        # Such as a full disk; the system's own text names the file.
        module.fail_json(msg=f"The host refused it: {exc}.")


def converge(
    module: AnsibleModule,
    changes: Sequence[Change],
    apply: Callable[[Change], None],
    log_dir: str | None = None,
    workers: int = 1,
    **result: Any,
) -> dict[str, Any]:
    """Apply the changes unless in check mode and return the module's result.

    The changes of one client run in order, those of different clients side by side in `workers` threads. A failure
    ends that client's changes alone; it is reported in `failures`, and the caller ends with finish().

    Args:
        module: The module that runs; its check_mode decides whether anything is applied.
        changes: What the planner found, in the order of application.
        apply: Does one change; raises TenancyError with one clear sentence when it cannot.
        log_dir: Where the component log lies, such as /var/log/agency_stack; None writes no log.
        workers: Number of threads.
        result: Further keys for the result.
    """
    failures: list[dict[str, Any]] = []
    done: list[Change] = list(changes)
    if not module.check_mode and changes:
        done = []
        with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
            for applied, failure in pool.map(lambda group: _apply_group(group, apply), _by_client(changes)):
                done.extend(applied)
                if failure is not None:
                    failures.append(failure)
        if log_dir is not None:
            _journal(log_dir, done, failures)
    return {
        "changed": bool(done),
        "changes": [change.summary() for change in done],
        "diff": as_diff(changes),
        "failures": failures,
        **result,
    }


def finish(module: AnsibleModule, result: dict[str, Any]) -> None:
    """End the module; a failure of one client fails the task after the others were done, unless it is deferred."""
    failures = result.get("failures") or []
    if failures and not module.params.get("defer_failures"):
        module.fail_json(msg=" ".join(failure["msg"] for failure in failures), **result)
    module.exit_json(**result)


def _by_client(changes: Sequence[Change]) -> Iterable[list[Change]]:
    groups: dict[str | None, list[Change]] = {}
    for change in changes:
        groups.setdefault(change.client_id, []).append(change)
    return groups.values()


def _apply_group(group: list[Change], apply: Callable[[Change], None]) -> tuple[list[Change], dict[str, Any] | None]:
    done: list[Change] = []
    for change in group:
        try:
            apply(change)
        except Exception as exc:
            # Whatever it is, it must not keep the other clients from being done.
            where = f"Client {change.client_id}: " if change.client_id else ""
            told = str(exc) if isinstance(exc, (TenancyError, OSError)) else f"{type(exc).__name__}: {exc}"
            return done, {"client_id": change.client_id, "msg": f"{where}{told}", "change": change.summary()}
        done.append(change)
    return done, None


def _journal(log_dir: str, done: Sequence[Change], failures: Sequence[dict[str, Any]]) -> None:
    """Append what was done to the component log, one JSON object per line."""
    path = os.path.join(log_dir, COMPONENT_LOG)
    os.makedirs(os.path.dirname(path), mode=0o750, exist_ok=True)
    stamp = datetime.now(UTC).isoformat(timespec="seconds")
    user = os.environ.get("SUDO_USER") or pwd.getpwuid(os.geteuid()).pw_name
    lines = [{"time": stamp, "user": user, **change.summary()} for change in done]
    lines += [{"time": stamp, "user": user, "failed": failure["msg"], **failure["change"]} for failure in failures]
    with open(path, "a", encoding="utf-8", opener=lambda p, flags: os.open(p, flags, 0o640)) as handle:
        handle.writelines(json.dumps(line, sort_keys=True) + "\n" for line in lines)
