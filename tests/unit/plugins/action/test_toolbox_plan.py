# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is installed on the host for its operators, and in which order."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.action import toolbox as action
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import Layout
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._toolbox import (
    SCRIPTS,
    Installed,
    Toolbox,
    plan_toolbox,
)

WANTED = Toolbox(Layout("/srv/a", "/var/log/a"), "v1", "r1", "/usr/bin/python3.11")


def installed(wanted: Toolbox) -> Installed:
    return Installed(frozenset({wanted.version, wanted.venv}), frozenset(), wanted.links(), wanted.scripts())


def test_bare_host_gets_all_and_then_nothing_more() -> None:
    changes = plan_toolbox(WANTED, Installed())
    kinds = [change.kind for change in changes]
    assert kinds == ["toolbox", "virtualenv", *["script"] * len(SCRIPTS), "link", "link"]
    assert plan_toolbox(WANTED, installed(WANTED)) == []


@pytest.mark.parametrize(
    ("new", "created", "deleted", "links"),
    [
        ({"version": "v2"}, ["v2"], ["v1"], ["current"]),
        ({"requirements": "r2"}, [None], [WANTED.venv], ["venv"]),
        ({"python": "/usr/bin/python3.13"}, [None], [WANTED.venv], ["venv"]),
    ],
)
def test_what_differs_is_made_switched_and_the_old_removed(
    new: dict[str, str], created: list[str | None], deleted: list[str], links: list[str]
) -> None:
    wanted = dataclasses.replace(WANTED, **new)
    changes = [
        (change.action, change.kind, Path(change.name).name) for change in plan_toolbox(wanted, installed(WANTED))
    ]
    kind = "toolbox" if created[0] else "virtualenv"
    assert changes == [
        *(("create", kind, name or wanted.venv) for name in created),
        *(("update", "link", name) for name in links),
        *(("delete", "toolbox", name) for name in deleted),
    ]


def test_what_a_killed_run_left_is_made_anew_or_removed() -> None:
    actual = dataclasses.replace(
        installed(WANTED), complete=frozenset({"v1"}), rest=frozenset({WANTED.venv, ".new", "venv-old"}), links={}
    )
    changes = [(change.action, Path(change.name).name) for change in plan_toolbox(WANTED, actual)]
    assert changes == [
        ("create", WANTED.venv),
        ("create", "venv"),
        ("create", "current"),
        ("delete", ".new"),
        ("delete", "venv-old"),
    ]


def test_scripts_hand_on_every_argument_as_it_is(tmp_path: Path) -> None:
    root = tmp_path / "it's a $(root)"
    layout = Layout(str(root), "/log dir")
    python = root / "multi_tenancy" / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    script = tmp_path / "x.sh"
    script.write_text(dataclasses.replace(WANTED, layout=layout).scripts()[layout.base("scripts", "add_client.sh")])
    done = subprocess.run(["/bin/sh", script, "a b", "", "$(id)"], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[2:] == [
        "--root",
        str(root),
        "--log-dir",
        "/log dir",
        "add_client",
        "a b",
        "",
        "$(id)",
        "",
    ]


def test_version_is_that_of_the_files_alone(tmp_path: Path) -> None:
    files = action.collect(action.SOURCE)
    assert {"tools/client.py", "ansible.cfg", "requirements/runtime.txt", "plugins/modules/toolbox.py"} <= files.keys()
    assert not [name for name in files if "__pycache__" in name or name.startswith("tests")]
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    copy = action.collect(tmp_path)
    assert action.digest(copy) == action.digest(files)
    (tmp_path / "tools" / "client.py").write_text("")
    assert action.digest(action.collect(tmp_path)) != action.digest(files)
