# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The firewall's rules, names and plan."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import fields, replace
from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._egress import Egress, Rule
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._firewall import (
    METADATA4,
    METADATA6,
    OWNER,
    Firewall,
    State,
    boot_unit,
    checked,
    compare,
    default_route_interfaces,
    plan,
    refuse_foreign_table,
    reload_hook,
    render,
    unit_name,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import InvalidInput, TenancyError
from hypothesis import given
from hypothesis import strategies as st

GOOD: dict[str, Any] = {
    "table": "agency_stack",
    "bridge_prefix": "mt-",
    "networks": [
        {"bridge": "mt-beta", "subnet": "10.217.0.16/28", "egress": "allow", "egress_allow": []},
        {"bridge": "mt-alpha", "subnet": "10.217.0.0/28", "egress": "deny", "egress_allow": ["203.0.113.7:443"]},
    ],
    "uplinks": ["br0"],
    "edge_ports": [443, 80, 443],
    "path": "/opt/agency_stack/multi_tenancy/firewall.nft",
    "default_route_interfaces": ["br0"],
}
NAMES = State(file="/f", table="inet t", unit="/u", hook="/h", start="u")
# Whatever could end a word, a string or a statement in nft's syntax, in a unit or in a shell script.
HOSTILE = ["", " ", '"', "}", ";", "#", "\n", "*", "$", "\\", "/", "{", "%", "'", "&", "|", "é", "\0"]


def network(bridge: str, number: int = 0, egress: str = "allow", egress_allow: Any = ()) -> dict[str, Any]:
    subnet = f"10.217.{number // 16}.{number % 16 * 16}/28"
    return {"bridge": bridge, "subnet": subnet, "egress": egress, "egress_allow": list(egress_allow)}


def networks(*bridges: str) -> list[dict[str, Any]]:
    return [network(bridge, number) for number, bridge in enumerate(bridges)]


def elements(text: str, name: str) -> list[str]:
    """What a set of the rules file holds."""
    (body,) = re.findall(rf"    set {name} {{\n(.*?)\n    }}\n", text, re.DOTALL)
    found = re.search(r"elements = {\n(.*)\n *}", body, re.DOTALL)
    return [line.strip().rstrip(",") for line in found[1].splitlines()] if found else []


def test_names_are_sorted_and_unique() -> None:
    assert checked(**GOOD) == Firewall(
        "agency_stack",
        "mt-",
        ("10.217.0.0/28", "10.217.0.16/28"),
        (Egress("mt-alpha", "deny", (Rule("203.0.113.7/32", 443, "tcp"),)), Egress("mt-beta", "allow")),
        ("br0",),
        (80, 443),
    )


REFUSED = [
    ("table", "Agency", "beginning with a letter"),
    ("table", "1a", "beginning with a letter"),
    ("table", "a-b", "beginning with a letter"),
    ("table", "a" * 33, "1 to 32"),
    ("bridge_prefix", "mt", "ending with '-'"),
    ("bridge_prefix", "-", "beginning with a letter"),
    ("bridge_prefix", "br-", "not 'br-'"),
    ("bridge_prefix", "a" * 14 + "-", "up to 14"),
    ("networks", networks("mt-"), "followed by"),
    ("networks", networks("docker0"), "use 'mt-'"),
    ("networks", networks("mt-" + "a" * 13), "15 characters at most"),
    ("networks", networks("mt-A"), "use 'mt-'"),
    ("networks", networks("mt-a_b"), "use 'mt-'"),
    ("networks", networks("mt-1", "mt-2", "mt-1"), "bridge 'mt-1' is named twice"),
    ("networks", [network("mt-1", 1), network("mt-2", 1)], "subnets 10.217.0.16/28 and 10.217.0.16/28 overlap"),
    (
        "networks",
        [network("mt-1", 3), network("mt-2") | {"subnet": "10.217.0.0/24"}],
        "subnets 10.217.0.0/24 and 10.217.0.48/28 overlap",
    ),
    ("networks", [network("mt-1") | {"subnet": "0.0.0.0/0"}], "use a part of 10.0.0.0/8"),
    ("networks", [network("mt-1") | {"subnet": "203.0.113.0/28"}], "use a part of 10.0.0.0/8"),
    ("networks", [network("mt-1") | {"subnet": "10.217.0.1/28"}], "not an IPv4 network"),
    ("networks", [network("mt-1") | {"subnet": "fd00::/64"}], "not an IPv4 network"),
    ("networks", [network("mt-1", egress="some")], "bridge 'mt-1': egress 'some' is not allowed: use allow or deny"),
    ("networks", [network("mt-1", 0, "deny", ["203.0.113.0/24"])], "bridge 'mt-1': egress_allow: '203.0.113.0/24'"),
    ("networks", [network("mt-1", 0, "deny", ["0.0.0.0/0:443"])], "is everything"),
    ("uplinks", ["mt-up"], "would cut the host off"),
    ("uplinks", ["a" * 16], "not the name of an interface"),
    ("default_route_interfaces", ["mt-x"], "would cut the host off"),
    ("edge_ports", [0], "1 to 65535"),
    ("edge_ports", [65536], "1 to 65535"),
    ("path", "firewall.nft", "absolute path"),
    ("path", "/opt/a b/firewall.nft", "absolute path"),
]


@pytest.mark.parametrize(("key", "value", "words"), REFUSED)
def test_refused_with_the_cure(key: str, value: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(words)):
        checked(**{**GOOD, key: value})


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(InvalidInput) as caught:
        checked(**{**GOOD, "table": "X", "networks": networks("eth0", "mt-a;"), "edge_ports": [0], "path": "x"})
    assert len(caught.value.faults) == 5


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("key", ["table", "bridge_prefix", "bridge", "subnet", "egress_allow", "uplinks", "path"])
def test_nothing_hostile_reaches_the_syntax(key: str, hostile: str) -> None:
    if (key, hostile) == ("path", "/"):
        return
    good = {
        "table": "a",
        "bridge_prefix": "mt-",
        "bridge": "mt-a",
        "subnet": "10.217.0.0/28",
        "egress_allow": "203.0.113.7:443",
        "uplinks": "br0",
        "path": "/a",
    }[key]
    for value in (hostile, good + hostile, hostile + good) if hostile else ("",):
        wanted: dict[str, Any] = {key: [value] if key == "uplinks" else value}
        if key in ("bridge", "subnet", "egress_allow"):
            wanted = {"networks": [network("mt-a") | {key: [value] if key == "egress_allow" else value}]}
        with pytest.raises(InvalidInput):
            checked(**{**GOOD, **wanted})


@given(st.text(max_size=20))
def test_a_bridge_is_a_plain_name_or_refused(name: str) -> None:
    try:
        firewall = checked(**{**GOOD, "networks": networks(name)})
    except InvalidInput:
        return
    assert re.fullmatch(r"mt-[a-z0-9-]{1,12}", name)
    assert f'"{name}" . "{name}"' in render(firewall)


bridge_names = st.from_regex(r"mt-[a-z0-9-]{1,12}", fullmatch=True)


@given(st.lists(bridge_names, max_size=40, unique=True), st.randoms())
def test_only_elements_depend_on_the_networks(bridges: list[str], random: Any) -> None:
    rules = ["203.0.113.0/24:443", "198.51.100.7:53/udp", "[2001:db8::/32]:25"]
    wanted = [
        network(bridge, number, random.choice(("allow", "deny")), random.sample(rules, 2))
        for number, bridge in enumerate(bridges)
    ]
    text = render(checked(**{**GOOD, "networks": wanted}))
    assert render(checked(**{**GOOD, "networks": random.sample(wanted, len(wanted))})) == text
    assert set(elements(text, "pairs")) == {f'"{bridge}" . "{bridge}"' for bridge in bridges}
    assert elements(text, "subnets") == [item["subnet"] for item in wanted]
    denied = {item["bridge"] for item in wanted if item["egress"] == "deny"}
    assert set(elements(text, "free")) == {f'"{bridge}"' for bridge in set(bridges) - denied}
    opened = elements(text, "open4") + elements(text, "open6")
    assert len(opened) == 2 * len(denied)
    assert {element.split('"')[1] for element in opened} == denied
    chains = text[text.index("    chain ") :]
    assert chains == render(checked(**{**GOOD, "networks": []}))[-len(chains) :]


# What stands in the settings, and what the sets hold.
RULES: list[tuple[str, list[str], list[str]]] = [
    ("an address", ["203.0.113.7:443"], ["203.0.113.7/32 . tcp . 443"]),
    ("named twice", ["203.0.113.7:443", "203.0.113.7/32:443/tcp"], ["203.0.113.7/32 . tcp . 443"]),
    ("one in the other", ["203.0.113.0/24:443", "203.0.113.7:443"], ["203.0.113.0/24 . tcp . 443"]),
    ("side by side", ["203.0.113.128/25:443", "203.0.113.0/25:443"], ["203.0.113.0/24 . tcp . 443"]),
    (
        "other ports and protocols do not overlap",
        ["203.0.113.0/24:443", "203.0.113.7:80", "203.0.113.7:443/udp"],
        ["203.0.113.7/32 . tcp . 80", "203.0.113.0/24 . tcp . 443", "203.0.113.7/32 . udp . 443"],
    ),
    ("IPv6", ["[2001:db8::]:443", "[2001:db8::/32]:443"], ["2001:db8::/32 . tcp . 443"]),
]


@pytest.mark.parametrize(("rules", "expected"), [row[1:] for row in RULES], ids=[row[0] for row in RULES])
def test_destinations_that_stay_open(rules: list[str], expected: list[str]) -> None:
    text = render(
        checked(**{**GOOD, "networks": [network("mt-1", 0, "deny", rules), network("mt-2", 1, "allow", rules)]})
    )
    wanted, other = ("open6", "open4") if ":" in expected[0] else ("open4", "open6")
    assert elements(text, wanted) == [f'"mt-1" . {element}' for element in expected]
    assert elements(text, other) == []
    assert elements(text, "free") == ['"mt-2"']


def test_one_transaction_replaces_the_table() -> None:
    statements = [line for line in render(checked(**GOOD)).splitlines() if line[:1] not in ("", "#", " ", "}")]
    assert statements == ["table inet agency_stack", "delete table inet agency_stack", "table inet agency_stack {"]


def test_empty_sets_have_no_elements() -> None:
    text = render(checked(**{**GOOD, "networks": [], "uplinks": [], "edge_ports": []}))
    assert text.count("elements = {") == 2, "the metadata addresses alone"


def test_metadata_addresses_are_addresses_that_do_not_overlap() -> None:
    for version, entries in ((4, METADATA4), (6, METADATA6)):
        networks = [ipaddress.ip_network(address) for address, dummy in entries]
        assert all(network.version == version for network in networks)
        assert not any(a.overlaps(b) for i, a in enumerate(networks) for b in networks[:i])


IPV4_HEAD = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
IPV4_ROUTES = [
    ("none", IPV4_HEAD, "", []),
    ("no files", "", "", []),
    ("IPv4", IPV4_HEAD + "eth0\t00000000\t0109D50A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n", "", ["eth0"]),
    ("a net, not the default", IPV4_HEAD + "eth0\t0009D50A\t00000000\t0001\t0\t0\t0\tF0FFFFFF\t0\t0\t0\n", "", []),
    ("half of all addresses", IPV4_HEAD + "tun0\t00000000\t0109D50A\t0003\t0\t0\t0\t00000080\t0\t0\t0\n", "", []),
    ("unreachable", IPV4_HEAD + "*\t00000000\t00000000\t0200\t0\t0\t0\t00000000\t0\t0\t0\n", "", []),
    (
        "IPv6",
        IPV4_HEAD,
        f"{'0' * 32} 00 {'0' * 32} 00 {'f' * 32} 00000400 00000001 00000000 00000003     br0\n",
        ["br0"],
    ),
    ("IPv6 of lo", "", f"{'0' * 32} 00 {'0' * 32} 00 {'0' * 32} ffffffff 00000001 00000000 00200200       lo\n", []),
    ("IPv6 net", "", f"fd{'0' * 30} 40 {'0' * 32} 00 {'0' * 32} 00000100 00000001 00000000 00000001     eth0\n", []),
]


@pytest.mark.parametrize(
    ("ipv4", "ipv6", "found"), [row[1:] for row in IPV4_ROUTES], ids=[row[0] for row in IPV4_ROUTES]
)
def test_default_route_interfaces(ipv4: str, ipv6: str, found: list[str]) -> None:
    assert default_route_interfaces(ipv4, ipv6) == found


@pytest.mark.parametrize(
    ("init", "lines"),
    [
        (
            "systemd",
            [
                "RequiresMountsFor=/opt/firewall.nft",
                "After=nftables.service",
                "Before=docker.service",
                "ExecStart=/usr/sbin/nft -f /opt/firewall.nft",
                "ExecReload=/usr/sbin/nft -f /opt/firewall.nft",
                "WantedBy=multi-user.target",
            ],
        ),
        (
            "sysv",
            [
                "# Provides:          agency-stack-firewall",
                "# X-Start-Before:    docker",
                "# Should-Start:      nftables",
                "# Default-Start:     2 3 4 5",
                "    start | restart | reload | force-reload) exec /usr/sbin/nft -f /opt/firewall.nft ;;",
            ],
        ),
    ],
)
def test_boot_unit(init: Any, lines: list[str]) -> None:
    text = boot_unit(init, "agency_stack", "/opt/firewall.nft", "/usr/sbin/nft")
    assert set(lines) <= set(text.splitlines())


def test_the_hook_covers_all_that_flushes() -> None:
    text = reload_hook("/opt/firewall.nft", "/usr/sbin/nft")
    assert [line for line in text.splitlines() if not line.startswith("#")] == [
        "[Service]",
        *(f"Exec{when}=-+/usr/sbin/nft -f /opt/firewall.nft" for when in ("StartPost", "Reload", "StopPost")),
    ]


def test_the_unit_is_named_after_the_table() -> None:
    assert unit_name("agency_stack") == "agency-stack-firewall"


@pytest.mark.parametrize(("live", "state"), [(None, "missing"), ("a", "ok"), ("b", "altered"), ("", "altered")])
def test_compare(live: str | None, state: str) -> None:
    assert compare("a", live) == state


@pytest.mark.parametrize(
    ("live", "foreign"),
    [
        (None, False),
        ("table inet t {\n}\n", False),
        (f'table inet t {{\n\tcomment "{OWNER}"\n\tchain x {{\n\t}}\n}}\n', False),
        (f'table inet t {{\n\tcomment "{OWNER}"\n\tflags dormant\n\n\tchain x {{\n\t}}\n}}\n', False),
        ("table inet t {\n\tchain x {\n\t}\n}\n", True),
        ('table inet t {\n\tcomment "mine"\n\tchain x {\n\t}\n}\n', True),
    ],
)
def test_tables_of_others_are_refused(live: str | None, foreign: bool) -> None:
    if foreign:
        with pytest.raises(TenancyError, match="choose another table name"):
            refuse_foreign_table("t", live)
    else:
        refuse_foreign_table("t", live)


WANTED = State(file="rules", table="listing", unit="unit", hook="hook", start="on")
AT_BOOT = ["delete start", "delete hook", "delete unit"]
PLANS = [
    ("bare host", WANTED, State(), ["create file", "create table", "create unit", "create hook", "create start"]),
    ("nothing to do", WANTED, WANTED, []),
    ("nothing wanted, nothing there", State(), State(), []),
    (
        "removal in reverse",
        State(),
        WANTED,
        [*AT_BOOT, "delete table", "delete file"],
    ),
    ("flushed", WANTED, replace(WANTED, table=None), ["create table"]),
    ("altered", WANTED, replace(WANTED, table="x"), ["update table"]),
    ("file edited", WANTED, replace(WANTED, file="x"), ["update file"]),
    ("one more client", replace(WANTED, file="x", table="x"), WANTED, ["update file", "update table"]),
    (
        "no longer at boot",
        replace(WANTED, unit=None, hook=None, start=None),
        WANTED,
        ["delete start", "delete hook", "delete unit"],
    ),
    ("disabled by hand", WANTED, replace(WANTED, start=None), ["create start"]),
]


@pytest.mark.parametrize(("wanted", "actual", "steps"), [row[1:] for row in PLANS], ids=[row[0] for row in PLANS])
def test_plan(wanted: State, actual: State, steps: list[str]) -> None:
    assert [f"{change.action} {change.payload}" for change in plan(wanted, actual, NAMES)] == steps


states = st.builds(State, **{field.name: st.none() | st.sampled_from(["a", "b"]) for field in fields(State)})


@given(states, states)
def test_a_plan_leads_from_what_is_to_what_is_wanted(wanted: State, actual: State) -> None:
    changes = plan(wanted, actual, NAMES)
    for change in changes:
        assert getattr(actual, change.payload) == change.before
        assert change.name == getattr(NAMES, change.payload)
    reached = replace(actual, **{change.payload: change.after for change in changes})
    assert reached == wanted
    assert plan(wanted, reached, NAMES) == []
