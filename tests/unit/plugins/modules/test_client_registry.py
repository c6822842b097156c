# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module client_registry on real files, with a real lock."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils import _files
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._files import locked
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry_store import generations, load
from ansible_collections.agency_stack.multi_tenancy.plugins.modules import client_registry
from ansible_collections.agency_stack.multi_tenancy.tests.unit.fake_engine import FakeEngine
from ansible_collections.agency_stack.multi_tenancy.tests.unit.helpers import ladder, tree

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "root" / "multi_tenancy" / "clients.json"


class Noon(datetime):
    """A clock that stands still, so that two runs say the same."""

    @classmethod
    def now(cls, tz: Any = None) -> Noon:
        return cls(2026, 1, 31, 12, tzinfo=tz)


@pytest.fixture(autouse=True)
def noon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_registry, "datetime", Noon)


def stored(path: Path) -> list[dict[str, Any]]:
    clients: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["clients"]
    return clients


def test_clients_are_added_and_kept(
    run_module: Run, tmp_path: Path, engine: FakeEngine, config: dict[str, Any], path: Path
) -> None:
    clients = [{"client_id": "b"}, {"client_id": "a", "domain": "A.example"}]
    result = ladder(run_module, client_registry, tmp_path, engine, config=config, clients=clients)
    assert [entry["client_id"] for entry in result["clients"]] == ["a", "b"]
    assert result["clients"] == stored(path)
    assert result["clients"][0]["created_at"] == "2026-01-31T12:00:00+00:00"
    assert sorted(network["bridge"] for network in result["networks"]) == ["mt-1", "mt-2"]
    log = (tmp_path / "log" / "components" / "multi_tenancy.log").read_text(encoding="utf-8")
    assert [json.loads(line)["client_id"] for line in log.splitlines()] == ["a", "b"]


def test_an_edit_changes_only_what_it_names(run_module: Run, config: dict[str, Any], path: Path) -> None:
    run_module(client_registry, config=config, clients=[{"client_id": "a", "domain": "a.example"}, {"client_id": "b"}])
    before = stored(path)
    result = run_module(client_registry, config=config, clients=[{"client_id": "a", "aliases": ["x.example"]}])
    assert [change["name"] for change in result["changes"]] == ["a"]
    assert stored(path) == [before[0] | {"aliases": ["x.example"]}, before[1]]


def test_faults_are_told_at_once_and_nothing_is_written(
    run_module: Run, tmp_path: Path, config: dict[str, Any]
) -> None:
    run_module(client_registry, config=config, clients=[{"client_id": "a"}])
    before = tree(tmp_path)
    wanted = [
        {"client_id": "Bad"},
        {"client_id": "c", "isolation_level": "firm"},
        {"client_id": "d", "domain": "a.localhost"},
    ]
    result = run_module(client_registry, config=config, clients=wanted)
    assert result["failed"]
    assert len(result["faults"]) == 3
    assert result["msg"] == " ".join(result["faults"])
    assert tree(tmp_path) == before


def test_a_pool_in_use_is_refused(run_module: Run, config: dict[str, Any], path: Path) -> None:
    occupied = [{"subnet": "10.217.9.0/24", "what": "a route on wg0"}]
    result = run_module(client_registry, config=config, clients=[{"client_id": "a"}], occupied=occupied)
    assert "network_pool 10.217.0.0/16 overlaps 10.217.9.0/24 (a route on wg0)" in result["msg"]
    assert not path.exists()


def test_a_damaged_registry_is_told_and_left(run_module: Run, config: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text('{"version": 1', encoding="utf-8")
    result = run_module(client_registry, config=config, clients=[{"client_id": "a"}])
    assert result["failed"]
    assert f"{path} is damaged" in result["msg"]
    assert path.read_text(encoding="utf-8") == '{"version": 1'


def test_a_full_disk_is_told_and_the_registry_stays(
    run_module: Run, config: dict[str, Any], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_module(client_registry, config=config, clients=[{"client_id": "a"}])
    before = path.read_bytes()

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_files.os, "fsync", full)
    result = run_module(client_registry, config=config, clients=[{"client_id": "b"}])
    assert result["failed"]
    assert "No space left on device" in result["msg"]
    assert path.read_bytes() == before


def test_a_run_that_holds_the_registry_is_named(run_module: Run, config: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True)
    with locked(f"{path}.lock"):
        result = run_module(client_registry, config=config, clients=[{"client_id": "a"}], lock_timeout=0)
    assert result["failed"]
    assert "is held by process" in result["msg"]
    assert not path.exists()


def test_what_another_run_wrote_meanwhile_is_kept(run_module: Run, config: dict[str, Any], path: Path) -> None:
    """The registry is read under the lock, not before."""
    path.parent.mkdir(parents=True)
    other = {"version": 1, "clients": []}
    held, release = threading.Event(), threading.Event()

    def another_run() -> None:
        with locked(f"{path}.lock"):
            held.set()
            release.wait(5)
            path.write_text(json.dumps(other | {"note": "from the other run"}), encoding="utf-8")

    thread = threading.Thread(target=another_run)
    thread.start()
    assert held.wait(5)
    threading.Timer(0.1, release.set).start()
    run_module(client_registry, config=config, clients=[{"client_id": "a"}])
    thread.join()
    assert json.loads(path.read_text(encoding="utf-8"))["note"] == "from the other run"
    assert [entry["client_id"] for entry in stored(path)] == ["a"]


def test_without_clients_the_registry_is_read(run_module: Run, config: dict[str, Any], path: Path) -> None:
    result = run_module(client_registry, config=config)
    assert (result["changed"], result["clients"], result["networks"]) == (False, [], [])
    assert not path.exists()


# ---------------------------------------------------------------- the life of a client

LIFE: dict[str, tuple[dict[str, Any], list[tuple[str, str]]]] = {
    "suspended": ({"clients": [{"client_id": "b", "state": "suspended"}]}, [("update", "b")]),
    "removed": ({"clients": [{"client_id": "b", "state": "absent"}]}, [("update", "b")]),
    "removed with its data": ({"clients": [{"client_id": "b", "state": "absent", "data": "purge"}]}, [("update", "b")]),
    "all others removed": ({"clients": [{"client_id": "b"}], "purge": True}, [("update", "a")]),
    "everybody removed": ({"purge": True}, [("update", "a"), ("update", "b")]),
    "a removal finished": (
        {"clients": [{"client_id": "b", "state": "absent"}], "forget": ["b", "a"]},
        [("delete", "b")],
    ),
}


@pytest.mark.parametrize(("args", "changes"), LIFE.values(), ids=LIFE)
def test_every_step_of_a_life_is_shown_done_and_then_nothing(
    run_module: Run,
    tmp_path: Path,
    engine: FakeEngine,
    config: dict[str, Any],
    path: Path,
    args: dict[str, Any],
    changes: list[tuple[str, str]],
) -> None:
    run_module(client_registry, config=config, clients=[{"client_id": "a"}, {"client_id": "b"}])
    result = ladder(run_module, client_registry, tmp_path, engine, config=config, **args)
    assert sorted((change["action"], change["name"]) for change in result["changes"]) == changes
    assert result["clients"] == stored(path)
    alive = [f"mt-{entry['index']}" for entry in stored(path) if entry["state"] != "absent"]
    assert [network["bridge"] for network in result["networks"]] == alive


def test_a_protected_client_refuses_and_nothing_is_written(
    run_module: Run, tmp_path: Path, config: dict[str, Any]
) -> None:
    run_module(client_registry, config=config, clients=[{"client_id": "a", "protected": True}, {"client_id": "b"}])
    before = tree(tmp_path)
    for args in ({"clients": [{"client_id": "a", "state": "absent"}]}, {"purge": True}):
        result = run_module(client_registry, config=config, **args)
        assert result["faults"] == [
            "Client 'a' is protected and stays; set protected to false first if it is really to go."
        ]
        assert tree(tmp_path) == before


def test_a_damaged_registry_names_the_generation_that_helps(
    run_module: Run, config: dict[str, Any], path: Path
) -> None:
    for name in "ab":
        run_module(client_registry, config=config, clients=[{"client_id": name}])
    path.write_text("{", encoding="utf-8")
    result = run_module(client_registry, config=config, clients=[{"client_id": "c"}])
    [newest] = generations(str(path))
    assert f"restore it with: cp -p {newest} {path}" in result["msg"]
    assert path.read_text(encoding="utf-8") == "{"


WRITERS = 8
CLIENTS_EACH = 50 if os.environ.get("TENANCY_FULL") else 10


def write_clients(number: int, root: Path, config: dict[str, Any]) -> None:
    """One of many scripts at once: adds clients one by one, and gives each a second name afterwards."""
    for count in range(CLIENTS_EACH):
        name = f"c{number}-{count}"
        for edit in ({"domain": f"{name}.example"}, {"aliases": [f"www.{name}.example"]}):
            args = {
                "root": str(root / "root"),
                "log_dir": str(root / "log"),
                "config": config,
                "clients": [{"client_id": name} | edit],
                "lock_timeout": 300,
            }
            out = io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit), patch_module_args(args):
                client_registry.main()
            result = json.loads(out.getvalue())
            if result.get("failed") or len(result["changes"]) != 1:
                sys.exit(f"{name}: {out.getvalue()}")


def test_writers_at_once_lose_no_update_and_share_no_allocation(
    tmp_path: Path, config: dict[str, Any], path: Path
) -> None:
    """Real processes, real files, the real lock."""
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=write_clients, args=(number, tmp_path, config)) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * WRITERS
    clients = load(str(path))["clients"]
    names = {f"c{number}-{count}" for number in range(WRITERS) for count in range(CLIENTS_EACH)}
    assert {(entry["client_id"], entry["domain"], *entry["aliases"]) for entry in clients} == {
        (name, f"{name}.example", f"www.{name}.example") for name in names
    }
    for key in ("index", "subnet", "uid", "gid"):
        assert len({entry[key] for entry in clients}) == len(names)
    log = (tmp_path / "log" / "components" / "multi_tenancy.log").read_text(encoding="utf-8")
    assert len([json.loads(line) for line in log.splitlines()]) == 2 * len(names)
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["clients.json", "clients.json.lock", "generations"]
