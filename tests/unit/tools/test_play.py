# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way of a value from make to a playbook: whatever it is, it arrives as it was typed, and nothing runs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.agency_stack.multi_tenancy.tools import play
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(play.ROOT)
BIN = Path(sys.executable).parent


class _Loader(yaml.SafeLoader):
    """Reads !unsafe as the text that it marks."""


_Loader.add_constructor("!unsafe", lambda loader, node: loader.construct_scalar(node))

HOSTILE = [
    "$(shell touch {0})",
    "${{shell touch {0}}}",
    "$$(touch {0})",
    "`touch {0}`",
    "; touch {0} #",
    "'; touch {0}; '",
    '"; touch {0}; "',
    "a\ntouch {0}\n",
    "a\\\n\ttouch {0}",
    "$(eval x:=$(shell touch {0}))",
    "--extra-vars=@{0}",
    "@{0}",
    "é$(info x)",
]


def options(argv: list[str], name: str) -> list[str]:
    return [arg.split("=", 1)[1] for arg in argv if arg.startswith(f"--{name}=")]


def command(**env: str) -> list[str]:
    return play.command("playbooks/x.yml", env, ROOT, Path("/venv/bin"))


def read(argv: list[str]) -> Any:
    return yaml.load(options(argv, "extra-vars")[0], Loader=_Loader)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))
def test_any_text_survives_as_an_unsafe_scalar(value: str) -> None:
    argv = command(CLIENT_ID=value)
    assert options(argv, "extra-vars")[0].startswith('{"multi_tenancy_client_id": !unsafe "')
    assert read(argv) == {"multi_tenancy_client_id": value}


def test_every_variable_has_its_extra_var() -> None:
    env = {name: f"value of {name}" for name in play.EXTRA_VARS} | {"FORCE": "true", "CUSTOM_CONFIG": __file__}
    assert read(command(**env)) == {f"multi_tenancy_{name.lower()}": value for name, value in env.items()}


def test_custom_config_is_named_from_where_it_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").touch()
    monkeypatch.chdir(tmp_path)
    assert read(command(CUSTOM_CONFIG="mine.yaml")) == {"multi_tenancy_custom_config": str(tmp_path / "mine.yaml")}


@pytest.mark.parametrize(("typed", "taken"), [("1", "true"), ("YES", "true"), ("0", "false")])
def test_force_is_on_or_off(typed: str, taken: str) -> None:
    assert read(command(FORCE=typed)) == {"multi_tenancy_force": taken}


def test_empty_counts_as_not_set() -> None:
    env = dict.fromkeys([*play.EXTRA_VARS, "INVENTORY", "LIMIT", "CHECK", "DIFF", "VERBOSE", "ANSIBLE_ARGS"], "")
    assert command(**env) == command()
    assert command() == [
        "/venv/bin/ansible-playbook",
        f"--inventory={ROOT}/inventory/localhost.yml",
        f"{ROOT}/playbooks/x.yml",
    ]


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"CHECK": "1"}, ["--check", "--diff"]),
        ({"CHECK": "1", "DIFF": "1"}, ["--check", "--diff"]),
        ({"CHECK": "0", "DIFF": "yes"}, ["--diff"]),
        ({"VERBOSE": "True"}, ["-v"]),
        ({"LIMIT": "--check"}, ["--limit=--check"]),
        ({"ANSIBLE_ARGS": "-vv --tags 'a b'"}, ["-vv", "--tags", "a b"]),
    ],
)
def test_options(env: dict[str, str], expected: list[str]) -> None:
    assert command(**env)[2:-1] == expected


def test_inventory_may_be_a_list_of_hosts_or_an_existing_file() -> None:
    assert options(command(INVENTORY="host1,host2"), "inventory") == ["host1,host2"]
    assert options(command(INVENTORY="inventory/localhost.yml"), "inventory") == ["inventory/localhost.yml"]


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"CHECK": "maybe"}, "CHECK is 'maybe'; it takes 1 (on) or 0 (off)."),
        ({"INVENTORY": "missing.yml"}, "There is no inventory 'missing.yml'"),
        ({"ANSIBLE_ARGS": "'open"}, "close its quotes"),
        ({"DOMAIN": "\udcff"}, "DOMAIN is not UTF-8 text"),
        ({"FORCE": "very"}, "FORCE is 'very'; it takes 1 (on) or 0 (off)."),
        ({"CUSTOM_CONFIG": "missing.yaml"}, "The settings 'missing.yaml' cannot be read (No such file or directory)"),
        ({"CUSTOM_CONFIG": "/"}, "cannot be read (Is a directory)"),
    ],
)
def test_faults_are_one_sentence(env: dict[str, str], message: str) -> None:
    with pytest.raises(play.UsageError) as caught:
        command(**env)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The Makefile and the real wrapper, in a folder where there is nothing to prepare."""
    for name in ("Makefile", "ansible.cfg", "inventory"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "play.py", tmp_path / "tools")
    bootstrap = tmp_path / "tools" / "bootstrap.sh"
    bootstrap.write_text("#!/bin/sh\n")
    bootstrap.chmod(0o755)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    return tmp_path


def run_make(checkout: Path, *variables: str, **env: str) -> subprocess.CompletedProcess[str]:
    outer = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}}
    return subprocess.run(
        ["make", "multi_tenancy", *variables],
        cwd=checkout,
        env={**outer, "TENANCY_PRINT_ARGV": "1", **env},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("pattern", HOSTILE)
@pytest.mark.parametrize("way", ["argument", "environment"])
def test_make_expands_nothing(checkout: Path, way: str, pattern: str) -> None:
    marker = checkout / "ran"
    value = pattern.format(marker)
    names = ["CLIENT_ID", "LIMIT"]
    if way == "argument":
        done = run_make(checkout, *(f"{name}={value}" for name in names))
    else:
        done = run_make(checkout, **dict.fromkeys(names, value))
    assert (done.returncode, done.stderr) == (0, "")
    argv = json.loads(done.stdout)
    assert read(argv) == {"multi_tenancy_client_id": value}
    assert options(argv, "limit") == [value]
    assert not marker.exists()


def test_the_marker_would_show_an_expansion(checkout: Path) -> None:
    marker = checkout / "ran"
    (checkout / "GNUmakefile").write_text("all:\n\t@true $(CLIENT_ID)\n")
    subprocess.run(["make", f"CLIENT_ID=$(shell touch {marker})"], cwd=checkout, check=True, capture_output=True)
    assert marker.exists()


def test_make_tells_no_aliases_from_none_named(checkout: Path) -> None:
    assert read(json.loads(run_make(checkout, "ALIASES=").stdout)) == {"multi_tenancy_aliases": ","}
    assert options(json.loads(run_make(checkout, ALIASES="").stdout), "extra-vars") == []


def test_make_refuses_a_mistyped_name(checkout: Path) -> None:
    done = run_make(checkout, "ISOLATON_LEVEL=hard")
    assert done.returncode == 2
    assert "There is no variable ISOLATON_LEVEL; make help lists them" in done.stderr


def run_playbook(checkout: Path, argv: list[str]) -> list[str]:
    """Run the command on a playbook that writes down what arrived: at once, and through another variable."""
    arrived = checkout / "arrived"
    name = "multi_tenancy_client_id"
    recorder = [
        {
            "hosts": "localhost",
            "gather_facts": False,
            "tasks": [
                {"ansible.builtin.set_fact": {"again": f"{{{{ {name} }}}}"}},
                {"ansible.builtin.copy": {"dest": str(arrived), "content": f"{{{{ [{name}, again] | to_json }}}}"}},
            ],
        }
    ]
    (checkout / "playbooks").mkdir()
    (checkout / "playbooks" / "x.yml").write_text(json.dumps(recorder))
    done = subprocess.run(
        [sys.executable, "-m", "ansible.cli.playbook", *argv[1:]],
        env=play.environment(os.environ, checkout) | {"ANSIBLE_STDOUT_CALLBACK": "default"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return list(json.loads(arrived.read_text()))


def test_ansible_templates_nothing(checkout: Path) -> None:
    marker = checkout / "ran"
    value = f"{{{{ lookup('pipe', 'touch {marker}') }}}}{{% raw %}}\n$(touch {marker}) é\x7f\U0001f600"
    argv = play.command("playbooks/x.yml", {"CLIENT_ID": value}, checkout, BIN)
    assert run_playbook(checkout, argv) == [value, value]
    assert not marker.exists()


def test_ansible_would_template_the_same_without_the_tag(checkout: Path) -> None:
    marker = checkout / "ran"
    env = {"CLIENT_ID": f"{{{{ lookup('pipe', 'touch {marker}') }}}}"}
    argv = [arg.replace("!unsafe ", "") for arg in play.command("playbooks/x.yml", env, checkout, BIN)]
    assert run_playbook(checkout, argv) == ["", ""]
    assert marker.exists()


def hang_up(_question: str) -> str:
    raise EOFError


def interrupt(_question: str) -> str:
    raise KeyboardInterrupt


# Variables, at a terminal, what is typed -> whether the question is put, and what the refusal says.
PURGES: dict[str, tuple[dict[str, str], bool, Any, bool, str | None]] = {
    "no purge": ({"CLIENT_ID": "acme"}, True, "x", False, None),
    "purge off": ({"CLIENT_ID": "acme", "PURGE": "0"}, True, "x", False, None),
    "purge off without a terminal": ({"PURGE": "no"}, False, "x", False, None),
    "id typed": ({"CLIENT_ID": "acme", "PURGE": "1"}, True, "acme", True, None),
    "another id typed": ({"CLIENT_ID": "acme", "PURGE": "1"}, True, "acm", True, "nothing was touched"),
    "nothing typed": ({"CLIENT_ID": "acme", "PURGE": "yes"}, True, "", True, "nothing was touched"),
    "yes typed": ({"CLIENT_ID": "acme", "PURGE": "true"}, True, "yes", True, "nothing was touched"),
    "upper case typed": ({"CLIENT_ID": "acme", "PURGE": "on"}, True, "ACME", True, "nothing was touched"),
    "end of input": ({"CLIENT_ID": "acme", "PURGE": "1"}, True, hang_up, True, "nothing was touched"),
    "interrupted": ({"CLIENT_ID": "acme", "PURGE": "1"}, True, interrupt, True, "nothing was touched"),
    "no terminal": ({"CLIENT_ID": "acme", "PURGE": "1"}, False, "acme", False, "add YES=1"),
    "said before": ({"CLIENT_ID": "acme", "PURGE": "1", "YES": "1"}, True, "x", False, None),
    "said before, no terminal": ({"CLIENT_ID": "acme", "PURGE": "1", "YES": "1"}, False, "x", False, None),
    "unsaid": ({"CLIENT_ID": "acme", "PURGE": "1", "YES": "0"}, True, "acme", True, None),
    "only looking": ({"CLIENT_ID": "acme", "PURGE": "1", "CHECK": "1"}, False, "x", False, None),
    "looking off": ({"CLIENT_ID": "acme", "PURGE": "1", "CHECK": "0"}, False, "x", False, "add YES=1"),
    "nobody named, nothing typed": ({"PURGE": "1"}, True, "", False, "name the client"),
    "nobody named": ({"PURGE": "1", "CLIENT_ID": ""}, False, "", False, "name the client"),
    "purge mistyped": ({"CLIENT_ID": "acme", "PURGE": "ture"}, True, "acme", False, "PURGE is 'ture'"),
    "yes mistyped": ({"CLIENT_ID": "acme", "PURGE": "1", "YES": "ja"}, True, "acme", False, "YES is 'ja'"),
}


@pytest.mark.parametrize(("env", "terminal", "typed", "asked", "refusal"), PURGES.values(), ids=PURGES)
def test_data_is_deleted_only_after_the_id_was_typed(
    env: dict[str, str], terminal: bool, typed: Any, asked: bool, refusal: str | None
) -> None:
    questions = []

    def ask(question: str) -> str:
        questions.append(question)
        return str(typed(question) if callable(typed) else typed)

    try:
        play.confirm_purge(env, ask, terminal)
    except play.UsageError as refused:
        assert refusal is not None
        assert refusal in str(refused)
    else:
        assert refusal is None
    assert len(questions) == asked
    assert all("all data of client acme" in question for question in questions)
