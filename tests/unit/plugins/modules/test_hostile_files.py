# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Damaged and hostile files of the platform's own: refused in plain sentences, at once, and left byte for byte."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._config import effective_config
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry_store import as_json
from ansible_collections.agency_stack.multi_tenancy.plugins.modules import (
    client_registry,
    client_registry_info,
    platform_config,
)
from ansible_collections.agency_stack.multi_tenancy.tests.unit.helpers import registered, tree

Run = Callable[..., dict[str, Any]]

# Longer than Python writes out, in a form in which it still reads it.
HUGE = "0x" + "f" * 5000


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    """A file that makes its reader work without end fails its test."""

    def over(number: int, frame: object) -> None:
        pytest.fail("it took longer than 10 s")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def laughs(indent: str, first: str) -> str:
    """Nine lists, each of nine of the one before: a short text that means 387,420,489 items."""
    lines = [f"{indent}{first}&l0 [x, x, x, x, x, x, x, x, x]"]
    for number in range(1, 9):
        lines.append(f"{indent}- &l{number} [{', '.join([f'*l{number - 1}'] * 9)}]")
    return "\n".join(lines) + "\n"


def assert_told_well(result: dict[str, Any]) -> None:
    """Each fault is one printable sentence; nothing came out as a traceback."""
    assert result.get("failed"), "it was taken"
    assert "exception" not in result
    for fault in result.get("faults") or [result["msg"]]:
        assert fault.isprintable(), fault
        assert len(fault) < 500, fault
        assert fault.endswith("."), fault


# ---------------------------------------------------------------- config.yaml

SETTINGS: dict[str, bytes] = {
    "key twice": b"root_domain: a.example\nroot_domain: b.example\n",
    "key twice further in": b"edge:\n  http_port: 81\n  http_port: 82\n",
    "service twice": b"services:\n  site: {mem_limit: 64m}\n  site: {mem_limit: 65m}\n",
    "key twice in two spellings": b"root_domain: a.example\n'root_domain': b.example\n",
    "NUL": b"root_domain: a\0b\n",
    "NUL bytes after a crash": b"\0" * 512,
    "control character": b'root_domain: "a\x07"\n',
    "not UTF-8": b"root_domain: \xff\n",
    "UTF-16": "root_domain: a.example\n".encode("utf-16"),
    "half a character": b'root_domain: "\\ud800"\n',
    "half a character as key": b'"\\ud800": 1\n',
    "NaN": b"health_timeout: .nan\n",
    "infinity": b"uid_base: -.inf\n",
    "number that becomes infinity": b"health_timeout: 1.0e+999\n",
    "number of too many digits": b"uid_base: " + b"9" * 5000 + b"\n",
    "endless lists": b"services: " + b"[" * 100_000 + b"\n",
    "deep lists": b"client_services: " + b"[" * 600 + b"]" * 600 + b"\n",
    "deep lists that can be read": b"services: {site: {environment: " + b"[" * 90 + b"]" * 90 + b"}}\n",
    "deep mappings": b"services: " + b"{a: " * 5000 + b"1" + b"}" * 5000 + b"\n",
    "deep blocks": "\n".join(" " * depth + "a:" for depth in range(2000)).encode() + b"\n",
    "billion laughs": ("client_services:\n" + laughs("  ", "- ")).encode(),
    "billion laughs in a service": ("services:\n  site:\n    command:\n" + laughs("      ", "- ")).encode(),
    "mapping that holds itself": b"services: &a {site: *a}\n",
    "list that holds itself": b"client_services: &a [*a]\n",
    "unknown anchor": b"root_domain: *nobody\n",
    "code": b"root_domain: !!python/object/apply:os.system ['touch /tmp/reached']\n",
    "a name in code": b"root_domain: !!python/name:os.system\n",
    "an object": b"!!python/object:os.x {}\n",
    "code under another name": b"%TAG ! tag:yaml.org,2002:python/\n---\nroot_domain: !name:os.system x\n",
    "Ansible's tags": b"root_domain: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n",
    "template": b"root_domain: '{{ 7 * 7 }}'\n",
    "bytes": b"root_domain: !!binary AAECAw==\n",
    "set": b"client_services: !!set {site}\n",
    "date": b"root_domain: 2026-01-31\n",
    "date that is none": b"root_domain: 2026-13-41\n",
    "two documents": b"root_domain: a.example\n---\nroot_domain: b.example\n",
    "tab": b"edge:\n\thttp_port: 80\n",
    "later YAML": b"%YAML 9.9\n---\nroot_domain: a.example\n",
    "list": b"- a\n",
    "scalar": b"hello\n",
    "list as key": b"? [a]\n: 1\n",
    "NaN as key": b".nan: 1\n",
    "nothing as key": b"~: 1\n",
    "control characters as key": b'"\\e[2J\\n": 1\n',
    "long key": b"a" * 1000 + b": 1\n",
    "long value": b"root_domain: " + b"a" * 200_000 + b"\n",
    "yes as id": b"default_client_id: yes\n",
    "negative port": b"edge: {http_port: -1}\n",
    **{
        f"huge number as {where}": text.replace("HUGE", HUGE).encode()
        for where, text in {
            "text": "root_domain: HUGE\n",
            "list": "client_services: HUGE\n",
            "mapping": "edge: HUGE\n",
            "services": "services: HUGE\n",
            "port": "services: {site: {port: HUGE}}\n",
            "processes": "services: {site: {pids_limit: HUGE}}\n",
            "item": "services: {site: {command: [HUGE]}}\n",
            "environment": "services: {site: {environment: {A: HUGE}}}\n",
            "health check": "services: {site: {healthcheck: HUGE}}\n",
            "key": "? HUGE\n: 1\n",
            "key of a service": "services: {site: {? HUGE : 1}}\n",
        }.items()
    },
}


@pytest.mark.parametrize("content", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("edit", [{}, {"root_domain": "new.example"}], ids=["read", "edited"])
def test_hostile_settings_are_refused_and_left(
    run_module: Run, tmp_path: Path, content: bytes, edit: dict[str, str]
) -> None:
    path = tmp_path / "root" / "multi_tenancy" / "config.yaml"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    before = tree(tmp_path)
    result = run_module(platform_config, set=edit)
    # An edit may mend the one line that is wrong; it never lets the rest pass.
    if result.get("failed") or not edit:
        assert_told_well(result)
        assert tree(tmp_path) == before
    else:
        assert content.startswith(b"root_domain: ") and content.count(b"\n") == 1


# What looks strange and means something plain.
PLAIN: dict[str, bytes] = {
    "byte order mark": "\ufeffroot_domain: a.example\n".encode(),
    "line ends of Windows": b"root_domain: a.example\r\nhealth_timeout: 5\r\n",
    "no line end": b"root_domain: a.example",
    "anchors": b"root_domain: &a a.example\nservices: {site: &b {mem_limit: 64m}, shop: {image: 'x:1', <<: *b}}\n",
    "JSON": b'{"root_domain": "a.example"}',
    "nothing else": b"root_domain: a.example\nservices:\nedge: ~\n",
}


@pytest.mark.parametrize("content", PLAIN.values(), ids=PLAIN)
def test_plain_settings_are_taken_and_left(run_module: Run, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "root" / "multi_tenancy" / "config.yaml"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    result = run_module(platform_config)
    assert not result.get("failed"), result["msg"]
    assert result["config"]["root_domain"] == "a.example"
    assert path.read_bytes() == content


# ---------------------------------------------------------------- clients.json

WHOLE = as_json({"version": 1, "clients": registered(effective_config([]), {"client_id": "acme"})})


def with_extra(text: str) -> bytes:
    """The registry with one more key in its client."""
    return WHOLE.replace('"client_id"', f'"x": {text}, "client_id"', 1).encode()


REGISTRIES: dict[str, bytes] = {
    "key twice": with_extra("1, " + '"x": 2'),
    "key twice far inside": with_extra('[{"a": [{"b": 1, "b": 2}]}]'),
    "key twice in two spellings": with_extra(r'{"a": 1, "\u0061": 2}'),
    "client twice": WHOLE.replace("[\n", '[\n{"client_id": "acme"},\n', 1).encode(),
    "NaN": with_extra("NaN"),
    "infinity": with_extra("-Infinity"),
    "number that becomes infinity": with_extra("1e999"),
    "number of too many digits": with_extra("9" * 5000),
    "index of too many digits": WHOLE.replace('"index": 1', '"index": ' + "9" * 5000).encode(),
    "uid of too many bits": WHOLE.replace('"uid": 1900000001', '"uid": ' + "9" * 4000).encode(),
    "endless lists": b"[" * 100_000,
    "deep lists": with_extra("[" * 600 + "]" * 600),
    "deep mappings": with_extra('{"a":' * 5000 + "1" + "}" * 5000),
    "byte order mark": b"\xef\xbb\xbf" + WHOLE.encode(),
    "UTF-16": WHOLE.encode("utf-16"),
    "not UTF-8": WHOLE.encode().replace(b"acme", b"\xff", 1),
    "NUL": with_extra('"a\0b"'),
    "NUL bytes after a crash": b"\0" * 512,
    "NUL at the end": WHOLE.encode() + b"\0",
    "half a character": WHOLE.replace('"domain": "acme.localhost"', r'"domain": "\ud800"').encode(),
    "YAML": b"version: 1\nclients: []\n",
    "YAML's anchors": b'{"version": 1, "clients": &a [*a]}',
    "a comment": b"// mine\n" + WHOLE.encode(),
    "two documents": (WHOLE + WHOLE).encode(),
    "empty": b"",
    "blank": b" \n",
    "a list of numbers": b"[1]",
    "null": b"null",
    "id that leaves its folder": WHOLE.replace('"acme"', '"../acme"', 1).encode(),
    "id that is a template": WHOLE.replace('"acme"', '"{{ 7 }}"', 1).encode(),
    "domain that breaks out of a rule": WHOLE.replace("acme.localhost", "x`) || HostRegexp(`.*").encode(),
    "domain that is no text": WHOLE.replace('"acme.localhost"', "7").encode(),
    "alias that breaks out of a rule": WHOLE.replace('"aliases": []', '"aliases": ["`"]').encode(),
    "alias that is no text": WHOLE.replace('"aliases": []', '"aliases": [7]').encode(),
    "subnet of everything": WHOLE.replace("10.217.0.0/28", "0.0.0.0/0").encode(),
    "uid of root": WHOLE.replace('"uid": 1900000001', '"uid": 0').encode(),
    "gid of root": WHOLE.replace('"gid": 1900000001', '"gid": 0').encode(),
    "negative uid": WHOLE.replace('"uid": 1900000001', '"uid": -1').encode(),
    "uid that is true": WHOLE.replace('"uid": 1900000001', '"uid": true').encode(),
    "negative index": WHOLE.replace('"index": 1', '"index": -1').encode(),
    "services that leave their folder": WHOLE.replace('"site": {}', '"../x": {}').encode(),
    "removal to nowhere": WHOLE.replace('"present"', '"absent", "removal": "burn"').encode(),
    "time of removal that leads elsewhere": WHOLE.replace('"present"', '"absent", "removed_at": "../../x"').encode(),
}


@pytest.mark.parametrize("content", REGISTRIES.values(), ids=REGISTRIES)
@pytest.mark.parametrize("edits", [[], [{"client_id": "new"}]], ids=["read", "edited"])
def test_a_hostile_registry_is_refused_and_left(
    run_module: Run, tmp_path: Path, config: dict[str, Any], content: bytes, edits: list[dict[str, str]]
) -> None:
    path = tmp_path / "root" / "multi_tenancy" / "clients.json"
    path.parent.mkdir(parents=True)
    (path.parent / "clients.json.lock").touch()
    path.write_bytes(content)
    before = tree(tmp_path)
    result = run_module(client_registry, config=config, clients=edits)
    assert_told_well(result)
    assert_told_well(run_module(client_registry_info))
    assert tree(tmp_path) == before


def test_the_registry_that_these_are_made_of_is_taken(run_module: Run, tmp_path: Path, config: dict[str, Any]) -> None:
    path = tmp_path / "root" / "multi_tenancy" / "clients.json"
    path.parent.mkdir(parents=True)
    path.write_text(WHOLE, encoding="utf-8")
    assert [client["client_id"] for client in run_module(client_registry_info)["clients"]] == ["acme"]
    assert run_module(client_registry, config=config, clients=[{"client_id": "new"}])["changed"]
    path.write_bytes(with_extra('{"a": [1, null, "x"]}'))
    assert not run_module(client_registry_info).get("failed")
