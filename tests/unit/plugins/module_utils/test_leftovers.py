# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Leftovers: everything of a client that is gone is told with its cure, and nothing of anybody else."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import Layout
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._leftovers import Seen, find_leftovers
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._stack import ContainerState

LAYOUT = Layout("/srv/root", "/srv/log")
DYNAMIC = "/srv/root/multi_tenancy/traefik/dynamic"
OPEN, CLOSED = {"mode": "0750", "uid": 0, "gid": 1900000001}, {"mode": "0700", "uid": 0, "gid": 0}
LINK = {"mode": "0777", "uid": 0, "gid": 0, "type": "not a directory"}


def container(name: str, client_id: str | None) -> ContainerState:
    return ContainerState("id", name, client_id, "site", "", "image", "exited", "", {})


def labelled(name: str, client_id: str | None) -> dict[str, Any]:
    """A network or a volume of the engine's list."""
    return {"Name": name, "Labels": {} if client_id is None else {"agency_stack.client_id": client_id}}


def registry(**states: str) -> list[dict[str, Any]]:
    """Entries of the registry; `purged` is an absent client whose data is deleted."""
    return [
        {"client_id": client_id, "state": "absent", "removal": "purge"}
        if state == "purged"
        else {"client_id": client_id, "state": state}
        for client_id, state in states.items()
    ]


# One thing of the client acme -> what it is called.
THINGS: dict[str, tuple[Seen, str, str]] = {
    "container": (Seen(containers=[container("mt-acme.site", "acme")]), "container", "mt-acme.site"),
    "container of any name": (Seen(containers=[container("x.next2", "acme")]), "container", "x.next2"),
    "network": (Seen(networks=[labelled("mt-acme", "acme")]), "network", "mt-acme"),
    "network of any name": (Seen(networks=[labelled("second", "acme")]), "network", "second"),
    "volume": (Seen(volumes=[labelled("data", "acme")]), "volume", "data"),
    "route": (Seen(routes=["acme.yml"]), "route", f"{DYNAMIC}/acme.yml"),
    "folder": (Seen(folders=["acme"]), "folder", "/srv/root/clients/acme"),
}


@pytest.mark.parametrize(("seen", "kind", "name"), THINGS.values(), ids=THINGS)
def test_a_thing_is_left_over_when_its_client_is_unknown_or_absent(seen: Seen, kind: str, name: str) -> None:
    for clients, known in ((registry(b="present"), False), (registry(acme="absent", b="present"), True)):
        [left] = find_leftovers(seen, clients, LAYOUT)
        assert (left.client_id, left.kind, left.name, left.known) == ("acme", kind, name, known)
        assert left.shown() == {"client_id": "acme", "kind": kind, "name": name, "msg": left.sentence}
    for state in ("present", "suspended"):
        assert find_leftovers(seen, registry(acme=state), LAYOUT) == []


@pytest.mark.parametrize(("seen", "kind", "name"), THINGS.values(), ids=THINGS)
def test_only_the_clients_in_question_are_looked_at(seen: Seen, kind: str, name: str) -> None:
    assert [left.name for left in find_leftovers(seen, [], LAYOUT, ["acme", "b"])] == [name]
    assert find_leftovers(seen, [], LAYOUT, ["b"]) == find_leftovers(seen, [], LAYOUT, []) == []


# What belongs to no client that ever was one of ours.
FOREIGN: dict[str, Seen] = {
    "nothing": Seen(),
    "edge": Seen(containers=[container("mt-edge", None)]),
    "network without a label": Seen(networks=[labelled("bridge", None), {"Name": "x", "Labels": None}]),
    "volume without a label": Seen(volumes=[labelled("x", None), {"Name": "y", "Labels": None}]),
    "files that are no client's": Seen(
        routes=["acme", "acme.yaml", ".acme.yml", "acme.yml.bak", "Acme.yml", "a b.yml"]
    ),
    "file of the platform": Seen(routes=["edge.yml", "platform.yml"]),
    "folders that are no client's": Seen(folders=[".acme", "lost+found", "Acme", "acme.away", "removed", "shared"]),
    "logs that others write": Seen(logs={"acme": OPEN}),
    "log folder that went away": Seen(logs={"acme": None}, containers=[container("x", None)]),
}


@pytest.mark.parametrize("seen", FOREIGN.values(), ids=FOREIGN)
def test_what_is_not_ours_is_left_alone(seen: Seen) -> None:
    assert find_leftovers(seen, registry(b="present"), LAYOUT) == []


# State of the client (None: unknown, and its network is there), its log folder -> whether the folder is left over.
LOGS: dict[str, tuple[str | None, dict[str, Any] | None, bool]] = {
    "kept data, closed": ("absent", CLOSED, False),
    "kept data, open": ("absent", OPEN, True),
    "kept data, a link in its place": ("absent", LINK, True),
    "deleted data, closed": ("purged", CLOSED, True),
    "deleted data, open": ("purged", OPEN, True),
    "gone": ("purged", None, False),
    "unknown, closed": (None, CLOSED, False),
    "unknown, open": (None, OPEN, True),
    "present": ("present", OPEN, False),
}


@pytest.mark.parametrize(("state", "log", "left"), LOGS.values(), ids=LOGS)
def test_a_log_folder_is_left_over_unless_it_is_kept(state: str | None, log: dict[str, Any] | None, left: bool) -> None:
    clients = [] if state is None else registry(acme=state)
    seen = Seen(logs={"acme": log, "stranger": OPEN}, networks=[labelled("mt-acme", "acme")] if state is None else [])
    found = [left.name for left in find_leftovers(seen, clients, LAYOUT) if left.kind == "log folder"]
    assert found == (["/srv/log/clients/acme"] if left else [])


def test_leftovers_come_by_client_in_the_order_in_which_they_can_be_removed() -> None:
    seen = Seen(
        containers=[container("z", "b"), container("y", "acme"), container("x", "acme")],
        networks=[labelled("n", "acme")],
        volumes=[labelled("v", "acme")],
        routes=["acme.yml"],
        folders=["acme"],
        logs={"acme": OPEN},
    )
    assert [(left.client_id, left.kind, left.name.rpartition("/")[2]) for left in find_leftovers(seen, [], LAYOUT)] == [
        ("acme", "container", "x"),
        ("acme", "container", "y"),
        ("acme", "network", "n"),
        ("acme", "volume", "v"),
        ("acme", "route", "acme.yml"),
        ("acme", "folder", "acme"),
        ("acme", "log folder", "acme"),
        ("b", "container", "z"),
    ]


PUT_AWAY = (
    "'mkdir -p -m 700 /srv/root/multi_tenancy/removed && mv -nT /srv/root/clients/acme "
    "/srv/root/multi_tenancy/removed/acme-$(date -u +%Y%m%dT%H%M%S)' puts it away."
)

# Kind -> what is said of an unknown client, and of one on its way out.
SENTENCES: dict[str, tuple[str, str]] = {
    "container": (
        "Container mt-acme.site belongs to client acme, who is not in the registry; "
        "'docker rm -f mt-acme.site' removes it.",
        "Client acme: container mt-acme.site is still there; the next run tries again, or "
        "'docker rm -f mt-acme.site' removes it.",
    ),
    "network": (
        "Network mt-acme belongs to client acme, who is not in the registry; 'docker network rm mt-acme' removes it.",
        "Client acme: network mt-acme is still there; the next run tries again, or "
        "'docker network rm mt-acme' removes it.",
    ),
    "volume": (
        "Volume data belongs to client acme, who is not in the registry; 'docker volume rm data' removes it.",
        "Client acme: volume data is still there; no run deletes what it holds; 'docker volume rm data' removes it.",
    ),
    "route": (
        f"Route {DYNAMIC}/acme.yml belongs to client acme, who is not in the registry; "
        f"'rm {DYNAMIC}/acme.yml' removes it.",
        f"Client acme: route {DYNAMIC}/acme.yml is still there; the next run tries again.",
    ),
    "folder": (
        f"Folder /srv/root/clients/acme belongs to client acme, who is not in the registry; {PUT_AWAY}",
        "Client acme: folder /srv/root/clients/acme is still there; the next run tries again.",
    ),
}


@pytest.mark.parametrize("kind", SENTENCES)
def test_what_is_left_is_told_in_one_sentence_with_its_cure(kind: str) -> None:
    seen = THINGS[kind][0]
    told = tuple(
        left.sentence for clients in ([], registry(acme="absent")) for left in find_leftovers(seen, clients, LAYOUT)
    )
    assert told == SENTENCES[kind]


def test_an_open_log_folder_is_told_with_its_cure() -> None:
    seen = Seen(logs={"acme": OPEN})
    [left] = find_leftovers(seen, registry(acme="absent"), LAYOUT)
    assert left.sentence == "Client acme: log folder /srv/log/clients/acme is still there; the next run tries again."
    left = find_leftovers(Seen(logs={"acme": OPEN}, routes=["acme.yml"]), [], LAYOUT)[1]
    assert left.sentence.endswith("who is not in the registry; 'rm -r /srv/log/clients/acme' removes it.")


# What somebody may have written into a label or a name.
HOSTILE = [
    "",
    "x; touch pwned",
    "$(touch pwned)",
    "`touch pwned`",
    "a'b",
    "a\nb",
    "\x1b[2J",
    "-rf",
    "../..",
    "x" * 9999,
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_label_is_told_in_one_printable_line(text: str) -> None:
    [left] = find_leftovers(Seen(networks=[labelled("n", text)]), [], LAYOUT)
    assert left.sentence.isprintable()
    assert len(left.sentence) < 300
    assert (left.client_id, left.command) == (text, "docker network rm n")


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_name_is_one_word_of_the_command(tmp_path: Path, text: str) -> None:
    [left] = find_leftovers(Seen(networks=[labelled(text, "acme")]), [], LAYOUT)
    done = subprocess.run(
        ["sh", "-c", left.command.replace("docker network rm", "printf -- %s,")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{text},"
    assert list(tmp_path.iterdir()) == []
    assert left.sentence.isprintable()


def test_the_command_for_a_folder_makes_it_a_kept_one_that_can_be_brought_back(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path / "a root"), str(tmp_path / "log"))
    folder = Path(layout.client("acme"))
    (folder / "data").mkdir(parents=True)
    (tmp_path / "a root" / "multi_tenancy").mkdir()
    [left] = find_leftovers(Seen(folders=["acme"]), [], layout)
    subprocess.run(["sh", "-c", left.command], check=True)
    removed = Path(layout.base("removed"))
    [kept] = removed.iterdir()
    assert removed.stat().st_mode & 0o777 == 0o700
    assert (kept / "data").is_dir()
    assert kept.name.startswith("acme-2")
    assert len(kept.name) == len("acme-20260131T120000")
    assert not folder.exists()
