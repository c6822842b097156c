# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module platform_preflight_info: an edit is judged as a whole, and nothing is touched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._resources import GIB, HostSize
from ansible_collections.agency_stack.multi_tenancy.plugins.modules import client_registry, platform_preflight_info
from ansible_collections.agency_stack.multi_tenancy.tests.unit.helpers import tree

Run = Callable[..., dict[str, Any]]
# Of a host with 4 GiB of memory, of which 512 MiB are kept for the host, 2 CPUs, and 20 GiB of disk, of which 2 are.
SIZE = HostSize(4 * GIB, 2, 20 * GIB)


@pytest.fixture(autouse=True)
def faults(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is wrong with the host."""
    told: list[str] = []
    monkeypatch.setattr(platform_preflight_info, "read_host", lambda *_args: ({"occupied": []}, list(told)))
    monkeypatch.setattr(platform_preflight_info, "read_size", lambda _volumes: SIZE)
    return told


def hard(name: str, **resources: Any) -> dict[str, Any]:
    return {"client_id": name, "isolation_level": "hard", **({"resources": resources} if resources else {})}


def test_an_edit_is_told_as_it_will_be_and_nothing_is_touched(run_module: Run, tmp_path: Path) -> None:
    edit = [{"client_id": "m"}, {"client_id": "s", "isolation_level": "soft"}, hard("h")]
    before = tree(tmp_path)
    result = run_module(platform_preflight_info, clients=edit)
    assert (result["changed"], tree(tmp_path)) == (False, before)
    assert [client["client_id"] for client in result["clients"]] == ["h", "m", "s"]
    assert [(item["service"], item["state"]) for item in result["shared"]] == [("site", "present")]
    assert {item["bridge"]: item["egress"] for item in result["networks"]} == {
        "mt-1": "allow",
        "mt-2": "deny",
        "mt-3": "deny",
        "mt-3i": "deny",
        "mt-4": "allow",
    }
    assert (result["dedicated"], result["clients_differ"], result["selected"]) == (True, True, ["m", "s", "h"])


# Edit -> words of the faults, in order.
ADMISSIONS: dict[str, tuple[list[dict[str, Any]], list[str]]] = {
    "what fits": ([hard("a", memory="3g", cpus=1.5, disk="17g")], []),
    "too much memory": (
        [hard("a", memory="4g")],
        ["Client 'a' asks for 4.0 GiB of memory; 3.5 GiB of 4.0 GiB are left after 512 MiB for the host."],
    ),
    "too many CPUs": ([hard("a", cpus=2.5)], ["Client 'a' asks for 2.5 CPUs; 2 of 2 CPUs are left."]),
    "too much of all": (
        [hard("a", memory="4g", cpus=2.5, disk="19g")],
        ["of memory; ", "CPUs; ", "Client 'a' asks for 19.0 GiB of disk; 18.0 GiB of 20.0 GiB are left"],
    ),
    "the second one": (
        [hard("a", memory="2g"), hard("b", memory="2g")],
        ["Client 'b' asks for 2.0 GiB of memory; 1.5 GiB of 4.0 GiB are left after what 1 other hard client reserves"],
    ),
    "others are not judged": ([{"client_id": "m"}, {"client_id": "s", "isolation_level": "soft"}], []),
}


@pytest.mark.parametrize(("edit", "named"), ADMISSIONS.values(), ids=ADMISSIONS)
def test_a_hard_client_is_admitted_only_where_there_is_room(
    run_module: Run, edit: list[dict[str, Any]], named: list[str]
) -> None:
    result = run_module(platform_preflight_info, clients=edit)
    told = result.get("faults", [])
    assert len(told) == len(named)
    assert all(words in fault for words, fault in zip(named, told, strict=True))
    assert result.get("failed", False) == bool(named)


def test_who_has_more_than_there_is_can_still_be_changed_but_not_grow(
    run_module: Run, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_module(client_registry, config=config, clients=[hard("a", memory="3g"), {"client_id": "m"}])
    monkeypatch.setattr(platform_preflight_info, "read_size", lambda _volumes: HostSize(2 * GIB, 2, 20 * GIB))
    for edit in (
        {"client_id": "m", "state": "suspended"},
        {"client_id": "a", "aliases": ["x.example"]},
        hard("a", memory="2g"),
    ):
        assert not run_module(platform_preflight_info, clients=[edit]).get("failed")
    for edit in (hard("a", memory="3100m"), {"client_id": "m", "isolation_level": "hard"}):
        assert "of memory; " in run_module(platform_preflight_info, clients=[edit])["msg"]
    # Whoever leaves makes room.
    leaves = [{"client_id": "a", "state": "absent"}, {"client_id": "m", "isolation_level": "hard"}]
    assert not run_module(platform_preflight_info, clients=leaves).get("failed")


def test_faults_of_host_edit_and_room_are_told_at_once(run_module: Run, faults: list[str]) -> None:
    faults.append("The host is too small.")
    told = run_module(platform_preflight_info, clients=[hard("a", memory="4g")])["faults"]
    assert (told[0], len(told)) == ("The host is too small.", 2)
    told = run_module(
        platform_preflight_info, clients=[{"client_id": "Bad"}, {"client_id": "b", "isolation_level": "x"}]
    )
    assert (told["faults"][0], len(told["faults"])) == ("The host is too small.", 3)


def test_volumes_that_are_left_count_as_dedicated(run_module: Run, tmp_path: Path) -> None:
    assert run_module(platform_preflight_info, clients=[{"client_id": "m"}])["dedicated"] is False
    volumes = tmp_path / "root" / "multi_tenancy" / "volumes"
    volumes.mkdir(parents=True)
    (volumes / "gone.img").touch()
    assert run_module(platform_preflight_info, clients=[{"client_id": "m"}])["dedicated"] is True


@pytest.mark.parametrize(("must_exist", "said"), [(True, "There is no client 'x'; there are nobody."), (False, "")])
def test_who_must_exist(run_module: Run, must_exist: bool, said: str) -> None:
    args = {"request": {"client_id": "x", "isolation_level": "soft"}, "must_exist": must_exist}
    assert run_module(platform_preflight_info, **args).get("msg", "") == said


def test_without_a_name_the_default_client_is_the_one(run_module: Run) -> None:
    result = run_module(platform_preflight_info, request={"isolation_level": "soft"})
    assert (result["edit"], result["selected"]) == ([{"client_id": "default"}], None)
    assert (result["set"], result["clients"][0]["isolation_level"]) == ({"isolation_level": "soft"}, "soft")
