# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small things that many unit tests need."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry import empty_document, plan_registry
from ansible_collections.agency_stack.multi_tenancy.tests.unit.fake_engine import FakeEngine


def registered(config: Mapping[str, Any], *wanted: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The registry entries of new clients."""
    clients: list[dict[str, Any]] = plan_registry(empty_document(), wanted, config)[0]["clients"]
    return clients


def tree(path: Path) -> dict[str, tuple[Any, ...]]:
    """All below a path: kind, mode, owner, and content or target; equal when nothing was touched.

    Of a lock it counts alone that it is there: it is no state of anything.
    """
    found: dict[str, tuple[Any, ...]] = {}
    for entry in sorted(path.rglob("*")):
        status = entry.lstat()
        if entry.suffix == ".lock":
            found[str(entry.relative_to(path))] = (status.st_mode,)
            continue
        if entry.is_symlink():
            content: Any = os.readlink(entry)
        else:
            content = entry.read_bytes() if entry.is_file() else None
        found[str(entry.relative_to(path))] = (
            status.st_mode,
            status.st_uid,
            status.st_gid,
            status.st_mtime_ns,
            content,
        )
    return found


def ladder(
    run: Callable[..., dict[str, Any]], module: ModuleType, place: Path, engine: FakeEngine, **args: Any
) -> dict[str, Any]:
    """What every module owes: check mode touches nothing and tells what the run does, a second run changes nothing.

    Returns:
        The result of the run that changed something.
    """
    before = tree(place), engine.snapshot()
    checked = run(module, check=True, **args)
    assert (tree(place), engine.snapshot()) == before
    result = run(module, **args)
    assert not result.get("failed"), result
    assert (result["changed"], result["diff"]) == (True, checked["diff"])
    # A run lists them by client.
    assert sorted(result["changes"], key=str) == sorted(checked["changes"], key=str)
    after = tree(place), engine.snapshot()
    for check in (True, False):
        again = run(module, check=check, **args)
        assert (again["changed"], again["changes"], again["diff"]) == (False, [], [])
        assert (tree(place), engine.snapshot()) == after
    return result


class Killed(BaseException):
    """What a process that was killed does next: nothing, neither its handlers nor its cleaning up."""


class Saboteur:
    """Lets the n-th of a program's system calls go wrong, and all later ones too if it lasts.

    Args:
        patch: Undone by the caller.
        names: Functions of the module os that count; what is written through os.fdopen() counts by halves.
        at: Number of the call that does not happen any more; 0: only count.
        fault: What is raised there.
        lasts: Whether every call after it goes wrong as well.
    """

    def __init__(
        self, patch: pytest.MonkeyPatch, names: Sequence[str], at: int, fault: BaseException, lasts: bool
    ) -> None:
        self.count = 0
        self._at, self._fault, self._lasts = at, fault, lasts
        for name in names:
            patch.setattr(os, name, self._watched(getattr(os, name)))
        fdopen = os.fdopen
        patch.setattr(os, "fdopen", lambda fd, mode: _Halves(fdopen(fd, mode, buffering=0), self.step))

    def step(self) -> None:
        """One system call is about to happen."""
        self.count += 1
        if self._at and (self.count == self._at or (self._lasts and self.count > self._at)):
            raise self._fault

    def _watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.step()
            return function(*args, **kwargs)

        return call


class _Halves:
    """A file that takes what is written to it in two steps."""

    def __init__(self, handle: Any, step: Callable[[], None]) -> None:
        self._handle, self._step = handle, step

    def __enter__(self) -> _Halves:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._handle.close()

    def write(self, data: bytes) -> None:
        for part in (data[: len(data) // 2], data[len(data) // 2 :]):
            self._step()
            self._handle.write(part)

    def flush(self) -> None:
        self._step()
