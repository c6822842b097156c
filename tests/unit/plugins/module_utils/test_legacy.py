# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What earlier installers wrote: read with exactly the damage they did, checked like any edit, and never lost."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._config import effective_config
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import Layout
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._legacy import (
    OldClient,
    complete_ids,
    is_old_list,
    old_clients,
    old_settings,
    parse_env,
    parse_list,
    plan_upgrade,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import Change, InvalidInput, TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry import plan_registry
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry_store import (
    DECODER,
    OLD_FILE_LIMIT,
    generations,
    load,
    load_for_edit,
    read_old_files,
    save,
)
from ansible_collections.agency_stack.multi_tenancy.tests.unit.helpers import Killed, Saboteur, tree
from hypothesis import example, given
from hypothesis import strategies as st

CONFIG = effective_config([])
NOON = "2026-01-31T12:00:00+00:00"


def old_entry(client_id: Any, domain: Any = None, level: Any = "medium", **more: Any) -> dict[str, Any]:
    """An entry as the installer wrote it."""
    return {
        "client_id": client_id,
        "domain": f"{client_id}.example.com" if domain is None else domain,
        "isolation_level": level,
        "created_at": "2025-04-09 12:00:00",
        "key_rotation": "90",
    } | more


def old_text(*entries: Mapping[str, Any]) -> str:
    """The list with the damage of the installer's `sed`."""
    first, *others = (json.dumps(entry) for entry in entries)
    return f"[{first}" + "".join(f"{entry}," for entry in others) + "]\n"


def old_env(client_id: str, **variables: str) -> str:
    """A client's own file as the installer wrote it."""
    lines = {
        "CLIENT_ID": client_id,
        "CLIENT_DOMAIN": f"{client_id}.example.com",
        "ROOT_DOMAIN": "example.com",
        "ISOLATION_LEVEL": "medium",
        "DATA_DIR": f"/opt/agency_stack/clients/{client_id}/data",
        "CONFIG_DIR": f"/opt/agency_stack/clients/{client_id}/config",
        "SECRETS_DIR": f"/opt/agency_stack/clients/{client_id}/secrets",
    } | variables
    return "# Client configuration\n" + "".join(f"{key}={value}\n" for key, value in lines.items())


# ---------------------------------------------------------------- the list

ONE, TWO, THREE = ({"client_id": name} for name in "abc")
A, B, C = (json.dumps(entry) for entry in (ONE, TWO, THREE))

# Text -> entries in it.
READ: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "nobody": ("[]", []),
    "one client": (f"[{A}]\n", [ONE]),
    "comma at the end": (f"[{A},]", [ONE]),
    "no comma between": (f"[{A}{B}]", [ONE, TWO]),
    "as sed left it": (f"[{A}{B},{C},]\n", [ONE, TWO, THREE]),
    "blanks everywhere": (f" \t\r\n[ {A} {B} , {C} , ] \n", [ONE, TWO, THREE]),
    "good JSON": (f"[{A}, {B}]", [ONE, TWO]),
    "brackets in a value": ('[{"client_id": "]"}{"a": [[1]]},]', [{"client_id": "]"}, {"a": [[1]]}]),
}


@pytest.mark.parametrize(("text", "entries"), READ.values(), ids=READ)
def test_a_list_is_read_with_exactly_that_damage(text: str, entries: list[dict[str, Any]]) -> None:
    assert is_old_list(text)
    assert parse_list(text, DECODER) == entries


# Text -> where the damage is told to be.
DAMAGED: dict[str, tuple[str, str]] = {
    "comma at the beginning": (f"[,{A}]", "at line 1, column 2"),
    "two commas": (f"[{A},,{B}]", "at line 1, column 21"),
    "only a comma": ("[,]", "at line 1, column 2"),
    "cut off": (f"[{A}{B},", "at line 1, column 39"),
    "cut off inside": (f"[{A}{B[:9]}", "at line 1, column"),
    "something after it": (f"[{A}]{B}", "at line 1, column 21"),
    "two lists": (f"[{A}]\n[{B}]", "at line 2, column 1"),
    "a text in it": (f'[{A},"b"]', "at line 1, column 21"),
    "a list in it": (f"[[{A}]]", "at line 1, column 2"),
    "a number in it": ("[1]", "at line 1, column 2"),
    "single quotes": ("[{'client_id': 'a'}]", "at line 1, column 3"),
    "a comment": (f"[{A} // mine\n]", "at line 1, column 21"),
    "a key twice": ('[{"client_id": "a", "client_id": "b"}]', "a key stands in one object twice"),
    "NaN": ('[{"client_id": NaN}]', "NaN is no JSON"),
    "a number without end": ('[{"x": ' + "9" * 5000 + "}]", "is damaged"),
    "endless lists": ("[" * 99999, "is damaged"),
    "endless objects": ("[" + '{"a":' * 99999, "is damaged"),
}


@pytest.mark.parametrize(("text", "place"), DAMAGED.values(), ids=DAMAGED)
def test_every_other_damage_stays_damage(tmp_path: Path, text: str, place: str) -> None:
    path = tmp_path / "multi_tenancy" / "clients.json"
    path.parent.mkdir()
    path.write_text(text, encoding="utf-8")
    before = tree(tmp_path)
    for read in (lambda: load(str(path)), lambda: load_for_edit(Layout(str(tmp_path)), CONFIG)):
        with pytest.raises(TenancyError) as refused:
            read()
        assert str(refused.value).startswith(f"{path} is damaged")
        assert place in str(refused.value)
        assert str(refused.value).isprintable()
    assert tree(tmp_path) == before


@pytest.mark.parametrize("text", ["", " ", "{}", '{"version": 1, "clients": []}', "null", "x["])
def test_what_is_no_list_is_nobody_elses(text: str) -> None:
    assert not is_old_list(text)


PIECES = [
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    '"',
    '"client_id"',
    '"a"',
    '"domain"',
    A,
    B,
    "1",
    "null",
    " ",
    "\n",
    "NaN",
    "\\",
]
TEXTS = st.text(st.characters(exclude_categories=["Cs"])) | st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@given(TEXTS | TEXTS.map("[{}".format) | TEXTS.map("[{{{}}}]".format))
@example(f"[{A}{B},]")
def test_no_text_makes_the_readers_stumble(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    root = tmp_path_factory.getbasetemp() / "any"
    path = root / "multi_tenancy" / "clients.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")
    with pytest.raises(TenancyError) as refused:
        load(str(path))
    assert str(refused.value).isprintable()
    try:
        document, changes = load_for_edit(Layout(str(root)), CONFIG, now=NOON)
    except TenancyError as exc:
        assert str(exc).isprintable()
    else:
        assert is_old_list(text)
        assert [change.name for change in changes] == [
            str(path),
            *(entry["client_id"] for entry in document["clients"]),
        ]
    variables = parse_env(text)
    assert all(key.isascii() and value in text for key, value in variables.items())


# ---------------------------------------------------------------- a client's own file

# Line -> the value that it gives CLIENT_DOMAIN.
LINES: dict[str, tuple[str, str | None]] = {
    "plain": ("CLIENT_DOMAIN=a.example", "a.example"),
    "double quotes": ('CLIENT_DOMAIN="a.example"', "a.example"),
    "single quotes": ("CLIENT_DOMAIN='a.example'", "a.example"),
    "quotes of two kinds": ("CLIENT_DOMAIN='a.example\"", "'a.example\""),
    "one quote": ('CLIENT_DOMAIN="', '"'),
    "quotes within quotes": ("CLIENT_DOMAIN=\"'a'\"", "'a'"),
    "another =": ("CLIENT_DOMAIN=a=b", "a=b"),
    "line end of another system": ("CLIENT_DOMAIN=a.example\r", "a.example"),
    "blanks": ("  CLIENT_DOMAIN= a.example ", "a.example"),
    "nothing": ("CLIENT_DOMAIN=", ""),
    "what a shell would run": ("CLIENT_DOMAIN=$(id)`id`$HOME", "$(id)`id`$HOME"),
    "comment": ("#CLIENT_DOMAIN=a.example", None),
    "another name": ("MY_CLIENT_DOMAIN=a.example", None),
    "lower case": ("client_domain=a.example", None),
    "no =": ("CLIENT_DOMAIN a.example", None),
}


@pytest.mark.parametrize(("line", "value"), LINES.values(), ids=LINES)
def test_a_line_is_a_name_and_a_text_that_nothing_evaluates(line: str, value: str | None) -> None:
    assert parse_env(f"# mine\n\n{line}\nOTHER=1\n").get("CLIENT_DOMAIN") == value
    assert parse_env(f"CLIENT_DOMAIN=first\n{line}").get("CLIENT_DOMAIN") == ("first" if value is None else value)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """The folders of three clients, of which one has a file of its own."""
    clients = tmp_path / "clients"
    for name in ("acme", "globex", "initech"):
        (clients / name / "config").mkdir(parents=True)
    (clients / "acme" / "config" / ".env").write_text(old_env("acme"), encoding="utf-8")
    (clients / "README").write_text("mine", encoding="utf-8")
    return clients


def test_the_files_of_all_folders_are_read(folders: Path) -> None:
    (folders / "globex" / "config" / ".env").write_text("x" * OLD_FILE_LIMIT, encoding="utf-8")
    shutil.rmtree(folders / "initech" / "config")
    found = read_old_files(str(folders))
    assert found == {
        "acme": (str(folders / "acme" / "config" / ".env"), old_env("acme")),
        "globex": (str(folders / "globex" / "config" / ".env"), "x" * OLD_FILE_LIMIT),
    }
    assert list(read_old_files(str(folders), ["acme"])) == ["globex"]
    assert read_old_files(str(folders / "missing")) == {}
    assert read_old_files(str(folders / "README")) == {}


def plant(folders: Path, what: str) -> None:
    """Put something into the folder of globex that root must not read as its file."""
    home = folders / "globex"
    secret = folders.parent / "secret" / "config"
    secret.mkdir(parents=True)
    (secret / ".env").write_text("CLIENT_ID=globex\nCLIENT_DOMAIN=stolen.example\n", encoding="utf-8")
    file = home / "config" / ".env"
    if what == "link as file":
        file.symlink_to(secret / ".env")
    elif what == "link to a device":
        file.symlink_to("/dev/zero")
    elif what == "link to nothing":
        file.symlink_to("nothing")
    elif what == "link as folder":
        (home / "config").rmdir()
        (home / "config").symlink_to(secret)
    elif what == "file as folder":
        (home / "config").rmdir()
        (home / "config").write_text("x", encoding="utf-8")
    elif what == "folder as file":
        file.mkdir()
    elif what == "pipe":
        os.mkfifo(file)
    elif what == "socket":
        # Its path would be too long for a socket.
        with socket.socket(socket.AF_UNIX) as server:
            here = os.open(file.parent, os.O_RDONLY)
            server.bind(f"/proc/self/fd/{here}/.env")
            os.close(here)
    elif what == "too long":
        file.write_text("x" * (OLD_FILE_LIMIT + 1), encoding="utf-8")
    elif what == "no text":
        file.write_bytes(b"CLIENT_ID=globex\nCLIENT_DOMAIN=\xff\n")


PLANTED = ["link as file", "link to a device", "link to nothing", "link as folder", "file as folder", "folder as file"]
PLANTED += ["pipe", "socket", "too long", "no text"]


@pytest.mark.parametrize("what", PLANTED)
def test_what_a_client_may_have_planted_is_not_read_and_is_told(folders: Path, what: str) -> None:
    plant(folders, what)
    before, opened = tree(folders.parent), os.listdir("/proc/self/fd")
    with pytest.raises(TenancyError) as refused:
        read_old_files(str(folders))
    assert str(refused.value).startswith(f"{folders}/globex/config/.env must be a regular file of at most 64 KiB")
    assert "\n" not in str(refused.value)
    # It hinders nobody where the list tells everything.
    assert list(read_old_files(str(folders), ["globex"])) == ["acme"]
    assert (tree(folders.parent), os.listdir("/proc/self/fd")) == (before, opened)


def test_a_folder_that_is_a_link_is_nobodys(folders: Path) -> None:
    (folders / "copy").symlink_to("acme")
    assert list(read_old_files(str(folders))) == ["acme"]


# ---------------------------------------------------------------- list and files together

ENV = {"lost": ("/c/lost/config/.env", old_env("lost"))}


def files_of(**texts: str) -> dict[str, tuple[str, str]]:
    return {name: (f"/c/{name}/config/.env", text) for name, text in texts.items()}


# Entries of the list, texts of clients' own files -> (source, wanted) of each client.
MET: dict[str, tuple[list[dict[str, Any]], dict[str, str], list[tuple[str, dict[str, Any]]]]] = {
    "list alone": (
        [old_entry("a")],
        {},
        [("list", {"client_id": "a", "domain": "a.example.com", "isolation_level": "medium"})],
    ),
    "file alone": (
        [],
        {"b": old_env("b")},
        [("/c/b/config/.env", {"client_id": "b", "domain": "b.example.com", "isolation_level": "medium"})],
    ),
    "the list wins": (
        [old_entry("a", "new.example")],
        {"a": old_env("a", CLIENT_DOMAIN="old.example", ISOLATION_LEVEL="hard")},
        [("list", {"client_id": "a", "domain": "new.example", "isolation_level": "medium"})],
    ),
    "the file fills": (
        [{"client_id": "a", "domain": ""}],
        {"a": old_env("a")},
        [("list", {"client_id": "a", "domain": "a.example.com", "isolation_level": "medium"})],
    ),
    "neither tells": (
        [{"client_id": "a", "isolation_level": None}],
        {"a": "CLIENT_ID=a\nCLIENT_DOMAIN=\n"},
        [("list", {"client_id": "a"})],
    ),
    "the last one wins": (
        [old_entry("a", "old.example"), old_entry("b"), old_entry("a", "new.example")],
        {},
        [
            ("list", {"client_id": "a", "domain": "new.example", "isolation_level": "medium"}),
            ("list", {"client_id": "b", "domain": "b.example.com", "isolation_level": "medium"}),
        ],
    ),
    "file of a copied folder": ([], {"a.bak": old_env("a")}, []),
    "file that names nobody": ([], {"a": "CLIENT_DOMAIN=a.example\n"}, []),
    "file of something else": ([], {"a": "PASSWORD=hunter2\n"}, []),
}


@pytest.mark.parametrize(("entries", "texts", "wanted"), MET.values(), ids=MET)
def test_list_and_files_make_the_clients(
    entries: list[dict[str, Any]], texts: dict[str, str], wanted: list[tuple[str, dict[str, Any]]]
) -> None:
    clients = old_clients(entries, "list", files_of(**texts))
    assert [(client.source, client.wanted) for client in clients] == wanted


def test_of_whom_the_list_tells_all_no_file_is_needed() -> None:
    entries = [old_entry("a"), old_entry("b", ""), {"client_id": "c"}, old_entry("d"), {"client_id": "d"}]
    assert complete_ids(entries) == {"a"}


# What the installer noted -> what the entry says.
MOMENTS = {
    "2025-04-09 12:00:00": "2025-04-09T12:00:00",
    "2025-04-09T12:00:00": "2025-04-09T12:00:00",
    "2025-04-09T12:00:00Z": "2025-04-09T12:00:00+00:00",
    "2025-04-09 12:00:00.123+02:00": "2025-04-09T12:00:00+02:00",
    "2025-04-09 12:00:00+02:00:30": "",
    "yesterday": "",
    "": "",
    "2025-13-45 12:00:00": "",
}


@pytest.mark.parametrize(("noted", "said"), MOMENTS.items())
def test_the_time_of_its_making_is_kept_in_the_form_of_today(noted: str, said: str) -> None:
    [client] = old_clients([old_entry("a", created_at=noted)], "list", {})
    assert client.kept == {"created_at": said, "key_rotation": "90"}


@pytest.mark.parametrize("noted", [None, 7, [], {}])
def test_what_is_no_time_is_none(noted: Any) -> None:
    [client] = old_clients([old_entry("a", created_at=noted)], "list", {})
    assert client.kept["created_at"] == ""


# ---------------------------------------------------------------- the upgrade


def upgraded(
    clients: Sequence[OldClient], edit: Sequence[Mapping[str, Any]] = (), config: Mapping[str, Any] = CONFIG
) -> tuple[dict[str, Any], list[Change]]:
    return plan_upgrade(clients, "/m/clients.json", "[...]", config, now=NOON, edit=edit)


def faults_of(
    *entries: Mapping[str, Any], files: Mapping[str, tuple[str, str]] | None = None, **options: Any
) -> list[str]:
    with pytest.raises(InvalidInput) as refused:
        upgraded(old_clients(entries, "/m/clients.json", files or {}), **options)
    assert all(fault.isascii() and fault.isprintable() for fault in refused.value.faults)
    return refused.value.faults


def test_clients_are_checked_and_given_their_networks_as_new_ones_are() -> None:
    clients = old_clients([old_entry("acme", "ACME.Example.com", note="mine")], "/m/clients.json", ENV)
    document, [upgrade, acme, lost] = upgraded(clients)
    assert document == {
        "version": 1,
        "clients": [
            {
                "client_id": "acme",
                "created_at": "2025-04-09T12:00:00",
                "domain": "acme.example.com",
                "aliases": [],
                "isolation_level": "medium",
                "state": "present",
                "services": {"site": {}},
                "index": 1,
                "subnet": "10.217.0.0/28",
                "uid": 1900000001,
                "gid": 1900000001,
                "key_rotation": "90",
                "note": "mine",
            },
            {
                "client_id": "lost",
                "created_at": "",
                "domain": "lost.example.com",
                "aliases": [],
                "isolation_level": "medium",
                "state": "present",
                "services": {"site": {}},
                "index": 2,
                "subnet": "10.217.0.16/28",
                "uid": 1900000002,
                "gid": 1900000002,
            },
        ],
    }
    assert (upgrade.action, upgrade.kind, upgrade.name, upgrade.before) == (
        "update",
        "registry",
        "/m/clients.json",
        "[...]",
    )
    assert "kept as /m/clients.json.before-upgrade" in upgrade.after
    assert [(change.action, change.after) for change in (acme, lost)] == [
        ("create", entry) for entry in document["clients"]
    ]


def test_what_is_allocated_is_not_taken_from_the_list() -> None:
    entry = old_entry(
        "a", index=9, subnet="8.8.8.0/24", uid=0, gid=0, state="absent", services={"x": {}}, aliases=["b"]
    )
    with_all, dummy = upgraded(old_clients([entry], "list", {}))
    plain, dummy = upgraded(old_clients([old_entry("a")], "list", {}))
    assert with_all == plain


def test_without_domain_and_level_the_settings_say_them() -> None:
    config = effective_config([("c", {"root_domain": "agency.example"})])
    document, dummy = upgraded(old_clients([{"client_id": "a"}], "list", {}), config=config)
    assert (document["clients"][0]["domain"], document["clients"][0]["isolation_level"]) == (
        "a.agency.example",
        "medium",
    )


WROTE = "which an earlier installer wrote, cannot be taken over:"
# What is in the list -> how the fault begins, and what it names.
REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "bad id": (old_entry("Acme", "a.example"), f"Client 'Acme' in /m/clients.json, {WROTE} client_id", "'Acme' is not"),
    "reserved id": (old_entry("edge"), f"Client 'edge' in /m/clients.json, {WROTE} client_id", "reserved"),
    "id that leaves": (old_entry("../x", "a.example"), f"Client '../x' in /m/clients.json, {WROTE}", "is not allowed"),
    "no id": ({"domain": "a.example"}, f"Client None in /m/clients.json, {WROTE} client_id None", "is not allowed"),
    "id that is no text": (
        old_entry(["a"], "a.example"),
        f"Client ['a'] in /m/clients.json, {WROTE}",
        "is not allowed",
    ),
    "bad domain": (old_entry("a", "a b"), f"Client 'a' in /m/clients.json, {WROTE} domain 'a b'", "is not allowed"),
    "domain that is no text": (old_entry("a", 7), f"Client 'a' in /m/clients.json, {WROTE} domain 7", "is not allowed"),
    "address": (old_entry("a", "192.0.2.1"), f"Client 'a' in /m/clients.json, {WROTE} domain", "IP address"),
    "level": (old_entry("a", level="firm"), f"Client 'a' in /m/clients.json, {WROTE} isolation_level 'firm'", "medium"),
    "note that cannot be written": (
        old_entry("a", note="\ud800"),
        f"Client 'a' in /m/clients.json, {WROTE}",
        "entry.note",
    ),
}


@pytest.mark.parametrize(("entry", "begin", "named"), REFUSED.values(), ids=REFUSED)
def test_who_cannot_be_taken_over_is_named_with_the_file(entry: dict[str, Any], begin: str, named: str) -> None:
    [fault] = faults_of(old_entry("good"), entry)
    assert fault.startswith(begin)
    assert named in fault


def test_who_is_known_from_a_file_alone_is_named_with_that_file() -> None:
    [fault] = faults_of(files=files_of(b=old_env("b", ISOLATION_LEVEL="firm")))
    assert fault.startswith(f"Client 'b' in /c/b/config/.env, {WROTE} isolation_level 'firm'")


def test_all_faults_are_told_at_once() -> None:
    entries = [old_entry("A", "a b"), old_entry("b", level="firm"), old_entry("c")]
    faults = faults_of(*entries, files=files_of(d=old_env("d", CLIENT_DOMAIN="-")))
    assert [fault.split(",")[0] for fault in faults] == [
        "Client 'A' in /m/clients.json",
        "Client 'A' in /m/clients.json",
        "Client 'b' in /m/clients.json",
        "Client 'd' in /c/d/config/.env",
    ]


def test_a_host_name_of_two_clients_is_refused_with_the_file() -> None:
    [fault] = faults_of(old_entry("a", "x.example"), old_entry("b", "X.example"))
    assert fault.startswith("/m/clients.json, which an earlier installer wrote, cannot be upgraded: The host name x.")
    assert "client 'a' already" in fault


@pytest.mark.parametrize(
    ("entry", "edit"),
    [
        (old_entry("a", level="firm"), {"client_id": "a", "isolation_level": "medium", "domain": None}),
        (old_entry("a", "a b"), {"client_id": "a", "domain": "a.example"}),
        (old_entry("a", "good.example.com"), {"client_id": "a", "domain": "a.example"}),
    ],
    ids=["level", "domain", "name of another"],
)
def test_what_is_refused_can_be_changed_in_the_same_run(entry: dict[str, Any], edit: dict[str, Any]) -> None:
    faults_of(old_entry("good"), entry, edit=[{"client_id": "good", "domain": "good.example.com"}])
    clients = old_clients([old_entry("good"), entry], "list", {})
    document, dummy = upgraded(clients, [edit])
    again, changes = plan_registry(document, [edit], CONFIG, now="later")
    assert ([entry["client_id"] for entry in again["clients"]], changes) == (["a", "good"], [])


# ---------------------------------------------------------------- on the disk


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An installation of an earlier installer, its list made by the very `sed` that damaged it."""
    path = tmp_path / "root" / "multi_tenancy" / "clients.json"
    path.parent.mkdir(parents=True)
    path.write_text(f"[{json.dumps(old_entry('acme'))}]\n", encoding="utf-8")
    for name in ("globex", "initech"):
        entry = json.dumps(old_entry(name))
        subprocess.run(["sed", "-i", rf"s/\]/{entry},\]/", str(path)], check=True)
    for name in ("acme", "lost"):
        config = tmp_path / "root" / "clients" / name / "config"
        config.mkdir(parents=True)
        (config / ".env").write_text(old_env(name), encoding="utf-8")
    return tmp_path / "root"


def registry(root: Path) -> Path:
    return root / "multi_tenancy" / "clients.json"


def upgrade(root: Path, *edit: Mapping[str, Any]) -> list[Change]:
    """What a writer does, under its lock."""
    layout = Layout(str(root))
    document, changes = load_for_edit(layout, CONFIG, now=NOON, edit=edit)
    document, more = plan_registry(document, edit, CONFIG, now=NOON)
    if changes or more:
        save(layout.registry, document)
    return [*changes, *more]


def test_what_sed_left_is_no_json(root: Path) -> None:
    text = registry(root).read_text(encoding="utf-8")
    assert text == old_text(*(old_entry(name) for name in ("acme", "globex", "initech")))
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)


def test_the_first_write_upgrades_and_keeps_the_original(root: Path) -> None:
    before = tree(root)
    text = registry(root).read_text(encoding="utf-8")
    changes = upgrade(root, {"client_id": "globex", "state": "absent"}, {"client_id": "new"})
    assert [(change.action, change.name) for change in changes] == [
        ("update", str(registry(root))),
        *(("create", name) for name in ("acme", "globex", "initech", "lost")),
        ("update", "globex"),
        ("create", "new"),
    ]
    states = {entry["client_id"]: entry["state"] for entry in load(str(registry(root)))["clients"]}
    assert states == {"acme": "present", "globex": "absent", "initech": "present", "lost": "present", "new": "present"}
    kept = registry(root).with_name("clients.json.before-upgrade")
    assert kept.read_text(encoding="utf-8") == text
    # Nothing else was touched.
    after = tree(root)
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} == {
        "multi_tenancy",
        "multi_tenancy/clients.json",
        "multi_tenancy/clients.json.before-upgrade",
    }
    assert upgrade(root, {"client_id": "new"}) == []
    assert tree(root) == after
    # A file that stays behind adds nobody any more.
    assert [change.name for change in upgrade(root, {"client_id": "globex", "state": "present"})] == ["globex"]
    assert len(generations(str(registry(root)))) == 1


def test_readers_say_whose_it_is_and_how_it_is_upgraded(root: Path) -> None:
    before = tree(root)
    with pytest.raises(TenancyError) as refused:
        load(str(registry(root)))
    assert str(refused.value) == (
        f"{registry(root)} is that of an earlier installer, with the clients acme, globex, initech: run make "
        "multi_tenancy, which upgrades it and keeps the original beside it."
    )
    assert tree(root) == before


def test_an_empty_list_is_upgraded_too(root: Path) -> None:
    registry(root).write_text("[]", encoding="utf-8")
    shutil.rmtree(root / "clients")
    with pytest.raises(TenancyError, match="with the clients nobody"):
        load(str(registry(root)))
    assert [change.name for change in upgrade(root)] == [str(registry(root))]
    assert load(str(registry(root))) == {"version": 1, "clients": []}


def test_what_is_no_old_list_is_loaded_as_it_is(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    assert load_for_edit(layout, CONFIG) == (load(layout.registry), [])
    (tmp_path / "clients" / "lost" / "config").mkdir(parents=True)
    (tmp_path / "clients" / "lost" / "config" / ".env").write_text(old_env("lost"), encoding="utf-8")
    assert load_for_edit(layout, CONFIG) == ({"version": 1, "clients": []}, [])
    save(layout.registry, {"version": 1, "clients": [], "note": "mine"})
    assert load_for_edit(layout, CONFIG) == (load(layout.registry), [])


def test_who_cannot_be_taken_over_stops_the_upgrade_and_nothing_is_written(root: Path) -> None:
    registry(root).write_text(old_text(old_entry("acme"), old_entry("b", level="firm")), encoding="utf-8")
    before = tree(root)
    with pytest.raises(InvalidInput, match=f"Client 'b' in {registry(root)}, which an earlier installer wrote"):
        upgrade(root)
    assert tree(root) == before


def test_an_original_that_was_kept_before_stays(root: Path) -> None:
    text = registry(root).read_text(encoding="utf-8")
    kept = registry(root).with_name("clients.json.before-upgrade")
    kept.write_text("mine", encoding="utf-8")
    upgrade(root)
    assert kept.read_text(encoding="utf-8") == "mine"
    # What was there then is kept where every earlier registry is.
    [generation] = generations(str(registry(root)))
    assert Path(generation).read_text(encoding="utf-8") == text


CALLS = ("mkdir", "listdir", "unlink", "link", "open", "fsync", "fchmod", "replace")
STOPS: dict[str, tuple[BaseException, bool]] = {
    "killed": (Killed(), True),
    "disk full": (OSError(errno.ENOSPC, "No space left on device"), False),
}


@pytest.mark.parametrize(("fault", "lasts"), STOPS.values(), ids=STOPS)
def test_an_upgrade_that_was_interrupted_anywhere_goes_on(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException, lasts: bool
) -> None:
    text = registry(root).read_text(encoding="utf-8")
    stopped = 0
    for at in itertools.count(1):
        place = tmp_path / str(at)
        shutil.copytree(root, place)
        document, dummy = load_for_edit(Layout(str(place)), CONFIG, now=NOON)
        with monkeypatch.context() as patch:
            saboteur = Saboteur(patch, CALLS, at, fault, lasts)
            try:
                save(str(registry(place)), document)
            except type(fault) as raised:
                assert raised is fault
            if saboteur.count < at:
                break
        stopped += 1
        left = registry(place).read_text(encoding="utf-8")
        assert left == text or load(str(registry(place))) == document
        upgrade(place)
        assert load(str(registry(place))) == document
        assert registry(place).with_name("clients.json.before-upgrade").read_text(encoding="utf-8") == text
        assert sorted(entry.name for entry in registry(place).parent.iterdir()) == [
            "clients.json",
            "clients.json.before-upgrade",
        ]
    assert stopped >= 5


# ---------------------------------------------------------------- settings

OLD_SETTINGS = {
    "default_client": "main",
    "root_domain": "example.com",
    "isolation_level": "medium",
    "key_rotation_days": 90,
    "clients_file": "/opt/agency_stack/multi_tenancy/clients.json",
    "paths": {"clients": "/opt/agency_stack/clients"},
    "security": {"enforce_isolation": True, "isolation_strategies": {"soft": "shared"}},
}


def test_the_settings_of_an_earlier_installer_are_known_by_two_of_their_names() -> None:
    assert old_settings(OLD_SETTINGS) == {
        "default_client_id": "main",
        "root_domain": "example.com",
        "isolation_level": "medium",
    }
    assert old_settings({"default_client": "main", "clients_file": "x", "root_domain": None}) == {
        "default_client_id": "main"
    }
    for key in ("default_client", "clients_file"):
        assert old_settings({name: value for name, value in OLD_SETTINGS.items() if name != key}) is None
    assert old_settings({}) is None
