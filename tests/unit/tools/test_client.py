# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way of an option from a script on the host to a playbook."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._toolbox import SCRIPTS
from ansible_collections.agency_stack.multi_tenancy.tests.unit.helpers import registered
from ansible_collections.agency_stack.multi_tenancy.tools import client, play

HOSTILE = "{{ lookup('pipe', 'id') }} $(id) \" \\ \n é"


class _Loader(yaml.SafeLoader):
    """Reads !unsafe as the text that it marks."""


_Loader.add_constructor("!unsafe", lambda loader, node: loader.construct_scalar(node))


def variables(script: str, *arguments: str) -> dict[str, str]:
    env: dict[str, str] = client.variables(client.parser(script).parse_args(arguments), "/srv/agency")
    assert env.pop("AGENCY_ROOT") == "/srv/agency"
    return env


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that would have been run, by root."""
    commands: list[list[str]] = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(client, "keep_toolbox", lambda: None)
    monkeypatch.setattr(play, "hold_lock", lambda *_arguments: 0)
    monkeypatch.setattr(client, "run", lambda argv: commands.append(argv) or 0)
    return commands


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("add_client --client-id new", {"CLIENT_ID": "new"}),
        (
            "add_client --client-id new --domain new.test --isolation-level medium --aliases a.test,b.test "
            "--services site --restore-data latest --protected yes",
            {
                "CLIENT_ID": "new",
                "DOMAIN": "new.test",
                "ISOLATION_LEVEL": "medium",
                "ALIASES": "a.test,b.test",
                "SERVICES": "site",
                "RESTORE_DATA": "latest",
                "PROTECTED": "yes",
            },
        ),
        ("update_client --client-id=x --protected no", {"CLIENT_ID": "x", "PROTECTED": "no"}),
        ("update_client --client-id=x --aliases= --force", {"CLIENT_ID": "x", "ALIASES": ",", "FORCE": "1"}),
        ("suspend_client --client-id x --check", {"CLIENT_ID": "x", "CHECK": "1"}),
        ("resume_client --client-id x --diff --wait 5", {"CLIENT_ID": "x", "DIFF": "1"}),
        ("remove_client --client-id x --purge --yes", {"CLIENT_ID": "x", "PURGE": "1", "YES": "1"}),
        ("list_clients --json", {}),
        ("status", {}),
        ("logs --service site --lines 7 --verbose", {"SERVICE": "site", "LINES": "7", "VERBOSE": "1"}),
        ("restart --client-id x", {"CLIENT_ID": "x"}),
        (
            "multi_tenancy --default-client-id d --root-domain r.test --isolation-level soft --clients a,b,c"
            " --force --custom-config /etc/hostname",
            {
                "DEFAULT_CLIENT_ID": "d",
                "ROOT_DOMAIN": "r.test",
                "ISOLATION_LEVEL": "soft",
                "CLIENTS": "a,b,c",
                "FORCE": "1",
                "CUSTOM_CONFIG": "/etc/hostname",
            },
        ),
    ],
)
def test_options_become_variables(line: str, expected: dict[str, str]) -> None:
    assert variables(*line.split()) == expected


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("add_client", "required: --client-id"),
        ("add_client --client", "required: --client-id"),
        ("update_client --client-id=", "must not be empty"),
        ("update_client --client-id x --isolation-level none", "invalid choice: 'none'"),
        ("remove_client --client-id x --domain y.test", "unrecognized arguments: --domain"),
        ("suspend_client x", "required: --client-id"),
        ("logs --lines 0", "no whole number above 0"),
        ("logs --lines ٣", "no whole number above 0"),
        ("multi_tenancy --client-id x", "unrecognized arguments"),
        ("remove_client --client-id x --purge", "add --yes"),
        ("unknown", "invalid choice: 'unknown'"),
    ],
)
def test_wrong_usage_ends_with_2(
    started: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: str,
    said: str,
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    try:
        code = client.main(line.split())
    except SystemExit as exc:
        code = exc.code
    assert code == 2
    assert said in capsys.readouterr().err
    assert started == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_has_help_and_a_playbook(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        client.main([script, "--help"])
    assert caught.value.code == 0
    assert f"usage: {script}.sh" in capsys.readouterr().out
    assert (play.ROOT / "playbooks" / f"{script}.yml").is_file()
    assert script in client.USES


def test_values_arrive_as_they_were_typed(started: list[list[str]]) -> None:
    root = "/srv/{{ root }}"
    assert client.main(["--root", root, "--log-dir", HOSTILE, "add_client", f"--client-id={HOSTILE}"]) == 0
    (argv,) = started
    values: dict[str, Any] = {}
    for argument in argv:
        if argument.startswith("--extra-vars="):
            assert argument.count("!unsafe") >= 1
            values |= yaml.load(argument.partition("=")[2], Loader=_Loader)
    assert values == {
        "multi_tenancy_client_id": HOSTILE,
        "multi_tenancy_agency_root": root,
        "multi_tenancy_log_dir": HOSTILE,
        "multi_tenancy_from_script": "add_client.sh",
    }
    assert argv[-1] == str(play.ROOT / "playbooks" / "add_client.yml")


@pytest.mark.parametrize(("answer", "code"), [("x", 0), ("y", 2), ("", 2), (EOFError, 2), (KeyboardInterrupt, 2)])
def test_purge_asks_for_the_id(
    started: list[list[str]], monkeypatch: pytest.MonkeyPatch, answer: Any, code: int
) -> None:
    def ask(question: str) -> str:
        assert "client x" in question
        if not isinstance(answer, str):
            raise answer
        return answer

    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("builtins.input", ask)
    monkeypatch.setattr(sys, "stdin", Terminal())
    assert client.main(["remove_client", "--client-id", "x", "--purge"]) == code
    assert len(started) == (code == 0)


def test_only_root_gets_further(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert client.main(["list_clients"]) == 1
    assert "sudo" in capsys.readouterr().err


def test_list(
    started: list[list[str]], tmp_path: Path, config: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    document = {"version": 1, "clients": registered(config, {"client_id": "b"}, {"client_id": "a"})}
    path = tmp_path / "multi_tenancy" / "clients.json"
    path.parent.mkdir()
    path.write_text(json.dumps(document))
    assert client.main(["--root", str(tmp_path), "list_clients", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert (listed["version"], [one["client_id"] for one in listed["clients"]]) == (1, ["a", "b"])
    path.write_text("{")
    assert client.main(["--root", str(tmp_path), "list_clients"]) == 1
    assert "is damaged at line 1" in capsys.readouterr().err


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 4", 1), ("exit 99", 130), ("kill -9 $$", 1)])
def test_exit_code(script: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client.signal, "signal", lambda *_arguments: None)
    assert client.run(["/bin/sh", "-c", script]) == code


def test_environment_of_cron_is_enough() -> None:
    env = client.environment({"PATH": "/usr/bin"})
    assert "/usr/sbin" in env["PATH"].split(":")
    # The cache of images lies below it.
    assert Path(env["HOME"]).is_dir()
    assert (Path(env["ANSIBLE_COLLECTIONS_PATH"]) / "ansible_collections").is_dir()


def _hold(root: str, lock_dir: str, held: Any, leave: Any) -> None:
    play.hold_lock(root, 5, "add_client.sh", lock_dir)
    held.set()
    leave.wait(10)


def test_a_second_run_waits_and_names_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context = multiprocessing.get_context("fork")
    held, leave = context.Event(), context.Event()
    first = context.Process(target=_hold, args=("/srv/a", str(tmp_path), held, leave))
    first.start()
    assert held.wait(10)
    with pytest.raises(
        play.BusyError, match=rf"add_client.sh \(process {first.pid}, since .* is still at work after 0.2 s"
    ):
        play.hold_lock("/srv/a", 0.2, "status", str(tmp_path))
    assert capsys.readouterr().err.count("Waiting for add_client.sh") == 1
    os.close(play.hold_lock("/srv/b", 0, "another root", str(tmp_path)))
    leave.set()
    first.join()
    os.close(play.hold_lock("/srv/a", 1, "next", str(tmp_path)))
