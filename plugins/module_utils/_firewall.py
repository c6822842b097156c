# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the host's firewall table and its boot unit contain, and what must change to get there."""

from __future__ import annotations

import ipaddress
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._egress import (
    Egress,
    Rule,
    faults_of_egress,
    parse_rule,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import (
    Change,
    InvalidInput,
    TenancyError,
)

InitSystem = Literal["systemd", "sysv"]
TableState = Literal["ok", "missing", "altered"]

# The kernel's limit for the name of an interface (IFNAMSIZ without the closing zero byte).
MAX_INTERFACE = 15
# Marks the table as ours, so that a table of the same name that belongs to somebody else is never overwritten.
OWNER = "agency_stack.multi_tenancy"

# A prefix ends in '-': no interface that the kernel or systemd names (eth0, enp3s0, wlan0, docker0) can match then.
_PREFIX = re.compile(r"[a-z][a-z0-9]*-")
_BRIDGE = re.compile(r"[a-z0-9-]{1,15}")
_INTERFACE = re.compile(r"[A-Za-z0-9_.-]{1,15}")
_TABLE = re.compile(r"[a-z][a-z0-9_]{0,31}")
_PATH = re.compile(r"/[A-Za-z0-9._/-]+")

# The host itself is kept from sending to the subnets of missing bridges, so they must not be parts of the internet.
_PRIVATE = tuple(ipaddress.IPv4Network(network) for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))

# Where clouds hand out credentials to whoever asks from the machine: (address, whose it is).
METADATA4 = (
    ("169.254.0.0/16", "link-local: AWS, Azure, Google, OpenStack, Oracle, Hetzner, DigitalOcean, Tencent, ECS tasks"),
    ("100.100.100.200", "Alibaba Cloud"),
    ("168.63.129.16", "Azure WireServer"),
    ("192.0.0.192", "Oracle Cloud"),
)
METADATA6 = (
    ("fd00:ec2::/32", "AWS: metadata (::254), pod credentials (::23)"),
    ("fd20:ce::254", "Google Cloud"),
    ("fd00:c1::a9fe:a9fe", "Oracle Cloud"),
    ("fd00:42::42", "Scaleway"),
    ("64:ff9b::a9fe:0/112", "169.254.0.0/16 through NAT64 (RFC 6052)"),
)


@dataclass(frozen=True)
class Firewall:
    """The wanted firewall; made by checked(), because every name in it ends in nft's own syntax."""

    table: str
    bridge_prefix: str
    subnets: tuple[str, ...]
    egress: tuple[Egress, ...]
    uplinks: tuple[str, ...]
    edge_ports: tuple[int, ...]


@dataclass(frozen=True)
class State:
    """What exists or is wanted, each part as the text that a diff shows; None is absent.

    Args:
        file: The text of the rules file.
        table: The table as nft lists it.
        unit: The text of the systemd unit or init script that loads the file at boot.
        hook: The text of the addition to nftables.service, on hosts with systemd.
        start: Whether the unit is started at boot.
    """

    file: str | None = None
    table: str | None = None
    unit: str | None = None
    hook: str | None = None
    start: str | None = None


KINDS = {
    "file": "firewall file",
    "table": "firewall table",
    "unit": "firewall boot unit",
    "hook": "firewall reload hook",
    "start": "firewall start at boot",
}


def checked(
    *,
    table: str,
    bridge_prefix: str,
    networks: Sequence[Mapping[str, Any]],
    uplinks: Sequence[str],
    edge_ports: Sequence[int],
    path: str,
    default_route_interfaces: Sequence[str] = (),
) -> Firewall:
    """The wanted firewall, or InvalidInput with every fault.

    Args:
        table: Name of the nftables table.
        bridge_prefix: What the name of every client bridge begins with.
        networks: The clients' networks: `bridge`, `subnet` (IPv4), `egress` (allow or deny) and `egress_allow` of each.
        uplinks: Bridges that lead out of the host.
        edge_ports: Ports of the host that containers may reach.
        path: The rules file.
        default_route_interfaces: The interfaces that lead out of the host now.
    """
    faults = []
    if _TABLE.fullmatch(table) is None:
        faults.append(f"table {table!a} is not allowed: use 1 to 32 of a-z, 0-9 and '_', beginning with a letter.")
    if _PATH.fullmatch(path) is None:
        faults.append(f"path {path!a} is not allowed: use an absolute path of letters, digits, '.', '_', '-' and '/'.")
    # 'br-' is how the engine names the bridges of networks that are not ours.
    if _PREFIX.fullmatch(bridge_prefix) is None or len(bridge_prefix) >= MAX_INTERFACE or bridge_prefix == "br-":
        faults.append(
            f"bridge_prefix {bridge_prefix!a} is not allowed: use up to {MAX_INTERFACE - 1} of a-z and 0-9, beginning "
            "with a letter and ending with '-', and not 'br-', which the engine gives to other networks."
        )
    else:
        faults += [
            f"bridge {bridge!a} is not allowed: use '{bridge_prefix}' followed by a-z, 0-9 and '-', "
            f"{MAX_INTERFACE} characters at most."
            for bridge in (network["bridge"] for network in networks)
            if _BRIDGE.fullmatch(bridge) is None or not bridge.startswith(bridge_prefix) or bridge == bridge_prefix
        ]
        faults += [
            f"{name} leads out of the host and begins with '{bridge_prefix}', so the firewall would cut the host off; "
            "choose another bridge_prefix."
            for name in sorted({*uplinks, *default_route_interfaces})
            if name.startswith(bridge_prefix)
        ]
    faults += [
        f"uplink {name!a} is not the name of an interface." for name in uplinks if not _INTERFACE.fullmatch(name)
    ]
    subnets, subnet_faults = _checked_subnets(networks)
    faults += subnet_faults
    for network in networks:
        where = f"bridge {network['bridge']!a}: "
        faults += faults_of_egress(network["egress"], network["egress_allow"], where)
    bridges = sorted(str(network["bridge"]) for network in networks)
    faults += [f"bridge {one!a} is named twice." for one, other in itertools.pairwise(bridges) if one == other]
    faults += [f"edge port {port} is not allowed: use 1 to 65535." for port in edge_ports if not 1 <= port <= 65535]
    if faults:
        raise InvalidInput(faults)
    return Firewall(
        table=table,
        bridge_prefix=bridge_prefix,
        subnets=tuple(map(str, sorted(subnets))),
        egress=tuple(
            sorted(
                (Egress(item["bridge"], item["egress"], _rules(item["egress_allow"])) for item in networks),
                key=lambda egress: egress.bridge,
            )
        ),
        uplinks=tuple(sorted(set(uplinks))),
        edge_ports=tuple(sorted(set(edge_ports))),
    )


def _rules(texts: Iterable[str]) -> tuple[Rule, ...]:
    return tuple(sorted(set(map(parse_rule, texts))))


def _checked_subnets(networks: Sequence[Mapping[str, Any]]) -> tuple[list[ipaddress.IPv4Network], list[str]]:
    """The subnets in order, and what is wrong with them."""
    subnets, faults = [], []
    for network in networks:
        try:
            subnet = ipaddress.IPv4Network(network["subnet"])
        except ValueError:
            faults.append(f"subnet {network['subnet']!a} is not an IPv4 network such as 10.217.0.0/28.")
            continue
        if not any(subnet.subnet_of(private) for private in _PRIVATE):
            faults.append(f"subnet {subnet} is not allowed: use a part of {', '.join(map(str, _PRIVATE))}.")
        subnets.append(subnet)
    subnets.sort()
    faults += [
        f"subnets {one} and {other} overlap." for one, other in itertools.pairwise(subnets) if one.overlaps(other)
    ]
    return subnets, faults


def render(wanted: Firewall) -> str:
    """The rules file: nft applies it as one transaction, so there is no moment without rules.

    Clients are only elements of sets; the number of rules is constant.

    The chains come before the engine's own (priority filter - 10 before filter). A drop is final wherever it is, but
    this way packets of clients are judged before any rule of the engine or of the operator is run, and after dstnat:
    a port that another client published has already become that client's bridge, or this host (docker-proxy).
    """
    pairs = [f'"{egress.bridge}" . "{egress.bridge}"' for egress in wanted.egress]
    free = [f'"{egress.bridge}"' for egress in wanted.egress if egress.policy == "allow"]
    open4, open6 = (
        [element for egress in wanted.egress if egress.policy == "deny" for element in _open(egress, version)]
        for version in (4, 6)
    )
    uplinks = [f'"{uplink}"' for uplink in wanted.uplinks]
    ours = f'"{wanted.bridge_prefix}*"'
    head = f"table inet {wanted.table}"
    # 'reply' is the direction of a connection that the other side began. Without it, connections from before the
    # table was loaded (or while somebody had flushed it) would stay open for ever.
    reply = "ct direction reply ct state established,related accept"
    return f"""# Written by agency_stack.multi_tenancy.host_firewall; edits are overwritten.
# One transaction: the first two lines make a reload replace the table as a whole.
{head}
delete {head}
{head} {{
    comment "{OWNER}"

    # Bridges of clients: traffic within one bridge is allowed. Such packets get here at all only with br_netfilter.
    set pairs {{
        type ifname . ifname
{_elements(pairs)}    }}

    # Subnets of clients; the engine is asked for IPv4 alone.
    set subnets {{
        type ipv4_addr
        flags interval
{_elements(wanted.subnets)}    }}

    # Bridges from which everything outside this host may be reached.
    set free {{
        type ifname
{_elements(free)}    }}

    # What may be reached outside from the other bridges.
    set open4 {{
        type ifname . ipv4_addr . inet_proto . inet_service
        flags interval
{_elements(open4)}    }}

    set open6 {{
        type ifname . ipv6_addr . inet_proto . inet_service
        flags interval
{_elements(open6)}    }}

    # Bridges that lead out of this host; every other bridge belongs to somebody else's containers or machines.
    set uplinks {{
        type ifname
{_elements(uplinks)}    }}

    # Ports of this host that containers may reach.
    set edge_ports {{
        type inet_service
{_elements([str(port) for port in wanted.edge_ports])}    }}

    # Cloud metadata: whoever reaches it becomes this machine.
    set metadata4 {{
        type ipv4_addr
        flags interval
{_commented_elements(METADATA4)}    }}

    set metadata6 {{
        type ipv6_addr
        flags interval
{_commented_elements(METADATA6)}    }}

    chain input {{
        type filter hook input priority filter - 10; policy accept;
        iifname {ours} jump from_client_to_host
    }}

    # While a bridge is away, the default route would carry what is meant for its client to a stranger. Those who send
    # are told at once, so that the edge answers in time.
    chain output {{
        type filter hook output priority filter - 10; policy accept;
        ip daddr @subnets oifname != "lo" oifname != {ours} reject with icmpx host-unreachable
    }}

    chain forward {{
        type filter hook forward priority filter - 10; policy accept;
        ip daddr @subnets oifname != {ours} drop
        iifname {ours} jump from_client
        oifname {ours} jump to_client
    }}

    chain from_client_to_host {{
        # Answers to the edge and to health checks, which this host began.
        {reply}
        # Without neighbour discovery there is no IPv6 at all; it tells no more than ARP does.
        icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} ip6 hoplimit 255 accept
        tcp dport @edge_ports accept
        # Every address of this host, whichever gateway it is asked through.
        drop
    }}

    chain from_client {{
        iifname . oifname @pairs accept
        # Other clients, and whatever else lives on a bridge of this host.
        meta oifkind "bridge" oifname != @uplinks drop
        # Packets that belong to no connection are not masqueraded and would leave with their inner address.
        ct state invalid drop
        # Some clouds serve names at their metadata address (Azure, Google); port 53 gives no credentials.
        iifname @free meta l4proto {{ tcp, udp }} th dport 53 return
        ip daddr @metadata4 drop
        ip6 daddr @metadata6 drop
        iifname @free return
        # Without state: what is no longer allowed ends at once. Answers from outside are judged in to_client.
        iifname . ip daddr . meta l4proto . th dport @open4 return
        iifname . ip6 daddr . meta l4proto . th dport @open6 return
        drop
    }}

    chain to_client {{
        {reply}
        # Hosts of the local network, other containers, ports published by DNAT: visitors come through the edge alone.
        drop
    }}
}}
"""


def _open(egress: Egress, version: int) -> list[str]:
    """The elements of a set for the rules of one bridge; networks that overlap are merged, because nft refuses them."""

    def service(rule: Rule) -> tuple[str, int]:
        return rule.protocol, rule.port

    elements = []
    rules = sorted((rule for rule in egress.rules if rule.version == version), key=service)
    for (protocol, port), group in itertools.groupby(rules, key=service):
        for network in _merged([rule.network for rule in group], version):
            elements.append(f'"{egress.bridge}" . {network} . {protocol} . {port}')
    return elements


def _merged(networks: Iterable[str], version: int) -> list[str]:
    """Networks of one IP version without overlaps."""
    if version == 4:
        return [str(network) for network in ipaddress.collapse_addresses(map(ipaddress.IPv4Network, networks))]
    return [str(network) for network in ipaddress.collapse_addresses(map(ipaddress.IPv6Network, networks))]


def _elements(items: Sequence[str]) -> str:
    if not items:
        return ""
    lines = ",\n".join(f"            {item}" for item in items)
    return f"        elements = {{\n{lines}\n        }}\n"


def _commented_elements(items: Sequence[tuple[str, str]]) -> str:
    lines = "".join(f"            {address}, # {whose}\n" for address, whose in items)
    return f"        elements = {{\n{lines}        }}\n"


def default_route_interfaces(ipv4_routes: str, ipv6_routes: str) -> list[str]:
    """The interfaces of the default routes, from the text of /proc/net/route and /proc/net/ipv6_route."""
    names = set()
    for line in ipv4_routes.splitlines()[1:]:
        column = line.split()
        if len(column) >= 8 and column[1] == column[7] == "00000000":
            names.add(column[0])
    for line in ipv6_routes.splitlines():
        column = line.split()
        if len(column) == 10 and column[0] == "0" * 32 and column[1] == "00":
            names.add(column[9])
    # 'lo' and '*' stand for unreachable routes.
    return sorted(names - {"lo", "*"})


def unit_name(table: str) -> str:
    """The name of the unit that loads a table at boot, without the ending that systemd adds."""
    return f"{table.replace('_', '-')}-firewall"


def boot_unit(init: InitSystem, table: str, path: str, nft: str) -> str:
    """The text of the systemd unit or init script that loads the file before the engine starts."""
    return (_SYSTEMD if init == "systemd" else _SYSV).format(name=unit_name(table), table=table, path=path, nft=nft)


def reload_hook(path: str, nft: str) -> str:
    """The text of the addition to nftables.service that brings the table back whenever that unit flushed all rules."""
    return _HOOK.format(path=path, nft=nft)


# There is no ExecStop: a stopped unit leaves the table in place.
_SYSTEMD = """\
# Written by agency_stack.multi_tenancy.host_firewall; edits are overwritten.
[Unit]
Description=Isolation of the clients of AgencyStack (nftables table {table})
RequiresMountsFor={path}
After=nftables.service
Before=docker.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={nft} -f {path}
ExecReload={nft} -f {path}

[Install]
WantedBy=multi-user.target
"""

# /etc/nftables.conf begins with 'flush ruleset', and so does a stop. PartOf and ReloadPropagatedFrom in the unit above
# are not enough: a mere start of nftables.service does not start anew what is active already.
# '-': a fault here must not break the operator's own rules; '+': not behind that unit's ProtectHome.
_HOOK = """\
# Written by agency_stack.multi_tenancy.host_firewall; edits are overwritten.
[Service]
ExecStartPost=-+{nft} -f {path}
ExecReload=-+{nft} -f {path}
ExecStopPost=-+{nft} -f {path}
"""

_SYSV = """\
#!/bin/sh
# Written by agency_stack.multi_tenancy.host_firewall; edits are overwritten.
### BEGIN INIT INFO
# Provides:          {name}
# Required-Start:    $local_fs
# Required-Stop:
# Should-Start:      nftables
# X-Start-Before:    docker
# Default-Start:     2 3 4 5
# Default-Stop:
# Short-Description: Isolation of the clients of AgencyStack
# Description:       Loads the nftables table {table}
### END INIT INFO
case "$1" in
    start | restart | reload | force-reload) exec {nft} -f {path} ;;
    # A stopped script leaves the table in place.
    stop) ;;
    status) exec {nft} list table inet {table} ;;
    *)
        echo "Usage: $0 {{start|stop|restart|reload|force-reload|status}}" >&2
        exit 2
        ;;
esac
"""


def compare(wanted: str, live: str | None) -> TableState:
    """How a table in the kernel stands to the wanted one, both as nft lists them."""
    if live is None:
        return "missing"
    return "ok" if live == wanted else "altered"


def refuse_foreign_table(table: str, live: str | None) -> None:
    """Raise TenancyError when a table of this name holds somebody else's rules."""
    if live is not None and "\tchain " in live and f'\tcomment "{OWNER}"\n' not in live:
        raise TenancyError(
            f"The nftables table 'inet {table}' holds rules that were not made by this collection; "
            "choose another table name, or remove that table yourself."
        )


def plan(wanted: State, actual: State, names: State) -> list[Change]:
    """What must change; the file before the table and the unit that are made from it, removals in reverse.

    Args:
        wanted: The host as it shall be.
        actual: The host as it is.
        names: The name of each part, for the report.
    """
    changes: list[Change] = []
    removals: list[Change] = []
    for part in (field.name for field in fields(State)):
        before, after = getattr(actual, part), getattr(wanted, part)
        if before == after:
            continue
        kind, name = KINDS[part], getattr(names, part)
        if after is None:
            removals.insert(0, Change("delete", kind, name, before, None, payload=part))
        else:
            changes.append(Change("create" if before is None else "update", kind, name, before, after, payload=part))
    return changes + removals
