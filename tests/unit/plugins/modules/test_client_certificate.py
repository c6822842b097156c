# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module client_certificate on real files and real keys."""

from __future__ import annotations

import datetime
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._certificates import (
    Pair,
    authority_identifier,
    fits,
    issue,
    make_authority,
    read_certificate,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.modules import client_certificate
from ansible_collections.agency_stack.multi_tenancy.tests.unit.fake_engine import FakeEngine
from ansible_collections.agency_stack.multi_tenancy.tests.unit.helpers import ladder, registered, tree

Run = Callable[..., dict[str, Any]]
NOW = datetime.datetime.now(datetime.UTC)


@pytest.fixture
def clients(config: dict[str, Any]) -> list[dict[str, Any]]:
    return registered(config, {"client_id": "a", "domain": "a.example"}, {"client_id": "b", "aliases": ["*.b.example"]})


@pytest.fixture(autouse=True)
def authority(tmp_path: Path, clients: list[dict[str, Any]]) -> Path:
    """What the roles made before; the folder of the authority."""
    for client in clients:
        (tmp_path / "root" / "clients" / client["client_id"] / "certs").mkdir(parents=True)
    folder = tmp_path / "root" / "multi_tenancy" / "ca"
    folder.mkdir(parents=True)
    return folder


def pair(folder: Path, name: str = "tls") -> Pair:
    return Pair(
        (folder / f"{name}.crt").read_text(encoding="ascii"), (folder / f"{name}.key").read_text(encoding="ascii")
    )


def certs(tmp_path: Path, client_id: str) -> Path:
    return tmp_path / "root" / "clients" / client_id / "certs"


def test_certificates_are_issued_and_kept(
    run_module: Run,
    tmp_path: Path,
    engine: FakeEngine,
    config: dict[str, Any],
    clients: list[dict[str, Any]],
    authority: Path,
) -> None:
    result = ladder(run_module, client_certificate, tmp_path, engine, config=config, clients=clients)
    assert result["authority"] == str(authority / "ca.crt")
    identifier = authority_identifier((authority / "ca.crt").read_text(encoding="ascii"))
    for client_id, names in (("a", ["a.example"]), ("b", ["*.b.example", "b.localhost"])):
        facts = read_certificate(pair(certs(tmp_path, client_id)).certificate)
        assert (facts.names, facts.issuer) == (names, identifier)
        assert fits(pair(certs(tmp_path, client_id)))
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode) for path in [*authority.iterdir(), *certs(tmp_path, "a").iterdir()]
    }
    assert modes == {"ca.crt": 0o644, "ca.key": 0o600, "tls.crt": 0o600, "tls.key": 0o600}
    log = (tmp_path / "log" / "components" / "multi_tenancy.log").read_text(encoding="utf-8")
    assert "PRIVATE" not in log + str(result)


def test_only_the_client_whose_names_changed_gets_a_new_one(
    run_module: Run, tmp_path: Path, config: dict[str, Any], clients: list[dict[str, Any]]
) -> None:
    run_module(client_certificate, config=config, clients=clients)
    kept = pair(certs(tmp_path, "b"))
    clients[0]["aliases"] = ["www.a.example"]
    [change] = run_module(client_certificate, config=config, clients=clients)["changes"]
    assert (change["action"], change["name"]) == ("update", "a")
    assert read_certificate(pair(certs(tmp_path, "a")).certificate).names == ["a.example", "www.a.example"]
    assert pair(certs(tmp_path, "b")) == kept


@pytest.mark.parametrize("level", ["soft", "medium"])
def test_a_client_that_becomes_hard_or_was_gets_a_new_key(
    run_module: Run, tmp_path: Path, config: dict[str, Any], clients: list[dict[str, Any]], level: str
) -> None:
    keys = []
    for each in (level, "hard", level):
        clients[0]["isolation_level"] = each
        [change] = run_module(client_certificate, config=config, clients=clients[:1])["changes"][-1:]
        assert change["name"] == "a"
        keys.append(pair(certs(tmp_path, "a")).key)
        assert run_module(client_certificate, config=config, clients=clients[:1])["changed"] is False
    assert len(set(keys)) == 3


# What happened to a client's files -> the new certificate is an update of, or the first after, what can be read.
DAMAGES: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "certificate lost": (lambda folder, _ca: (folder / "tls.crt").unlink(), "create"),
    "key lost": (lambda folder, _ca: (folder / "tls.key").unlink(), "create"),
    "empty after a crash": (lambda folder, _ca: (folder / "tls.crt").write_bytes(b""), "create"),
    "not text": (lambda folder, _ca: (folder / "tls.crt").write_bytes(b"\xff\x00"), "create"),
    "key of another": (
        lambda folder, _ca: (folder / "tls.key").write_text(make_authority("x", NOW).key, encoding="ascii"),
        "create",
    ),
    "about to expire": (
        lambda folder, ca: put(folder, issue(pair(ca, "ca"), ["a.example"], NOW - datetime.timedelta(days=370))),
        "update",
    ),
    "of another authority": (
        lambda folder, _ca: put(folder, issue(make_authority("x", NOW), ["a.example"], NOW)),
        "update",
    ),
}


def put(folder: Path, new: Pair) -> None:
    (folder / "tls.crt").write_text(new.certificate, encoding="ascii")
    (folder / "tls.key").write_text(new.key, encoding="ascii")


@pytest.mark.parametrize(("damage", "action"), DAMAGES.values(), ids=DAMAGES)
def test_a_certificate_that_is_no_use_is_issued_anew(
    run_module: Run,
    tmp_path: Path,
    config: dict[str, Any],
    clients: list[dict[str, Any]],
    authority: Path,
    damage: Callable[[Path, Path], object],
    action: str,
) -> None:
    run_module(client_certificate, config=config, clients=clients)
    damage(certs(tmp_path, "a"), authority)
    [change] = run_module(client_certificate, config=config, clients=clients)["changes"]
    assert (change["action"], change["client_id"]) == (action, "a")
    assert fits(pair(certs(tmp_path, "a")))
    assert run_module(client_certificate, config=config, clients=clients)["changes"] == []


# What happened to the authority's files -> words that the fault must hold.
LOSSES: dict[str, tuple[Callable[[Path], object], str]] = {
    "key lost": (lambda ca: (ca / "ca.key").unlink(), "restore {ca}/ca.key from a copy"),
    "key of another": (
        lambda ca: (ca / "ca.key").write_text(make_authority("x", NOW).key, encoding="ascii"),
        "are damaged or do not belong together",
    ),
    "key empty": (lambda ca: (ca / "ca.key").write_bytes(b""), "are damaged or do not belong together"),
    "certificate empty": (lambda ca: (ca / "ca.crt").write_bytes(b""), "are damaged or do not belong together"),
    "certificate not text": (lambda ca: (ca / "ca.crt").write_bytes(b"\xff"), "{ca}/ca.crt is not UTF-8 text"),
}


@pytest.mark.parametrize(("loss", "named"), LOSSES.values(), ids=LOSSES)
def test_an_authority_that_is_no_use_is_told_and_never_replaced(
    run_module: Run,
    tmp_path: Path,
    config: dict[str, Any],
    clients: list[dict[str, Any]],
    authority: Path,
    loss: Callable[[Path], object],
    named: str,
) -> None:
    run_module(client_certificate, config=config, clients=clients)
    loss(authority)
    before = tree(tmp_path)
    result = run_module(client_certificate, config=config, clients=clients)
    assert result["failed"]
    assert named.format(ca=authority) in result["msg"]
    assert tree(tmp_path) == before


def test_a_run_that_died_after_the_authoritys_key_is_finished_with_that_key(
    run_module: Run, tmp_path: Path, config: dict[str, Any], clients: list[dict[str, Any]], authority: Path
) -> None:
    run_module(client_certificate, config=config, clients=clients)
    key = (authority / "ca.key").read_text(encoding="ascii")
    (authority / "ca.crt").unlink()
    result = run_module(client_certificate, config=config, clients=clients)
    assert result["changes"][0]["kind"] == "certificate authority"
    assert (authority / "ca.key").read_text(encoding="ascii") == key
    assert fits(pair(authority, "ca"))
    assert run_module(client_certificate, config=config, clients=clients)["changes"] == []


def test_without_an_authority_every_client_fails_with_a_reason(
    run_module: Run, tmp_path: Path, config: dict[str, Any], clients: list[dict[str, Any]], authority: Path
) -> None:
    authority.rmdir()
    result = run_module(client_certificate, config=config, clients=clients, defer_failures=True)
    assert [failure["client_id"] for failure in result["failures"]] == [None, "a", "b"]
    assert "no certificate authority" in result["failures"][1]["msg"]
    assert list(certs(tmp_path, "a").iterdir()) == []


def test_a_client_without_a_folder_fails_alone(
    run_module: Run, tmp_path: Path, config: dict[str, Any], clients: list[dict[str, Any]]
) -> None:
    certs(tmp_path, "a").rmdir()
    result = run_module(client_certificate, config=config, clients=clients, defer_failures=True)
    assert [failure["client_id"] for failure in result["failures"]] == ["a"]
    assert fits(pair(certs(tmp_path, "b")))
