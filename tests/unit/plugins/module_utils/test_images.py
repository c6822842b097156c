# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The recipes of the built-in images and the plans that follow from them."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, cast

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils import _images
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._images import (
    ARCHITECTURES,
    BUILT_IN,
    SITE_SHARED_COMMAND,
    Image,
    Packages,
    Wheel,
    archive_name,
    familiar,
    plan_archives,
    plan_images,
    recipe_hash,
    reference,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import InvalidInput, TenancyError
from hypothesis import given
from hypothesis import strategies as st

DIGEST = "sha256:" + "a" * 64


def test_references_carry_the_version_and_the_hash_of_the_recipe() -> None:
    assert re.fullmatch(r"agency_stack/edge:3\.7\.15-[0-9a-f]{12}", reference("edge"))
    assert re.fullmatch(r"agency_stack/site:[0-9a-f]{12}", reference("site"))


def test_one_reference_but_one_archive_per_architecture() -> None:
    names = {archive_name("site", architecture) for architecture in ARCHITECTURES}
    assert names == {f"site-{recipe_hash(BUILT_IN['site'])}-{architecture}.tar" for architecture in ARCHITECTURES}


@pytest.mark.parametrize(
    "change",
    [
        {"files": {"/etc/nginx/nginx.conf": "other"}},
        {"changes": ("USER 1",)},
        {"directories": {"/tmp": 0o755}},
        {"ca_bundle": True},
        {"version": "1"},
        {"source": Packages(names=("nginx",), programs=("/usr/sbin/nginx",))},
        {"source": dataclasses.replace(cast(Packages, BUILT_IN["site"].source), suite="sid")},
    ],
    ids=["files", "changes", "directories", "ca_bundle", "version", "packages", "suite"],
)
def test_every_part_of_a_recipe_counts_in_its_hash(change: dict[str, Any]) -> None:
    recipe = BUILT_IN["site"]
    assert recipe_hash(dataclasses.replace(recipe, **change)) != recipe_hash(recipe)


def test_a_new_recipe_version_renames_every_image(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {reference(name) for name in BUILT_IN}
    monkeypatch.setattr(_images, "RECIPE_VERSION", _images.RECIPE_VERSION + 1)
    assert before.isdisjoint({reference(name) for name in BUILT_IN})


def test_an_unknown_image_is_named() -> None:
    with pytest.raises(TenancyError, match=r"no built-in image 'mail'; the built-in ones are edge, site\."):
        reference("mail")


@pytest.mark.parametrize("recipe", BUILT_IN.values(), ids=BUILT_IN)
def test_recipes_use_only_instructions_that_engine_20_10_imports(recipe: _images.Recipe) -> None:
    allowed = {"CMD", "ENTRYPOINT", "ENV", "EXPOSE", "LABEL", "ONBUILD", "USER", "VOLUME", "WORKDIR"}
    assert {change.split()[0] for change in recipe.changes} <= allowed
    assert recipe.name in BUILT_IN


def test_wheels_are_pinned_for_every_architecture() -> None:
    for recipe in BUILT_IN.values():
        if isinstance(recipe.source, Wheel):
            assert re.fullmatch(r"[a-z-]+==[0-9.]+", recipe.source.requirement)
            assert recipe.source.requirement.endswith(f"=={recipe.version}")
            assert set(recipe.source.sha256) == set(ARCHITECTURES)
            assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in recipe.source.sha256.values())


def test_the_site_can_be_told_to_serve_all_clients() -> None:
    recipe = BUILT_IN["site"]
    assert 'CMD ["-c", "/etc/nginx/nginx.conf"]' in recipe.changes
    option, path = SITE_SHARED_COMMAND
    assert (option, path in recipe.files) == ("-c", True)


FAMILIAR = [
    ("nginx", "nginx:latest"),
    ("nginx:1.27", "nginx:1.27"),
    ("docker.io/library/nginx:1.27", "nginx:1.27"),
    ("docker.io/agency/site", "agency/site:latest"),
    ("registry.example.com:5000/site", "registry.example.com:5000/site:latest"),
    ("registry.example.com:5000/site:2", "registry.example.com:5000/site:2"),
    (f"nginx@{DIGEST}", f"nginx@{DIGEST}"),
    (f"nginx:1.27@{DIGEST}", f"nginx@{DIGEST}"),
    (f"registry.example.com:5000/site@{DIGEST}", f"registry.example.com:5000/site@{DIGEST}"),
]


@pytest.mark.parametrize(("text", "expected"), FAMILIAR)
def test_familiar_names_are_those_that_the_engine_lists(text: str, expected: str) -> None:
    assert familiar(text) == expected
    assert familiar(expected) == expected


PRESENT = {"nginx:latest", f"nginx@{DIGEST}", "agency_stack/site:1", "sha256:1234"}
PLANS = [
    ([], []),
    ([Image("nginx")], []),
    ([Image("docker.io/library/nginx:latest")], []),
    ([Image(f"nginx:1.27@{DIGEST}")], []),
    ([Image("sha256:1234")], []),
    ([Image("nginx", pull="never")], []),
    ([Image("agency_stack/site:1", archive="/a.tar")], []),
    ([Image("agency_stack/site:2", archive="/a.tar")], [("agency_stack/site:2", {"archive": "/a.tar"})]),
    ([Image("redis:7")], [("redis:7", {"pull": "redis:7"})]),
    ([Image("redis"), Image("redis:latest")], [("redis", {"pull": "redis"})]),
]


@pytest.mark.parametrize(("wanted", "expected"), PLANS)
def test_plan_images(wanted: list[Image], expected: list[tuple[str, dict[str, str]]]) -> None:
    changes = plan_images(wanted, PRESENT)
    assert [(change.name, change.after) for change in changes] == expected
    assert all((change.action, change.kind, change.before) == ("create", "image", None) for change in changes)


def test_images_that_can_never_be_had_are_all_told_at_once() -> None:
    wanted = [Image("a:1", pull="never"), Image(f"b@{DIGEST}", archive="/b.tar"), Image("c:1")]
    with pytest.raises(InvalidInput) as caught:
        plan_images(wanted, set())
    assert len(caught.value.faults) == 2
    assert "pull policy is 'never'" in caught.value.faults[0]
    assert "names a digest" in caught.value.faults[1]


names = st.sampled_from([text for text, _familiar in FAMILIAR])


@given(st.lists(names, max_size=8), st.lists(names, max_size=8))
def test_after_a_plan_nothing_is_left_to_do(wanted: list[str], present: list[str]) -> None:
    images = [Image(name) for name in wanted]
    have = {familiar(name) for name in present}
    changes = plan_images(images, have)
    assert plan_images(images, have | {familiar(change.name) for change in changes}) == []
    assert len({familiar(change.name) for change in changes}) == len(changes)


def test_plan_archives_builds_what_is_missing_and_with_force_everything() -> None:
    edge, site = archive_name("edge", "amd64"), archive_name("site", "amd64")

    def plan(existing: set[str], force: bool = False) -> list[tuple[str, str]]:
        return [(c.action, c.name) for c in plan_archives(["edge", "site", "edge"], "amd64", existing, force)]

    assert plan(set()) == [("create", edge), ("create", site)]
    assert plan({edge}) == [("create", site)]
    assert plan({edge, site, "other"}) == []
    assert plan({archive_name("edge", "arm64")}) == [("create", edge), ("create", site)]
    assert plan({edge}, force=True) == [("recreate", edge), ("create", site)]
