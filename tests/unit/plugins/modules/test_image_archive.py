# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module image_archive with a builder that writes a few bytes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._images import Recipe, archive_name, reference
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.modules import image_archive

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The archives that the module had built, in order."""
    names: list[str] = []

    def build(recipe: Recipe, architecture: str, directory: str) -> None:
        name = archive_name(recipe.name, architecture)
        names.append(name)
        Path(directory, f"{name}.sha256").write_text("0f\n")
        Path(directory, name).write_text("root")

    monkeypatch.setattr(image_archive, "build_archive", build)
    monkeypatch.setattr(image_archive, "missing_tools", lambda _recipes: [])
    return names


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    def call(**options: Any) -> dict[str, Any]:
        arguments = {"dest": str(tmp_path / "images"), "architecture": "amd64", **options}
        with patch_module_args(arguments), pytest.raises(SystemExit):
            image_archive.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    return call


def test_check_mode_then_build_then_nothing(built: list[str], run: Run, tmp_path: Path) -> None:
    planned = run(_ansible_check_mode=True)
    assert not (tmp_path / "images").exists()
    assert [image["sha256"] for image in planned["images"]] == [None, None]

    result = run()
    assert built == [archive_name("edge", "amd64"), archive_name("site", "amd64")]
    assert (result["changed"], result["changes"], result["diff"]) == (True, planned["changes"], planned["diff"])
    site = result["images"][1]
    assert (site["name"], site["image"], site["sha256"]) == ("site", reference("site"), "0f")
    assert site["archive"] == str(tmp_path / "images" / archive_name("site", "amd64"))
    assert "USER 65534:65534" in site["changes"]

    assert not run()["changed"]
    assert len(built) == 2


def test_only_the_named_images_for_the_kernels_name_of_the_architecture(built: list[str], run: Run) -> None:
    result = run(names=["edge"], architecture="aarch64")
    assert built == [archive_name("edge", "arm64")]
    assert [image["name"] for image in result["images"]] == ["edge"]


def test_force_builds_again(built: list[str], run: Run) -> None:
    run(names=["site"])
    assert run(names=["site"], force=True)["changes"][0]["action"] == "recreate"
    assert len(built) == 2


def test_an_archive_without_its_digest_and_the_rest_of_a_killed_run_are_replaced(
    built: list[str], run: Run, tmp_path: Path
) -> None:
    rest = tmp_path / "images" / ".build-x"
    rest.mkdir(parents=True)
    (tmp_path / "images" / archive_name("site", "amd64")).write_text("half")
    run(names=["site"])
    assert built == [archive_name("site", "amd64")]
    assert not rest.exists()


def test_two_runs_at_once_build_once(built: list[str], tmp_path: Path) -> None:
    dest = str(tmp_path)
    inside, done = threading.Event(), threading.Event()

    def second() -> None:
        inside.set()
        with image_archive.building(dest, check_mode=False):
            assert image_archive.complete_archives(dest) == {"a.tar"}
        done.set()

    with image_archive.building(dest, check_mode=False):
        other = threading.Thread(target=second)
        other.start()
        inside.wait()
        assert not done.wait(0.2)
        (tmp_path / "a.tar").touch()
        (tmp_path / "a.tar.sha256").touch()
    other.join()
    assert done.is_set()


def test_missing_tools_stop_the_build_before_it_begins(
    built: list[str], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_archive, "missing_tools", lambda _recipes: ["pip (a)", "mmdebstrap (b)"])
    assert run(_ansible_check_mode=True)["changed"]
    result = run()
    assert result["failed"]
    assert result["msg"].startswith("The built-in images cannot be built without pip (a) and mmdebstrap (b); ")
    assert built == []


def test_a_failed_build_fails_the_task_with_its_sentence(
    built: list[str], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: Any) -> None:
        raise TenancyError("The image x cannot be built: no network.")

    monkeypatch.setattr(image_archive, "build_archive", fail)
    result = run(names=["site"])
    assert (result["failed"], result["msg"]) == (True, "The image x cannot be built: no network.")
    assert not result["changed"]
