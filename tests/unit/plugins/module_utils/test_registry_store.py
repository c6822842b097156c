# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The registry's file: read as it was written, refused when damaged, left as it is then."""

from __future__ import annotations

import errno
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._files import locked
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry import empty_document
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry_store import (
    GENERATIONS,
    as_json,
    generations,
    load,
    save,
)
from ansible_collections.agency_stack.multi_tenancy.tests.unit.helpers import Killed, Saboteur, tree

DAMAGED = {
    "empty": b"",
    "half": b'{"version": 1, "clients": [{"client_id"',
    "NUL bytes after a crash": b"\0" * 512,
    "not UTF-8": b'{"version": 1, "clients": ["\xff"]}',
    "endless nesting": b"[" * 100_000,
    "another thing": b'{"a": 1}',
    "later version": b'{"version": 99, "clients": []}',
}


def test_what_was_saved_is_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "clients.json"
    document = empty_document() | {"note": "\N{SNOWMAN}"}
    save(str(path), document)
    assert load(str(path)) == document
    assert path.read_text(encoding="utf-8") == as_json(document)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_without_a_file_there_are_no_clients(tmp_path: Path) -> None:
    assert load(str(tmp_path / "clients.json")) == {"version": 1, "clients": []}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_named_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "clients.json"
    path.write_bytes(content)
    with pytest.raises(TenancyError) as refused:
        load(str(path))
    assert str(path) in str(refused.value)
    assert path.read_bytes() == content


def test_the_place_of_the_damage_is_told(tmp_path: Path) -> None:
    path = tmp_path / "clients.json"
    path.write_text('{"version": 1,\n "clients": [,]}', encoding="utf-8")
    with pytest.raises(TenancyError, match="at line 2, column 14"):
        load(str(path))


def test_the_text_is_json_that_people_can_read() -> None:
    text = as_json({"version": 1, "clients": [{"domain": "\N{SNOWMAN}.example"}]})
    assert json.loads(text)["version"] == 1
    assert "\N{SNOWMAN}" in text
    assert text.count("\n") > 3


# ---------------------------------------------------------------- damage that still parses, or nearly

ENTRY = (
    '{"client_id": "a", "domain": "a.example", "aliases": [], "isolation_level": "medium", "services": {}, '
    '"state": "present", "index": 1, "subnet": "10.1.0.0/28", "uid": 200001, "gid": 200001%s}'
)
WHOLE = '{"version": 1, "clients": [' + ENTRY % "" + "]}\n"
ONE = json.loads(WHOLE)

REFUSED: dict[str, str] = {
    "key twice in the document": '{"version": 1, "version": 1, "clients": []}',
    "key twice in a client": '{"version": 1, "clients": [' + ENTRY % ', "uid": 200002' + "]}",
    "key twice far inside": '{"version": 1, "clients": [' + ENTRY % ', "x": [{"a": 1, "a": 2}]' + "]}",
    "client twice": '{"version": 1, "clients": [' + ENTRY % "" + ", " + ENTRY % "" + "]}",
    "NaN": '{"version": 1, "clients": [' + ENTRY % ', "x": NaN' + "]}",
    "infinity": '{"version": 1, "clients": [' + ENTRY % ', "x": -Infinity' + "]}",
    "number that becomes infinity": '{"version": 1, "clients": [' + ENTRY % ', "x": 1e999' + "]}",
    "number of too many digits": '{"version": 1, "clients": [' + ENTRY % (', "x": ' + "9" * 5000) + "]}",
    "index of too many digits": WHOLE.replace('"index": 1', '"index": ' + "9" * 5000),
    "index in words": WHOLE.replace('"index": 1', '"index": "1"'),
    "endless lists": '{"version": 1, "clients": [' + ENTRY % (', "x": ' + "[" * 99999 + "]" * 99999) + "]}",
    "endless mappings": '{"version": 1, "clients": [' + ENTRY % (', "x": ' + '{"a":' * 9999 + "1" + "}" * 9999) + "]}",
    "nesting that JSON reads and Python cannot copy": (
        '{"version": 1, "clients": [' + ENTRY % (', "x": ' + "[" * 600 + "]" * 600) + "]}"
    ),
    "version 2": WHOLE.replace('"version": 1', '"version": 2'),
    "version in words": WHOLE.replace('"version": 1', '"version": "1"'),
    "byte order mark": "\ufeff" + WHOLE,
    "two documents": WHOLE + WHOLE,
    "a comment": "// mine\n" + WHOLE,
    "id that leaves its folder": WHOLE.replace('"a"', '"../a"', 1),
    "id that is reserved": WHOLE.replace('"client_id": "a"', '"client_id": "all"'),
    "subnet with host bits": WHOLE.replace("10.1.0.0/28", "10.1.0.1/28"),
    "subnet of the other family": WHOLE.replace("10.1.0.0/28", "fd00::/64"),
    "unknown state": WHOLE.replace('"present"', '"gone"'),
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_trusted_is_refused_in_one_line_and_left_byte_for_byte(tmp_path: Path, text: str) -> None:
    path = tmp_path / "clients.json"
    path.write_text(text, encoding="utf-8")
    before = tree(tmp_path)
    with pytest.raises(TenancyError) as refused:
        load(str(path))
    assert str(path) in str(refused.value)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 600
    assert tree(tmp_path) == before


@pytest.mark.parametrize("size", range(0, len(WHOLE) - 2, 7))
def test_a_file_that_was_cut_off_anywhere_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "clients.json"
    path.write_text(WHOLE[:size], encoding="utf-8")
    with pytest.raises(TenancyError, match="is damaged at line 1, column"):
        load(str(path))
    assert path.read_text(encoding="utf-8") == WHOLE[:size]


# What a program could hand over -> what the refusal says.
UNWRITABLE: dict[str, tuple[Any, str]] = {
    "NaN": (float("nan"), "cannot be written as JSON"),
    "half a character": ("\ud800", "cannot be written as JSON"),
    "an object": (object(), "cannot be written as JSON"),
    "keys that are one in JSON": ({None: 1, "null": 2}, "stands in one object twice"),
}


@pytest.mark.parametrize(("value", "named"), UNWRITABLE.values(), ids=UNWRITABLE)
def test_what_could_not_be_read_again_is_never_written(tmp_path: Path, value: Any, named: str) -> None:
    path = tmp_path / "clients.json"
    save(str(path), ONE)
    before = tree(tmp_path)
    with pytest.raises(TenancyError, match=named):
        save(str(path), ONE | {"note": value})
    assert tree(tmp_path) == before


# ---------------------------------------------------------------- generations


def kept(path: Path) -> list[int]:
    """The numbers that the kept generations carry in `note`."""
    return [json.loads(Path(name).read_text(encoding="utf-8"))["note"] for name in generations(str(path))]


def test_ten_generations_are_kept_the_newest_ones(tmp_path: Path) -> None:
    path = tmp_path / "clients.json"
    for number in range(15):
        save(str(path), ONE | {"note": number})
        assert load(str(path))["note"] == number
        assert kept(path) == list(range(max(0, number - 10), number))
    assert GENERATIONS == 10
    directory = path.parent / "generations"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o750
    assert {stat.S_IMODE(entry.stat().st_mode) for entry in directory.iterdir()} == {0o640}


def test_what_else_lies_among_the_generations_is_left(tmp_path: Path) -> None:
    path = tmp_path / "clients.json"
    save(str(path), ONE)
    note = tmp_path / "generations" / "README"
    note.parent.mkdir(exist_ok=True)
    note.write_text("mine", encoding="utf-8")
    for number in range(12):
        save(str(path), ONE | {"note": number})
    assert note.read_text(encoding="utf-8") == "mine"
    assert len(generations(str(path))) == 10


@pytest.mark.parametrize("folder", ["plain", "with a blank and 'quotes'"])
@pytest.mark.parametrize("damaged", [0, 1, 9])
def test_the_error_names_the_newest_good_generation_and_a_command_that_restores_it(
    tmp_path: Path, folder: str, damaged: int
) -> None:
    path = tmp_path / folder / "clients.json"
    for number in range(11):
        save(str(path), ONE | {"note": number})
    names = generations(str(path))
    for name in names[len(names) - damaged :]:
        Path(name).write_text("{", encoding="utf-8")
    path.write_text('{"version": 1,', encoding="utf-8")
    with pytest.raises(TenancyError) as refused:
        load(str(path))
    message = str(refused.value)
    assert f"The newest good generation is {names[-1 - damaged]};" in message
    subprocess.run(["sh", "-c", message.partition("restore it with: ")[2]], check=True)
    assert load(str(path))["note"] == 9 - damaged
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_without_a_good_generation_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "clients.json"
    for dummy in range(3):
        save(str(path), ONE)
    for name in (str(path), *generations(str(path))):
        Path(name).write_text("[", encoding="utf-8")
    with pytest.raises(TenancyError) as refused:
        load(str(path))
    assert str(refused.value).endswith("restore it from a copy.")


# ---------------------------------------------------------------- a writer that is stopped

CALLS = ("mkdir", "listdir", "unlink", "link", "open", "fsync", "fchmod", "replace")

# What happens at the n-th system call -> whether it goes on at all later ones.
FAULTS: dict[str, tuple[BaseException, bool]] = {
    "killed": (Killed(), True),
    "disk full": (OSError(errno.ENOSPC, "No space left on device"), False),
    "disk full for good": (OSError(errno.ENOSPC, "No space left on device"), True),
    "disk broken": (OSError(errno.EIO, "Input/output error"), False),
    "disk read-only from here": (OSError(errno.EROFS, "Read-only file system"), True),
}


@pytest.mark.parametrize("earlier", [0, 1, 2, 12])
@pytest.mark.parametrize(("fault", "lasts"), FAULTS.values(), ids=FAULTS)
def test_a_writer_stopped_at_any_system_call_leaves_the_old_or_the_new_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: int, fault: BaseException, lasts: bool
) -> None:
    origin = tmp_path / "origin"
    for number in range(earlier):
        save(str(origin / "clients.json"), ONE | {"note": number})
    old = load(str(origin / "clients.json"))
    new = ONE | {"note": "new"}
    stopped = 0
    for at in itertools.count(1):
        path = tmp_path / str(at) / "clients.json"
        if earlier:
            shutil.copytree(origin, path.parent)
        with monkeypatch.context() as patch:
            saboteur = Saboteur(patch, CALLS, at, fault, lasts)
            try:
                save(str(path), new)
            except type(fault) as raised:
                assert raised is fault
            if saboteur.count < at:
                break
        stopped += 1
        assert load(str(path)) in (old, new)
        for name in generations(str(path)):
            assert load(name)["version"] == 1
        # The next run is as if nothing had been.
        after = ONE | {"note": "after"}
        save(str(path), after)
        assert load(str(path)) == after
        names = sorted(entry.name for entry in path.parent.iterdir())
        assert names in (["clients.json", "generations"], ["clients.json"])
        kept_now = generations(str(path))
        assert len(kept_now) <= GENERATIONS
        assert sorted(path.parent.glob("generations/*")) == [Path(name) for name in kept_now]
    assert stopped >= 9
    assert load(str(path)) == new


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 KiB. Needs root."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Leave not one byte."""
    ballast = disk / "ballast"
    with pytest.raises(OSError, match="No space left"), ballast.open("wb", buffering=0) as handle:
        while True:
            handle.write(b"x" * 512)
    return ballast


def test_on_a_disk_full_to_the_brim_the_old_registry_stands(small_disk: Path) -> None:
    path = small_disk / "multi_tenancy" / "clients.json"
    for number in range(3):
        save(str(path), ONE | {"note": number})
    ballast = fill(small_disk)
    for dummy in range(2):
        with pytest.raises(OSError, match="No space left on device"):
            save(str(path), ONE | {"note": "new"})
        assert load(str(path))["note"] == 2
        assert sorted(entry.name for entry in path.parent.iterdir()) == ["clients.json", "generations"]
    ballast.unlink()
    save(str(path), ONE | {"note": "new"})
    assert (load(str(path))["note"], kept(path)) == ("new", [0, 1, 2])


def save_for_ever(path: str, number: int) -> None:
    while True:
        number += 1
        with locked(path + ".lock"):
            save(path, ONE | {"note": number, "ballast": "x" * 50_000})


def test_a_writer_killed_at_random_moments_never_leaves_half_a_registry(tmp_path: Path) -> None:
    """Real processes, real SIGKILL."""
    path = tmp_path / "clients.json"
    save(str(path), ONE | {"note": 0})
    chance = random.Random(20260131)
    fork = multiprocessing.get_context("fork")
    seen = [0]
    for dummy in range(600 if os.environ.get("TENANCY_FULL") else 60):
        writer = fork.Process(target=save_for_ever, args=(str(path), seen[-1]))
        writer.start()
        time.sleep(chance.uniform(0.003, 0.03))
        writer.kill()
        writer.join()
        assert writer.exitcode == -signal.SIGKILL
        seen.append(load(str(path))["note"])
        assert all(load(name)["version"] == 1 for name in generations(str(path)))
    assert seen == sorted(seen)
    # How many get through depends on how busy the machine is.
    assert seen[-1] > 5
    save(str(path), ONE)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["clients.json", "clients.json.lock", "generations"]
    assert len(generations(str(path))) <= GENERATIONS
