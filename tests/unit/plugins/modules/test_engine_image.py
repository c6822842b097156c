# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module engine_image against a small engine of the test's own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.agency_stack.multi_tenancy.plugins.modules import engine_image
from docker.errors import APIError

Run = Callable[..., dict[str, Any]]


class FakeEngine:
    """Knows images by name; its registry serves some names and denies the others."""

    def __init__(self, tags: set[str], served: set[str]) -> None:
        self.tags, self.served = tags, served
        self.calls: list[tuple[Any, ...]] = []

    def images(self) -> list[dict[str, Any]]:
        self.calls.append(("images",))
        unnamed = {"Id": "sha256:0", "RepoTags": None, "RepoDigests": None}
        return [unnamed, *({"Id": f"sha256:{tag}", "RepoTags": [tag], "RepoDigests": []} for tag in self.tags)]

    def import_image_from_file(self, filename: str, repository: str, tag: str, changes: list[str]) -> str:
        self.calls.append(("import", filename, repository, tag, changes))
        if "RUN true" in changes:
            return json.dumps({"error": "run is not a valid change command"}) + "\r\n"
        self.tags.add(f"{repository}:{tag}")
        return json.dumps({"status": "sha256:1"}) + "\r\n"

    def pull(self, name: str, stream: bool, decode: bool) -> Iterator[dict[str, Any]]:
        assert stream
        assert decode
        self.calls.append(("pull", name))
        if name.startswith("denied/"):
            raise APIError("404", explanation="pull access denied for denied/x")
        yield {"status": "Pulling"}
        if name in self.served:
            self.tags.add(name)
        else:
            yield {"error": "manifest unknown", "errorDetail": {"message": "manifest unknown"}}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    fake = FakeEngine({"nginx:1.27"}, {"redis:7"})
    monkeypatch.setattr(engine_image, "connect_for", lambda _module, _docker_host: fake)
    return fake


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*images: dict[str, Any], **options: Any) -> dict[str, Any]:
        with patch_module_args({"images": list(images), **options}), pytest.raises(SystemExit):
            engine_image.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    return call


@pytest.fixture
def archive(tmp_path: Path) -> dict[str, str]:
    path = tmp_path / "site.tar"
    path.write_bytes(b"root")
    return {"archive": str(path), "sha256": hashlib.sha256(b"root").hexdigest()}


def test_nothing_to_do_costs_one_list_call(engine: FakeEngine, run: Run) -> None:
    result = run({"image": "nginx:1.27"}, {"image": "docker.io/library/nginx:1.27", "archive": "/missing.tar"})
    assert (result["changed"], result["changes"], result["diff"]) == (False, [], [])
    assert engine.calls == [("images",)]


def test_archives_are_imported_and_the_rest_is_pulled(engine: FakeEngine, run: Run, archive: dict[str, str]) -> None:
    wanted = [{"name": "site", "image": "own/site:1", **archive, "changes": ["USER 1"]}, {"image": "redis:7"}]
    planned = run(*wanted, _ansible_check_mode=True)
    assert engine.calls == [("images",)]
    result = run(*wanted)
    assert result["changed"]
    assert (result["changes"], result["diff"]) == (planned["changes"], planned["diff"])
    assert engine.calls[2:] == [("import", archive["archive"], "own/site", "1", ["USER 1"]), ("pull", "redis:7")]
    assert not run(*wanted)["changed"]


def test_check_mode_plans_everything_on_a_host_without_an_engine(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.setattr(engine_image, "connect_for", lambda _module, _docker_host: None)
    result = run({"image": "redis:7"}, {"image": "own/site:1", "archive": "/later.tar"}, _ansible_check_mode=True)
    assert [change["name"] for change in result["changes"]] == ["redis:7", "own/site:1"]


def test_one_failing_image_does_not_keep_the_others_away(engine: FakeEngine, run: Run, archive: dict[str, str]) -> None:
    result = run(
        {"image": "denied/x:1"},
        {"image": "unknown:1"},
        {"image": "own/a:1", "archive": "/missing.tar"},
        {"image": "own/b:1", "archive": archive["archive"], "sha256": "0" * 64},
        {"image": "own/c:1", "archive": archive["archive"], "changes": ["RUN true"]},
        {"image": "redis:7"},
    )
    assert result["failed"]
    assert [change["name"] for change in result["changes"]] == ["redis:7"]
    told = [failure["msg"] for failure in result["failures"]]
    assert [text.partition(" cannot be had: ")[0] for text in told] == [
        f"Image {name}" for name in ("denied/x:1", "unknown:1", "own/a:1", "own/b:1", "own/c:1")
    ]
    for text, reason in zip(
        told,
        [
            "pull access denied for denied/x; check its name",
            "manifest unknown; check its name",
            "its archive /missing.tar is missing; build it again.",
            "is not that of the file that was built; build it again.",
            "run is not a valid change command; build it again.",
        ],
        strict=True,
    ):
        assert reason in text


def test_an_image_that_must_be_there_already_is_not_pulled(engine: FakeEngine, run: Run) -> None:
    result = run({"image": "redis:7", "pull": "never"}, {"image": "nginx:1.27", "pull": "never"})
    assert result["failed"]
    assert len(result["faults"]) == 1
    assert result["msg"].startswith("Image redis:7 is not in the engine and its pull policy is 'never'")
    assert engine.calls == [("images",)]
