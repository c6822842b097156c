# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Client ids and domains: what is accepted is harmless wherever it is used later."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils import _names
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._names import (
    RESERVED_CLIENT_IDS,
    canonical_domain,
    check_client_id,
    derived_domain,
    shown,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import InvalidInput
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._traefik import Route
from hypothesis import example, given
from hypothesis import strategies as st

GOOD_IDS = ("a", "0", "acme", "a-b", "a_b", "a--b", "x" * 32, "0" * 32)

BAD_IDS: dict[str, Any] = {
    "empty": "",
    "too long": "x" * 33,
    "upper case": "Acme",
    "leading dash": "-a",
    "trailing underscore": "a_",
    "dot": "a.b",
    "path": "../etc",
    "slash": "a/b",
    "line end": "acme\n",
    "line end first": "\nacme",
    "NUL": "ac\0me",
    "space": "ac me",
    "letter that looks like a": "\N{CYRILLIC SMALL LETTER A}cme",
    "digit of another script": "\N{ARABIC-INDIC DIGIT ONE}",
    "None": None,
    "number": 7,
    "list": ["acme"],
}

GOOD_DOMAINS = {
    "plain": ("example.com", "example.com"),
    "upper case": ("Shop.EXAMPLE.com", "shop.example.com"),
    "wildcard": ("*.Example.com", "*.example.com"),
    "the one name without a dot": ("localhost", "localhost"),
    "below it": ("default.localhost", "default.localhost"),
    "letters outside ASCII": ("b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example", "xn--bcher-kva.example"),
    "the same in upper case": ("B\N{LATIN CAPITAL LETTER U WITH DIAERESIS}CHER.example", "xn--bcher-kva.example"),
    "the same as A-label": ("xn--bcher-kva.example", "xn--bcher-kva.example"),
    "the same decomposed": ("bu\N{COMBINING DIAERESIS}cher.example", "xn--bcher-kva.example"),
    "full width": ("\N{FULLWIDTH LATIN SMALL LETTER A}cme.example", "acme.example"),
    "full-width dot": ("acme\N{FULLWIDTH FULL STOP}example", "acme.example"),
    "Kelvin sign": ("\N{KELVIN SIGN}iosk.example", "kiosk.example"),
    "sharp s": ("stra\N{LATIN SMALL LETTER SHARP S}e.example", "xn--strae-oqa.example"),
    "digits in front": ("1.2.example", "1.2.example"),
    "longest label": ("a" * 63 + ".example", "a" * 63 + ".example"),
    "longest name": (".".join(["a" * 61] * 4) + ".abcde", ".".join(["a" * 61] * 4) + ".abcde"),
}

BAD_DOMAINS: dict[str, Any] = {
    "empty": "",
    "one part": "example",
    "wildcard of one part": "*.com",
    "wildcard alone": "*",
    "wildcard inside": "a.*.example.com",
    "wildcard as part of a label": "a*.example.com",
    "two wildcards": "*.*.example.com",
    "full-width wildcard": "\N{FULLWIDTH ASTERISK}.example.com",
    "trailing dot": "example.com.",
    "leading dot": ".example.com",
    "empty label": "a..example.com",
    "underscore": "a_b.example.com",
    "leading dash": "-a.example.com",
    "trailing dash": "a-.example.com",
    "label too long": "a" * 64 + ".example.com",
    "name too long": ".".join(["a" * 49] * 5) + ".abcd",
    "name much too long": "\N{LATIN SMALL LETTER U WITH DIAERESIS}" * 100_000 + ".example.com",
    "IPv4 address": "192.0.2.1",
    "IPv6 address": "2001:db8::1",
    "number at the end": "example.1",
    "port": "example.com:443",
    "URL": "https://example.com",
    "path": "example.com/x",
    "line end": "example.com\n",
    "NUL": "exa\0mple.com",
    "space": "exam ple.com",
    "Traefik's quote": "example.com`) || HostRegexp(`.*",
    "Go template": "{{ env `PATH` }}.example.com",
    "bad A-label": "xn--a.example.com",
    "A-label of plain ASCII": "xn--abc-.example.com",
    "A-label that is not canonical": "xn--BCHER-kva0a.example.com",
    "lone surrogate": "\ud800.example.com",
    "right-to-left mark": "\N{RIGHT-TO-LEFT MARK}acme.example.com",
    "None": None,
    "number": 1.5,
    "list": ["example.com"],
}


@pytest.mark.parametrize("value", GOOD_IDS)
def test_a_good_client_id_stays_as_it_is(value: str) -> None:
    assert check_client_id(value) == value


@pytest.mark.parametrize("value", BAD_IDS.values(), ids=BAD_IDS)
def test_a_bad_client_id_is_refused_in_one_printable_line(value: Any) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_client_id(value)
    [fault] = refused.value.faults
    assert fault.startswith("client_id ")
    assert fault.isascii()
    assert fault.isprintable()


@pytest.mark.parametrize("value", sorted(RESERVED_CLIENT_IDS))
def test_a_reserved_client_id_is_refused_by_name(value: str) -> None:
    with pytest.raises(InvalidInput, match=f"'{value}' is reserved"):
        check_client_id(value)


@pytest.mark.parametrize(("value", "canonical"), GOOD_DOMAINS.values(), ids=GOOD_DOMAINS)
def test_a_good_domain_is_stored_as_visitors_ask_for_it(value: str, canonical: str) -> None:
    assert canonical_domain(value) == canonical


@pytest.mark.parametrize("value", BAD_DOMAINS.values(), ids=BAD_DOMAINS)
def test_a_bad_domain_is_refused_in_one_printable_line(value: Any) -> None:
    with pytest.raises(InvalidInput) as refused:
        canonical_domain(value, "aliases")
    [fault] = refused.value.faults
    assert fault.startswith("aliases ")
    assert fault.isascii()
    assert fault.isprintable()
    assert len(fault) < 300


PARTS = st.one_of(
    st.text(max_size=12),
    st.text("abz09-*.`{}()| \\\N{FULLWIDTH FULL STOP}\N{LATIN SMALL LETTER U WITH DIAERESIS}", max_size=12),
    st.sampled_from(["xn--", "xn--bcher-kva", "*", "example", "com", "localhost", "1", "0x7f", ""]),
)


@given(st.lists(PARTS, min_size=1, max_size=5).map(".".join) | st.text())
@example("*.example.com")
@example("a`b.example")
def test_whatever_is_accepted_gives_a_rule_of_exactly_one_matcher(value: str) -> None:
    try:
        name = canonical_domain(value)
    except InvalidInput:
        return
    assert canonical_domain(name) == name
    label = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
    assert re.fullmatch(rf"(\*\.)?({label}\.)*{label}", name)
    assert len(name) <= 253
    rule = Route("acme", "site", [name], "10.217.0.2", 8080).rule
    assert rule.count("Host") == 1
    assert rule.count("`") == 2
    assert not set(rule) & set("{}| \n")


@given(st.text())
@example("acme\n")
def test_an_accepted_client_id_is_one_harmless_part_of_a_path(value: str) -> None:
    try:
        check_client_id(value)
    except InvalidInput:
        return
    assert set(value) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-")
    assert 1 <= len(value) <= 32
    assert value[0] not in "-_"


@pytest.mark.parametrize(
    ("client_id", "domain"), [("acme", "acme.localhost"), ("a_b", "a-b.localhost"), ("a-b", "a-b.localhost")]
)
def test_a_domain_is_derived_from_the_id(client_id: str, domain: str) -> None:
    assert derived_domain(client_id, "localhost") == domain


def test_without_the_idna_library_plain_names_still_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_names, "HAS_IDNA", False)
    assert canonical_domain("Shop.Example.com") == "shop.example.com"
    with pytest.raises(InvalidInput, match="Python library idna"):
        canonical_domain("b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example")


@given(st.text() | st.binary() | st.none() | st.lists(st.text()))
def test_a_shown_value_is_short_and_printable(value: Any) -> None:
    text = shown(value)
    assert len(text) <= 80
    assert text.isascii()
    assert text.isprintable()
