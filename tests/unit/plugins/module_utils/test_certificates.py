# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates, checked by openssl and by reading them back."""

from __future__ import annotations

import datetime
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._certificates import (
    LEAF_DAYS,
    Facts,
    Pair,
    authority_identifier,
    fits,
    issue,
    make_authority,
    read_certificate,
    why_renew,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import TenancyError
from cryptography import x509

NOW = datetime.datetime.now(datetime.UTC)
AUTHORITY = make_authority("Test", NOW)
OTHER = make_authority("Test", NOW)
LEAF = issue(AUTHORITY, ["acme.example"], NOW)


def openssl(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["openssl", *args], capture_output=True, text=True, check=False)


def verify(tmp_path: Path, authority: Pair, leaf: Pair, hostname: str) -> subprocess.CompletedProcess[str]:
    ca, certificate = tmp_path / "ca.crt", tmp_path / "tls.crt"
    ca.write_text(authority.certificate, encoding="ascii")
    certificate.write_text(leaf.certificate, encoding="ascii")
    how = ["-x509_strict", "-purpose", "sslserver", "-verify_hostname", hostname]
    return openssl("verify", *how, "-CAfile", str(ca), str(certificate))


# Names of the certificate, name asked for, whether it is good for that.
ASKED: dict[str, tuple[list[str], str, bool]] = {
    "its name": (["acme.example"], "acme.example", True),
    "one of many": (["acme.example", "b.example"], "b.example", True),
    "name below its wildcard": (["*.acme.example"], "www.acme.example", True),
    "name beside its wildcard": (["*.acme.example"], "acme.example", False),
    "another name": (["acme.example"], "b.example", False),
    "longest name": ([".".join(["a" * 61] * 4) + ".abcde"], ".".join(["a" * 61] * 4) + ".abcde", True),
}


@pytest.mark.parametrize(("names", "asked", "good"), ASKED.values(), ids=ASKED)
def test_openssl_takes_a_certificate_for_its_names_alone(
    tmp_path: Path, names: list[str], asked: str, good: bool
) -> None:
    result = verify(tmp_path, AUTHORITY, issue(AUTHORITY, names, NOW), asked)
    assert (result.returncode == 0) == good, result.stderr


def test_openssl_refuses_a_certificate_of_another_authority(tmp_path: Path) -> None:
    assert verify(tmp_path, OTHER, LEAF, "acme.example").returncode != 0


def test_a_client_cannot_issue_certificates(tmp_path: Path) -> None:
    forged = issue(LEAF, ["b.example"], NOW)
    (tmp_path / "leaf.crt").write_text(LEAF.certificate, encoding="ascii")
    (tmp_path / "ca.crt").write_text(AUTHORITY.certificate, encoding="ascii")
    (tmp_path / "forged.crt").write_text(forged.certificate, encoding="ascii")
    chain = ["-untrusted", str(tmp_path / "leaf.crt"), "-CAfile", str(tmp_path / "ca.crt")]
    result = openssl("verify", *chain, str(tmp_path / "forged.crt"))
    assert result.returncode != 0
    assert "invalid CA certificate" in result.stderr


def test_a_certificate_says_what_it_was_issued_for() -> None:
    facts = read_certificate(issue(AUTHORITY, ["b.example", "*.a.example"], NOW).certificate)
    assert facts.names == ["*.a.example", "b.example"]
    assert facts.issuer == authority_identifier(AUTHORITY.certificate)
    assert LEAF_DAYS - 1 <= (facts.expires - NOW).days <= 397
    assert facts.expires.tzinfo is not None


def test_only_the_authority_is_one() -> None:
    for pair, authority in ((AUTHORITY, True), (LEAF, False)):
        extensions = x509.load_pem_x509_certificate(pair.certificate.encode()).extensions
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        assert extensions.get_extension_for_class(x509.BasicConstraints).value.ca == authority
        assert (usage.key_cert_sign, usage.digital_signature) == (authority, not authority)


def test_the_fingerprint_is_that_of_openssl(tmp_path: Path) -> None:
    (tmp_path / "tls.crt").write_text(LEAF.certificate, encoding="ascii")
    told = openssl("x509", "-in", str(tmp_path / "tls.crt"), "-noout", "-fingerprint", "-sha256").stdout
    assert told.strip().rpartition("=")[2].replace(":", "").lower() == read_certificate(LEAF.certificate).fingerprint


def test_every_certificate_has_a_key_and_a_number_of_its_own() -> None:
    again = issue(AUTHORITY, ["acme.example"], NOW)
    assert again.key != LEAF.key
    assert read_certificate(again.certificate).fingerprint != read_certificate(LEAF.certificate).fingerprint


def test_an_authority_can_be_made_for_the_key_of_an_interrupted_run() -> None:
    again = make_authority("Test", NOW, AUTHORITY.key)
    assert fits(Pair(again.certificate, AUTHORITY.key))
    assert authority_identifier(again.certificate) == authority_identifier(AUTHORITY.certificate)
    with pytest.raises(TenancyError, match=r"ca\.key is damaged"):
        make_authority("Test", NOW, "x")


GOOD = Facts(["a.example", "b.example"], "aa", NOW + datetime.timedelta(days=31), "ff")

RENEW: dict[str, tuple[Facts | None, list[str], str, str | None]] = {
    "good": (GOOD, ["a.example", "b.example"], "aa", None),
    "names in another order": (GOOD, ["b.example", "a.example"], "aa", None),
    "none": (None, ["a.example"], "aa", "there is none"),
    "a name more": (GOOD, ["a.example", "b.example", "c.example"], "aa", "its names are not the client's"),
    "a name less": (GOOD, ["a.example"], "aa", "its names are not the client's"),
    "another authority": (GOOD, ["a.example", "b.example"], "bb", "another certificate authority"),
    "31 days left": (
        Facts(GOOD.names, "aa", NOW + datetime.timedelta(days=30, seconds=1), "f"),
        GOOD.names,
        "aa",
        None,
    ),
    "less than 30 days left": (
        Facts(GOOD.names, "aa", NOW + datetime.timedelta(days=30, seconds=-1), "f"),
        GOOD.names,
        "aa",
        "it expires on",
    ),
    "expired": (Facts(GOOD.names, "aa", NOW - datetime.timedelta(days=1), "f"), GOOD.names, "aa", "it expires on"),
}


@pytest.mark.parametrize(("facts", "names", "authority", "why"), RENEW.values(), ids=RENEW)
def test_a_certificate_is_renewed_for_a_reason(
    facts: Facts | None, names: list[str], authority: str, why: str | None
) -> None:
    told = why_renew(facts, names, authority, NOW)
    assert told is None if why is None else why in str(told)


@pytest.mark.parametrize("had", [False, True])
@pytest.mark.parametrize("has", [False, True])
def test_a_key_is_of_one_kind_of_edge_alone(had: bool, has: bool) -> None:
    facts = read_certificate(issue(AUTHORITY, ["a.example"], NOW, own_edge=had).certificate)
    assert facts.own_edge is had
    told = why_renew(facts, ["a.example"], authority_identifier(AUTHORITY.certificate), NOW, own_edge=has)
    assert (told is None) is (had is has)


def test_a_fresh_certificate_is_good_until_a_month_before_its_end() -> None:
    facts = read_certificate(LEAF.certificate)
    identifier = authority_identifier(AUTHORITY.certificate)
    assert why_renew(facts, ["acme.example"], identifier, NOW + datetime.timedelta(days=LEAF_DAYS - 32)) is None
    assert why_renew(facts, ["acme.example"], identifier, NOW + datetime.timedelta(days=LEAF_DAYS - 29)) is not None


DAMAGED: dict[str, Pair] = {
    "another key": Pair(LEAF.certificate, OTHER.key),
    "empty key": Pair(LEAF.certificate, ""),
    "empty certificate": Pair("", LEAF.key),
    "half a certificate": Pair(LEAF.certificate[: len(LEAF.certificate) // 2], LEAF.key),
    "half a key": Pair(LEAF.certificate, LEAF.key[: len(LEAF.key) // 2]),
    "swapped": Pair(LEAF.key, LEAF.certificate),
    "rubbish": Pair("\N{SNOWMAN}", "\0"),
}


@pytest.mark.parametrize("pair", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_pair_does_not_fit(pair: Pair) -> None:
    assert not fits(pair)
    assert fits(LEAF)


@pytest.mark.parametrize("pem", ["", "x", LEAF.certificate], ids=["empty", "rubbish", "no authority"])
def test_a_damaged_authority_is_told_or_has_an_identifier_of_its_own(pem: str) -> None:
    if pem == LEAF.certificate:
        assert authority_identifier(pem) != authority_identifier(AUTHORITY.certificate)
    else:
        with pytest.raises(TenancyError, match=r"ca\.crt is damaged"):
            authority_identifier(pem)


def test_a_certificate_without_names_reads_as_one_without_names() -> None:
    facts = read_certificate(AUTHORITY.certificate)
    assert (facts.names, facts.issuer) == ([], "")


def test_what_the_diff_shows_has_no_key() -> None:
    told: Any = read_certificate(LEAF.certificate).shown()
    assert set(told) == {"names", "expires", "fingerprint"}
