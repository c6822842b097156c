# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: clients
short_description: Clients of a platform as hosts
author:
  - The AgencyStack developers (@agency-stack)
description:
  - Reads the registry of clients, C(<root>/multi_tenancy/clients.json), and lists each client as a host.
  - Every client is in the groups C(clients), C(level_<isolation level>), C(state_<state>) and C(service_<name>) for
    each of its services. Characters that a group's name cannot have become C(_).
  - Host variables are C(client_id), C(domain), C(aliases), C(isolation_level), C(state), C(subnet), C(uid), C(gid) and
    C(services), the sorted names of the services. What a client overrides of a service is left out, since it can hold
    secrets.
  - A client is no machine. Tasks run on the machine where Ansible runs (C(ansible_connection=local)), unless
    O(connection_host) names the platform's host.
  - What stands in the registry is never taken for a template.
  - The configuration file is named C(clients.yml) or C(clients.yaml), or its name ends in C(.clients.yml) or
    C(.clients.yaml).
extends_documentation_fragment:
  - constructed
  - inventory_cache
options:
  plugin:
    description:
      - The name of this plugin.
    type: str
    required: true
    choices:
      - agency_stack.multi_tenancy.clients
  registry:
    description:
      - The registry's file on the machine where Ansible runs, either the platform's own or one fetched from a host.
      - A relative path starts at the folder of the configuration file.
    type: str
    default: /opt/agency_stack/multi_tenancy/clients.json
  prefix:
    description:
      - What the names of the groups C(clients), C(level_…), C(state_…) and C(service_…) begin with.
    type: str
    default: ""
  host_prefix:
    description:
      - What the names of the hosts begin with, when an id is also the name of another host or group of the inventory.
    type: str
    default: ""
  connection_host:
    description:
      - The address of the host that the clients live on. It becomes C(ansible_host) of every client.
      - How Ansible logs in there is said as for any host, for example as variables of the group C(clients).
    type: str
"""

EXAMPLES = r"""
# inventory/clients.yml, on the platform's own host
plugin: agency_stack.multi_tenancy.clients

---
# inventory/host1.clients.yml, with a registry that was fetched from the host that the clients live on
plugin: agency_stack.multi_tenancy.clients
registry: fetched/host1/clients.json
connection_host: host1.example.com
prefix: host1_
compose:
  url: "'https://' ~ domain ~ '/'"
groups:
  has_aliases: aliases | length > 0
keyed_groups:
  - key: domain.split('.')[-1]
    prefix: tld
"""

import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from ansible import constants
from ansible.errors import AnsibleParserError
from ansible.inventory.group import to_safe_group_name
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry_store import load

ENDINGS = ("clients.yml", "clients.yaml")
COPIED = ("client_id", "domain", "aliases", "isolation_level", "state", "subnet", "uid", "gid")


def host_vars(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What a registry entry tells of its client, without the overrides of services, which can hold secrets."""
    return {**{key: entry[key] for key in COPIED}, "services": sorted(entry["services"])}


def group_names(client: Mapping[str, Any]) -> Iterator[str]:
    """The groups that a client belongs to."""
    yield "clients"
    yield f"level_{client['isolation_level']}"
    yield f"state_{client['state']}"
    for service in client["services"]:
        yield f"service_{service}"


def read_clients(registry: str) -> list[dict[str, Any]]:
    """The variables of every client of a registry.

    Raises:
        AnsibleParserError: There is no registry, or it cannot be used.
    """
    try:
        # For the platform no file is no clients; a mistyped path must not pass for an empty inventory.
        os.stat(registry)
        return [host_vars(entry) for entry in load(registry)["clients"]]
    except OSError as exc:
        raise AnsibleParserError(
            f"The registry {registry} cannot be read ({exc.strerror}): set `registry` to one that you may read."
        ) from None
    except TenancyError as exc:
        raise AnsibleParserError(str(exc)) from None


class InventoryModule(BaseInventoryPlugin, Constructable, Cacheable):  # type: ignore[misc]
    """The clients of a registry."""

    NAME = "agency_stack.multi_tenancy.clients"

    @staticmethod
    def _sanitize_group_name(name: str) -> str:
        """Ansible itself only warns of names that cannot be used everywhere."""
        return str(to_safe_group_name(name, force=True, silent=True))

    def verify_file(self, path: str) -> bool:
        """Take files that are named for clients."""
        name = os.path.basename(path)
        named = name in ENDINGS or name.endswith(tuple(f".{ending}" for ending in ENDINGS))
        return named and bool(super().verify_file(path))

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        """Fill the inventory."""
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        registry = os.path.join(os.path.dirname(path), os.path.expanduser(self.get_option("registry")))
        hosts = self._named(self._clients(path, os.path.abspath(registry), cache))
        strict = self.get_option("strict")
        connection = self._connection()
        for name, client in hosts.items():
            self.inventory.add_host(name)
            for key, value in {**client, **connection}.items():
                self.inventory.set_variable(name, key, value)
            self._set_composite_vars(self.get_option("compose"), client, name, strict=strict)
        for name, client in hosts.items():
            for group in self._groups(client):
                self.inventory.add_host(name, self.inventory.add_group(group))
            self._add_host_to_composed_groups(self.get_option("groups"), client, name, strict=strict)
        # Their names are not known before. Where a host and a group share a name, Ansible means the group from then on.
        for name, client in hosts.items():
            self._add_host_to_keyed_groups(self.get_option("keyed_groups"), client, name, strict=strict)

    def _clients(self, path: str, registry: str, cache: bool) -> list[dict[str, Any]]:
        """The clients, from the cache when it is wanted and filled."""
        if not self.get_option("cache"):
            return read_clients(registry)
        # Another registry in the same configuration file must not be answered with the earlier one.
        key = self.get_cache_key(f"{path}:{registry}")
        if not cache or key not in self._cache:
            self._cache[key] = read_clients(registry)
        clients: list[dict[str, Any]] = self._cache[key]
        return clients

    def _groups(self, client: Mapping[str, Any]) -> list[str]:
        """The names of a client's groups as they are in the inventory."""
        return [self._sanitize_group_name(self.get_option("prefix") + group) for group in group_names(client)]

    def _connection(self) -> dict[str, str]:
        """Where tasks of a client run."""
        host = self.get_option("connection_host")
        if host:
            return {"ansible_host": host}
        return {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}

    def _named(self, clients: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """The clients by the names of their hosts.

        Raises:
            AnsibleParserError: A name is taken; the client's connection would become that of a real machine.
        """
        hosts = {f"{self.get_option('host_prefix')}{client['client_id']}": client for client in clients}
        taken = {*self.inventory.hosts, *self.inventory.groups, *constants.LOCALHOST}
        taken |= {group for client in clients for group in self._groups(client)}
        taken |= {self._sanitize_group_name(group) for group in self.get_option("groups")}
        clashes = sorted(taken.intersection(hosts))
        if clashes:
            raise AnsibleParserError(
                f"The inventory has a host or group named {', '.join(clashes)} beside the client of that name: set "
                "`host_prefix`."
            )
        return hosts
