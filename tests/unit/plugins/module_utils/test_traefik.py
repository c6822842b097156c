# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Traefik's files: exactly what is wanted, never a key in a diff, and compared with what is really served."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
import yaml
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import TenancyError, as_diff
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._traefik import (
    ClientRoutes,
    Route,
    check_routes,
    faults_of_live,
    plan_routes,
    render,
    shown,
)
from hypothesis import given
from hypothesis import strategies as st

SITE = Route("acme", "site", ["acme.example", "www.acme.example"], "10.217.0.2", 8080)
KEY = "-----BEGIN PRIVATE KEY-----\nTOPSECRET\n-----END PRIVATE KEY-----\n"
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nPUBLIC\n-----END CERTIFICATE-----\n"
ACME = ClientRoutes("acme", "10.217.0.0/28", [SITE], CERTIFICATE, KEY, "ab" * 32)


def test_the_file_is_yaml_of_exactly_the_routes() -> None:
    text = render(ACME)
    assert text.startswith("# ")
    assert yaml.safe_load(text) == {
        "http": {
            "routers": {
                "acme.site": {
                    "entryPoints": ["websecure"],
                    "rule": "Host(`acme.example`) || Host(`www.acme.example`)",
                    "service": "acme.site",
                    "tls": {},
                    "middlewares": ["acme.identity"],
                }
            },
            "middlewares": {"acme.identity": {"headers": {"customRequestHeaders": {"X-Client-Id": "acme"}}}},
            "services": {
                "acme.site": {"loadBalancer": {"servers": [{"url": "http://10.217.0.2:8080"}], "passHostHeader": True}}
            },
        },
        "tls": {"certificates": [{"certFile": CERTIFICATE, "keyFile": KEY}]},
    }


NAMES = st.from_regex(r"\A(\*\.)?([a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?\.){1,3}[a-z]{2,5}\Z")
ROUTES = st.builds(
    Route,
    st.just("acme"),
    st.sampled_from(["site", "shop"]),
    st.lists(NAMES, min_size=1, max_size=4),
    st.ip_addresses(network="10.217.0.0/28").map(str),
    st.integers(1, 65535),
)
PEM = st.text(st.characters(codec="ascii", exclude_characters="\x7f"), max_size=30) | st.just("{{ env `PATH` }}")


@given(st.lists(ROUTES, min_size=1, max_size=2, unique_by=lambda route: route.service), PEM)
def test_every_name_has_one_matcher_and_every_text_comes_back_as_it_was(routes: list[Route], pem: str) -> None:
    try:
        text = render(ClientRoutes("acme", "10.217.0.0/28", routes, pem, pem))
    except TenancyError as refused:
        assert "{{" in pem
        assert "template" in str(refused)
        return
    assert "{{" not in text
    document = yaml.safe_load(text)
    assert set(document["http"]["routers"]) == set(document["http"]["services"]) == {route.name for route in routes}
    for route in routes:
        rule = document["http"]["routers"][route.name]["rule"]
        assert rule.count("Host") == len(route.hostnames)
    if pem:
        assert document["tls"]["certificates"] == [{"certFile": pem, "keyFile": pem}]


# Host name asked for -> whether a rule for *.acme.example takes it.
WILDCARD = {
    "www.acme.example": True,
    "1-2.acme.example": True,
    "acme.example": False,
    "a.b.acme.example": False,
    "www.acmeXexample": False,
    "www.acme.example.evil": False,
    "evil/www.acme.example": False,
}


@pytest.mark.parametrize(("name", "taken"), WILDCARD.items())
def test_a_wildcard_takes_one_label(name: str, taken: bool) -> None:
    rule = replace(SITE, hostnames=["*.acme.example"]).rule
    pattern = re.fullmatch(r"HostRegexp\(`(.*)`\)", rule)
    assert pattern is not None
    assert bool(re.search(pattern[1], name)) == taken


def test_a_name_of_its_own_wins_over_the_clients_wildcard() -> None:
    wild = Route("acme", "site", ["*.acme.example", "acme.example"], "10.217.0.2", 80)
    shop = Route("acme", "shop", ["shop.acme.example"], "10.217.0.3", 80)
    routers = yaml.safe_load(render(replace(ACME, routes=[wild, shop])))["http"]["routers"]
    # Without a priority of its own a router has the length of its rule.
    priority = {name: router.get("priority", len(router["rule"])) for name, router in routers.items()}
    assert priority["acme.shop"] > priority["acme.site"] > 0


def test_the_limit_counts_all_visitors_of_a_client_together() -> None:
    http = yaml.safe_load(render(replace(ACME, rate_average=5, rate_burst=9)))["http"]
    # The limit goes by the header that the one before it has set.
    assert http["routers"]["acme.site"]["middlewares"] == ["acme.identity", "acme.rate"]
    limit = http["middlewares"]["acme.rate"]["rateLimit"]
    assert limit == {"average": 5, "burst": 9, "sourceCriterion": {"requestHeaderName": "X-Client-Id"}}


# ---------------------------------------------------------------- what must never reach Traefik

REFUSED: dict[str, tuple[ClientRoutes, str]] = {
    "bad client": (replace(ACME, client_id="../acme"), "client_id"),
    "name that is not canonical": (replace(ACME, routes=[replace(SITE, hostnames=["Acme.example"])]), "canonical form"),
    "name that breaks out": (
        replace(ACME, routes=[replace(SITE, hostnames=["a`) || Host(`b.example"])]),
        "not allowed",
    ),
    "another client's address": (
        replace(ACME, routes=[replace(SITE, address="10.217.0.18")]),
        "outside its network",
    ),
    "the host's address": (replace(ACME, routes=[replace(SITE, address="10.217.0.1")]), "outside"),
    "the network's address": (replace(ACME, routes=[replace(SITE, address="10.217.0.0")]), "outside"),
    "the broadcast address": (replace(ACME, routes=[replace(SITE, address="10.217.0.15")]), "outside"),
    "loopback": (replace(ACME, routes=[replace(SITE, address="127.0.0.1")]), "outside"),
    "metadata": (replace(ACME, routes=[replace(SITE, address="169.254.169.254")]), "outside"),
    "no address": (replace(ACME, routes=[replace(SITE, address="acme@internal")]), "outside"),
}


@pytest.mark.parametrize(("client", "named"), REFUSED.values(), ids=REFUSED)
def test_what_must_never_reach_traefik_is_refused(client: ClientRoutes, named: str) -> None:
    with pytest.raises(TenancyError, match=named):
        check_routes(client)


@pytest.mark.parametrize("address", ["10.217.0.2", "10.217.0.14"])
def test_every_address_for_containers_is_accepted(address: str) -> None:
    check_routes(replace(ACME, routes=[replace(SITE, address=address)]))


def test_a_shared_service_lies_in_its_own_network_alone() -> None:
    shared = replace(SITE, subnet="10.217.0.96/28")
    check_routes(replace(ACME, routes=[replace(shared, address="10.217.0.98")]))
    with pytest.raises(TenancyError, match="outside its network"):
        check_routes(replace(ACME, routes=[shared]))


# ---------------------------------------------------------------- plans and diffs

BEFORE: dict[str, tuple[str | None, str | None]] = {
    "nothing": (None, "create"),
    "as wanted": (render(ACME), None),
    "another address": (render(replace(ACME, routes=[replace(SITE, address="10.217.0.3")])), "update"),
    "another certificate": (render(replace(ACME, certificate="x")), "update"),
    "edited by hand": (render(ACME) + "# mine\n", "update"),
}


@pytest.mark.parametrize(("before", "action"), BEFORE.values(), ids=BEFORE)
def test_a_file_is_compared(before: str | None, action: str | None) -> None:
    changes = plan_routes([ACME], {} if before is None else {"acme": before})
    assert [change.action for change in changes] == ([] if action is None else [action])
    if changes:
        assert plan_routes([ACME], {"acme": changes[0].payload[1]}) == []


def test_a_file_of_a_client_that_is_gone_is_removed_once() -> None:
    [change] = plan_routes([], {"acme": render(ACME), "b": "x"}, gone=["acme", "never"], force=True)
    assert (change.action, change.name) == ("delete", "acme")


HAND_MADE = {
    "YAML": f"tls:\n  certificates:\n    - keyFile: |\n        {KEY}",
    "JSON of another form": json.dumps({"http": {}, "tls": {"stores": {"default": {"keyFile": KEY}}}}),
    "key in an unknown place": json.dumps(
        {"http": {}, "x": KEY, "tls": {"certificates": [{"certFile": "c", "keyFile": KEY}]}}
    ),
    "list": json.dumps([KEY]),
    "text": json.dumps(KEY),
    "number": "7",
    "tls without anything": '{"http": {}, "tls": null}',
    "certificates that are none": '{"http": {}, "tls": {"certificates": [7]}}',
    "empty": "",
}


@pytest.mark.parametrize("before", [*HAND_MADE.values(), render(ACME)], ids=[*HAND_MADE, "ours"])
def test_no_diff_ever_shows_a_key(before: str) -> None:
    changes = plan_routes([replace(ACME, fingerprint="")], {"acme": before, "b": before}, gone=["b"])
    changes += plan_routes([replace(ACME, key=KEY + "new")], {"acme": before})
    told = json.dumps([as_diff(changes), [change.summary() for change in changes]])
    assert "TOPSECRET" not in told
    assert "PUBLIC" not in told
    assert len(changes) >= 2


def test_a_new_certificate_is_visible_in_the_diff() -> None:
    assert shown(render(ACME)) != shown(render(replace(ACME, certificate="other")))
    assert shown(render(ACME)) == shown(render(replace(ACME, key="other")))
    assert shown(None) is None


# ---------------------------------------------------------------- what is served

ROUTER = {"rule": SITE.rule, "service": "acme.site", "status": "enabled", "middlewares": ["acme.identity@file"]}
SERVICE = {"loadBalancer": {"servers": [{"url": "http://10.217.0.2:8080"}]}, "status": "enabled"}

LIVE: dict[str, tuple[dict[str, Any] | None, dict[str, Any] | None, str | None]] = {
    "as wanted": (ROUTER, SERVICE, None),
    "no identity": (ROUTER | {"middlewares": []}, SERVICE, "still passes no middleware"),
    "another's identity": (ROUTER | {"middlewares": ["b.identity@file"]}, SERVICE, "still passes b.identity"),
    "no router": (None, SERVICE, "is not there yet"),
    "no service": (ROUTER, None, "is not there yet"),
    "another rule": (ROUTER | {"rule": "Host(`old.example`)"}, SERVICE, "still has the rule Host(`old.example`)"),
    "another service": (ROUTER | {"service": "b.site"}, SERVICE, "still has the rule"),
    "disabled": (ROUTER | {"status": "disabled", "error": ["bad rule", "x"]}, SERVICE, "is disabled: bad rule; x"),
    "warning": (ROUTER | {"status": "warning"}, SERVICE, "is warning"),
    "another address": (
        ROUTER,
        {"loadBalancer": {"servers": [{"url": "http://10.217.0.9:8080"}]}},
        "still leads to http://10.217.0.9:8080",
    ),
    "two addresses": (
        ROUTER,
        {"loadBalancer": {"servers": [{"url": "http://10.217.0.2:8080"}, {"url": "http://10.217.0.3:8080"}]}},
        "still leads to",
    ),
    "no address": (ROUTER, {"loadBalancer": {}}, "still leads to nothing"),
    "no balancer": (ROUTER, {}, "still leads to nothing"),
}


@pytest.mark.parametrize(("router", "service", "fault"), LIVE.values(), ids=LIVE)
def test_what_is_served_is_compared(
    router: dict[str, Any] | None, service: dict[str, Any] | None, fault: str | None
) -> None:
    routers = {"b.site@file": ROUTER} | ({} if router is None else {"acme.site@file": router})
    services = {} if service is None else {"acme.site@file": service}
    faults = faults_of_live(ACME, routers, services)
    if fault is None:
        assert faults == []
    else:
        [told] = faults
        assert told.startswith("the route acme.site ")
        assert fault in told
