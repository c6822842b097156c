# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The boundary to Ansible: plan shown, applied side by side, failures told at the end, all of it in the log."""

from __future__ import annotations

import errno
import json
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import Change, InvalidInput, TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._runner import converge, finish, guarded


class Ended(Exception):
    """The module ended."""


class Module:
    """As much of AnsibleModule as the boundary uses."""

    def __init__(self, check_mode: bool = False, **params: Any) -> None:
        self.check_mode, self.params = check_mode, params
        self.result: dict[str, Any] = {}

    def exit_json(self, **result: Any) -> None:
        self.result = {"failed": False, **result}
        raise Ended

    def fail_json(self, **result: Any) -> None:
        self.result = {"failed": True, **result}
        raise Ended


def change(name: str, client_id: str | None = "a", **more: Any) -> Change:
    return Change("create", "thing", name, None, name, client_id, **more)


CHANGES = [change("a1"), change("b1", "b"), change("a2"), change("p1", None), change("b2", "b")]


def failing(*names: str, error: Exception | None = None) -> Callable[[Change], None]:
    def apply(one: Change) -> None:
        if one.name in names:
            raise error or TenancyError(f"{one.name} broke.")

    return apply


def run(
    module: Module, changes: list[Change], apply: Callable[[Change], None], *args: Any, **options: Any
) -> dict[str, Any]:
    return converge(module, changes, apply, *args, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_changes_of_one_client_run_in_order(workers: int) -> None:
    done: list[str] = []
    result = run(Module(), CHANGES, lambda one: done.append(one.name), workers=workers)
    assert sorted(done) == ["a1", "a2", "b1", "b2", "p1"]
    assert done.index("a1") < done.index("a2")
    assert done.index("b1") < done.index("b2")
    assert (result["changed"], result["failures"]) == (True, [])


def test_clients_run_side_by_side() -> None:
    both = threading.Barrier(2, timeout=5)
    run(Module(), [change("a1"), change("b1", "b")], lambda _one: both.wait(), workers=2)
    assert not both.broken


def test_a_failure_ends_its_own_client_alone() -> None:
    result = run(Module(), CHANGES, failing("a1"), workers=2)
    assert sorted(one["name"] for one in result["changes"]) == ["b1", "b2", "p1"]
    assert result["failures"] == [{"client_id": "a", "msg": "Client a: a1 broke.", "change": CHANGES[0].summary()}]
    assert len(result["diff"]) == len(CHANGES)


def test_a_full_disk_is_a_failure_of_its_client() -> None:
    result = run(Module(), CHANGES, failing("p1", error=OSError(errno.ENOSPC, "No space left on device")))
    [failure] = result["failures"]
    assert (failure["client_id"], failure["msg"]) == (None, "[Errno 28] No space left on device")


def test_when_all_fail_nothing_was_changed() -> None:
    assert run(Module(), [change("a1")], failing("a1"))["changed"] is False


def test_check_mode_tells_the_same_and_applies_nothing(tmp_path: Path) -> None:
    def never(_one: Change) -> None:
        pytest.fail("applied in check mode")

    checked = run(Module(check_mode=True), CHANGES, never, str(tmp_path), extra=1)
    assert list(tmp_path.iterdir()) == []
    assert checked == run(Module(), CHANGES, failing(), str(tmp_path), extra=1) | {"changes": checked["changes"]}
    assert [one["name"] for one in checked["changes"]] == [one.name for one in CHANGES]


def test_nothing_to_do_writes_no_log(tmp_path: Path) -> None:
    assert run(Module(), [], failing(), str(tmp_path))["changed"] is False
    assert list(tmp_path.iterdir()) == []


def test_the_log_says_what_was_done_and_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "jane")
    for dummy in range(2):
        run(Module(), [change("a1", payload="hidden"), change("b1", "b")], failing("b1"), str(tmp_path))
    path = tmp_path / "components" / "multi_tenancy.log"
    text = path.read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    assert [(line["name"], line["client_id"], line.get("failed"), line["user"]) for line in lines] == 2 * [
        ("a1", "a", None, "jane"),
        ("b1", "b", "Client b: b1 broke.", "jane"),
    ]
    assert all(line["time"].endswith("+00:00") for line in lines)
    assert "hidden" not in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("failures", "defer", "failed"), [([], False, False), (["x"], False, True), (["x", "y"], True, False)]
)
def test_failures_fail_the_task_unless_they_are_deferred(failures: list[str], defer: bool, failed: bool) -> None:
    module = Module(defer_failures=defer)
    told = [{"client_id": name, "msg": f"Client {name}: no."} for name in failures]
    with pytest.raises(Ended):
        finish(module, {"changed": True, "failures": told})  # type: ignore[arg-type]
    assert (module.result["failed"], module.result["failures"]) == (failed, told)
    assert module.result.get("msg") == ("Client x: no." if failed else None)


GUARDED: dict[str, tuple[BaseException, dict[str, Any]]] = {
    "input": (InvalidInput(["One.", "Two."]), {"msg": "One. Two.", "faults": ["One.", "Two."]}),
    "fault": (TenancyError("No."), {"msg": "No."}),
    "system": (
        PermissionError(errno.EACCES, "Permission denied", "/x"),
        {"msg": "The host refused it: [Errno 13] Permission denied: '/x'."},
    ),
}


@pytest.mark.parametrize(("error", "result"), GUARDED.values(), ids=GUARDED)
def test_a_fault_that_the_operator_can_act_on_is_told(error: BaseException, result: dict[str, Any]) -> None:
    def body() -> None:
        raise error

    module = Module()
    with pytest.raises(Ended):
        guarded(module, body)  # type: ignore[arg-type]
    assert module.result == {"failed": True, **result}


def test_a_fault_of_the_program_is_not_hidden() -> None:
    def body() -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        guarded(Module(), body)  # type: ignore[arg-type]
