# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a client's containers may reach outside the host, and how often visitors may ask for it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._names import shown

POLICIES = ("allow", "deny")
PROTOCOLS = ("tcp", "udp")

_RULE = re.compile(
    r"(?:\[(?P<six>[0-9a-fA-F:.]{2,45}(?:/[0-9]{1,3})?)\]|(?P<four>[0-9.]{7,15}(?:/[0-9]{1,2})?))"
    r":(?P<port>[0-9]{1,5})(?:/(?P<protocol>[a-z]{1,4}))?"
)


@dataclass(frozen=True, order=True)
class Rule:
    """One destination that stays open.

    Args:
        network: IPv4 or IPv6 network in CIDR notation.
        port: Port there.
        protocol: tcp or udp.
    """

    network: str
    port: int
    protocol: str

    @property
    def version(self) -> int:
        """4 or 6."""
        return ipaddress.ip_network(self.network).version

    def __str__(self) -> str:
        """The rule as parse_rule() reads it."""
        network = f"[{self.network}]" if self.version == 6 else self.network
        return f"{network}:{self.port}/{self.protocol}"


@dataclass(frozen=True)
class Egress:
    """What one client's bridge may send out of the host.

    Args:
        bridge: Name of the bridge.
        policy: `allow` lets all out but what is closed to everybody, `deny` the rules alone.
        rules: What stays open with `deny`.
    """

    bridge: str
    policy: str
    rules: tuple[Rule, ...] = ()


def parse_rule(text: str) -> Rule:
    """The rule in a text such as 203.0.113.0/24:443, [2001:db8::/32]:443 or 198.51.100.7:53/udp.

    Raises:
        ValueError: It is none; the text says what is allowed.
    """
    match = _RULE.fullmatch(text) if isinstance(text, str) else None
    allowed = "use CIDR:port, such as 203.0.113.0/24:443, [2001:db8::/32]:443 or 198.51.100.7:53/udp"
    if match is None:
        raise ValueError(f"{shown(text)} is no destination: {allowed}")
    try:
        network = ipaddress.ip_network(match["six"] or match["four"])
    except ValueError as exc:
        raise ValueError(f"{shown(text)} is no destination ({exc}): {allowed}") from exc
    if network.prefixlen == 0:
        raise ValueError(f"{shown(text)} is everything: set egress to allow instead")
    port, protocol = int(match["port"]), match["protocol"] or "tcp"
    if not 1 <= port <= 65535 or protocol not in PROTOCOLS:
        raise ValueError(
            f"{shown(text)} is no destination: the port is 1 to 65535, the protocol {' or '.join(PROTOCOLS)}"
        )
    return Rule(str(network), port, protocol)


def faults_of_egress(policy: object, rules: object, where: str = "") -> list[str]:
    """What is wrong with the settings `egress` and `egress_allow`, each one sentence."""
    faults = []
    if policy is not None and policy not in POLICIES:
        faults.append(f"{where}egress {shown(policy)} is not allowed: use {' or '.join(POLICIES)}.")
    if rules is not None and not isinstance(rules, Sequence):
        return [*faults, f"{where}egress_allow must be a list."]
    for text in rules or ():
        try:
            parse_rule(text)
        except ValueError as exc:
            faults.append(f"{where}egress_allow: {exc}.")
    return faults


def faults_of_rate(average: object, burst: object, where: str) -> list[str]:
    """What is wrong with a limit of requests, each one sentence; 0 means no limit."""
    faults = []
    for name, value in (("average", average), ("burst", burst)):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 1_000_000:
            faults.append(f"{where}{name} {shown(value)} is not allowed: use 0 (no limit) to 1000000 requests.")
    return faults
