#!/usr/bin/python
# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: host_firewall
short_description: Isolates the bridges of clients with one nftables table
author:
  - The AgencyStack developers (@agency-stack)
description:
  - Keeps one nftables table (family C(inet)) equal to what the platform needs, in the kernel, in a file, and at boot.
  - Containers on a client's bridge reach neither other clients nor other networks of the engine, no address of the
    host, no port that others published, and no cloud metadata. Traffic within one bridge and answers to connections
    that the host began (the edge) stay open, and so does the way out to other machines, unless the network denies it.
    IPv4 and IPv6 are treated alike.
  - While a client's bridge is away, nothing that is meant for its subnet leaves the host by another interface; who
    sends is told at once that the client cannot be reached. Subnets are IPv4, as the engine is asked for no others.
  - Nothing but the host itself begins connections to these containers. The engine's C(docker-proxy) is part of the
    host, so do not publish ports of such containers; the edge reaches them without.
  - The rules of the engine stay as they are; this table is run before them. The number of rules does not depend on the
    number of clients.
  - The table is replaced in one transaction, so that there is no moment without rules.
  - A table that somebody altered or flushed is noticed, because the kernel's listing is compared with the listing of
    the wanted table, which is made in an empty network namespace.
requirements:
  - nft 1.0 or newer (Debian package C(nftables)) and a kernel with nf_tables
extends_documentation_fragment:
  - agency_stack.multi_tenancy.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  table:
    description:
      - Name of the nftables table, which belongs to this module alone. The unit that loads it at boot is named after
        it; for the default it is C(agency-stack-firewall).
    type: str
    default: agency_stack
  bridge_prefix:
    description:
      - What the names of all client bridges begin with, and no other interface's. It ends with C(-).
    type: str
    default: mt-
  networks:
    description:
      - The networks of clients that exist or are about to exist. A bridge with O(bridge_prefix) that is not listed here
        is closed, not open.
      - With O(registry) they are used in check mode alone.
    type: list
    elements: dict
    default: []
    suboptions:
      bridge:
        description:
          - Name of the bridge. Traffic within it is allowed; this matters on hosts where the kernel shows bridged
            packets to the firewall (C(br_netfilter), which the engine loads).
        type: str
        required: true
      subnet:
        description:
          - Its IPv4 network, a private one.
        type: str
        required: true
      egress:
        description:
          - V(allow) leaves the way out to other machines open, except to cloud metadata; of that, port 53 alone is
            open, because some clouds serve names there.
          - V(deny) closes it, port 53 included, but for O(networks[].egress_allow). Connections from before end too.
            Names of containers on the same network are still resolved, by the engine; for other names a name server
            must be in O(networks[].egress_allow), unless the engine asks one on the host's own loopback interface.
        type: str
        choices: [allow, deny]
        default: allow
      egress_allow:
        description:
          - What V(deny) leaves open, each C(CIDR:port) with C(/udp) after it when it is not TCP, such as
            V(203.0.113.0/24:443), V([2001:db8::/32]:443) or V(198.51.100.7:53/udp). Cloud metadata stays closed.
        type: list
        elements: str
        default: []
  registry:
    description:
      - Path of the registry C(clients.json), from which the networks of its clients are taken instead of O(networks).
        Its lock is held until the table is replaced, so that of several runs at once the last one has seen all clients.
      - In check mode it is not read, because it does not hold the clients that the same run would add.
    type: path
  config:
    description:
      - The platform's effective settings, which say with the registry what each client may reach. Needed with
        O(registry).
    type: dict
  lock_timeout:
    description:
      - Seconds to wait for another run that holds the lock of O(registry).
    type: int
    default: 60
  uplinks:
    description:
      - Bridges that lead out of the host, such as C(br0) on a host of virtual machines. Containers may send through
        them; every other bridge is taken for somebody else's network and closed.
      - When left out, these are the bridges that carry a default route of the main routing table. Of a default route
        with several next hops over IPv4 only the first one is seen; name all bridges here then.
    type: list
    elements: str
  clients_reach_edge:
    description:
      - Whether containers may reach O(edge_ports) of the host.
    type: bool
    default: false
  edge_ports:
    description:
      - TCP ports of the edge; used with O(clients_reach_edge=true).
    type: list
    elements: int
    default: [80, 443]
  path:
    description:
      - The file with the rules, from which the table is loaded, also at boot. Its directory must exist.
    type: path
    required: true
  boot:
    description:
      - Whether the table is loaded at boot before the engine starts, by a systemd unit, or by an init script on hosts
        without systemd.
      - On hosts with systemd it is also loaded whenever C(nftables.service) is started, stopped, restarted or reloaded,
        since that flushes all rules.
      - With V(false) all of this is removed.
    type: bool
    default: true
  state:
    description:
      - V(present) makes the table, the file and what loads it at boot; V(absent) removes them and leaves the host open.
    type: str
    choices: [present, absent]
    default: present
  log_dir:
    description:
      - Where the component log lies; every change is written to C(components/multi_tenancy.log) in it. Without it
        nothing is logged.
    type: path
"""

EXAMPLES = r"""
- name: Load the base table before the engine starts for the first time
  agency_stack.multi_tenancy.host_firewall:
    path: /opt/agency_stack/multi_tenancy/firewall.nft
    log_dir: /var/log/agency_stack

- name: Isolate two clients, of which one reaches nothing outside but one service
  agency_stack.multi_tenancy.host_firewall:
    path: /opt/agency_stack/multi_tenancy/firewall.nft
    networks:
      - bridge: mt-1
        subnet: 10.217.0.0/28
      - bridge: mt-2
        subnet: 10.217.0.16/28
        egress: deny
        egress_allow:
          - 203.0.113.0/24:443
    clients_reach_edge: true

- name: Isolate the clients of the registry
  agency_stack.multi_tenancy.host_firewall:
    path: /opt/agency_stack/multi_tenancy/firewall.nft
    registry: /opt/agency_stack/multi_tenancy/clients.json
    config: "{{ platform.config }}"
    # What the registry will say, for check mode.
    networks: "{{ registry.networks }}"

- name: Remove the table, its file and its unit
  agency_stack.multi_tenancy.host_firewall:
    path: /opt/agency_stack/multi_tenancy/firewall.nft
    state: absent
"""

RETURN = r"""
changes:
  description: What was changed, or would be changed in check mode, in order.
  returned: always
  type: list
  elements: dict
  contains:
    action:
      description: What was done.
      type: str
      choices: [create, update, delete]
    kind:
      description: Which part, one of C(firewall file), C(firewall table), C(firewall boot unit),
        C(firewall reload hook) and C(firewall start at boot).
      type: str
    name:
      description: The path or name of that part.
      type: str
    client_id:
      description: Always V(null), because the firewall belongs to no client.
      type: str
  sample:
    - action: update
      kind: firewall table
      name: inet agency_stack
      client_id:
failures:
  description: What could not be done, with the reason; the task fails when there is any.
  returned: always
  type: list
  elements: dict
  sample: []
table_state:
  description: How the table in the kernel stood to the wanted one before the run.
  returned: when O(state=present)
  type: str
  choices: [ok, missing, altered]
uplinks:
  description: The bridges that containers may send through.
  returned: when O(state=present)
  type: list
  elements: str
  sample: []
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._bridges import firewall_networks
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._files import locked
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._firewall import (
    State,
    boot_unit,
    compare,
    plan,
    refuse_foreign_table,
    reload_hook,
    render,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._nft import (
    DEFAULT_NFT,
    STARTED,
    Host,
    wanted_firewall,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry_store import load
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._runner import converge, finish, guarded


def run(module: AnsibleModule) -> None:
    """Keep the firewall, under the registry's lock when the networks are taken from there."""
    params = module.params
    registry = params["registry"]
    if registry is None or module.check_mode or params["state"] == "absent":
        keep(module, params["networks"])
        return
    with locked(registry + ".lock", params["lock_timeout"]):
        keep(module, firewall_networks(load(registry), params["config"]))


def keep(module: AnsibleModule, networks: Sequence[Mapping[str, Any]]) -> None:
    """Compare, plan and apply."""
    params = module.params
    present = params["state"] == "present"
    host = Host(params["table"], params["path"])
    edge_ports = params["edge_ports"] if params["clients_reach_edge"] else []
    firewall = wanted_firewall(host, params["bridge_prefix"], networks, edge_ports, params["uplinks"])
    if present and host.nft is None and not module.check_mode:
        raise TenancyError("nft is not installed, so no client can be isolated; install the package nftables.")
    wanted = State()
    if present:
        text = render(firewall)
        # Without nft (a plan for a bare host) the table is missing anyway, and its text stands for its listing.
        table = text if host.nft is None else host.canonical(text)
        wanted = State(file=text, table=table)
        if params["boot"]:
            nft = host.nft or DEFAULT_NFT
            unit = boot_unit(host.init, firewall.table, params["path"], nft)
            hook = reload_hook(params["path"], nft) if host.init == "systemd" else None
            wanted = State(file=text, table=table, unit=unit, hook=hook, start=STARTED)
    actual = host.state()
    refuse_foreign_table(firewall.table, actual.table)
    result = {}
    if wanted.table is not None:
        result = {"table_state": compare(wanted.table, actual.table), "uplinks": list(firewall.uplinks)}
    names = State(
        file=params["path"],
        table=f"inet {firewall.table}",
        unit=host.unit_path,
        hook=host.hook_path,
        start=host.unit,
    )
    changes = plan(wanted, actual, names)
    finish(module, converge(module, changes, host.apply, log_dir=params["log_dir"], **result))


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "table": {"type": "str", "default": "agency_stack"},
            "bridge_prefix": {"type": "str", "default": "mt-"},
            "networks": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "bridge": {"type": "str", "required": True},
                    "subnet": {"type": "str", "required": True},
                    "egress": {"type": "str", "choices": ["allow", "deny"], "default": "allow"},
                    "egress_allow": {"type": "list", "elements": "str", "default": []},
                },
            },
            "registry": {"type": "path"},
            "config": {"type": "dict"},
            "lock_timeout": {"type": "int", "default": 60},
            "uplinks": {"type": "list", "elements": "str"},
            "clients_reach_edge": {"type": "bool", "default": False},
            "edge_ports": {"type": "list", "elements": "int", "default": [80, 443]},
            "path": {"type": "path", "required": True},
            "boot": {"type": "bool", "default": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "log_dir": {"type": "path"},
        },
        required_by={"registry": ["config"]},
        supports_check_mode=True,
    )
    guarded(module, lambda: run(module))


if __name__ == "__main__":
    main()
