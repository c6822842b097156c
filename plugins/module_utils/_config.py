# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The platform's settings: what config.yaml may say, its defaults, and the effective whole."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._catalog import (
    BUILT_IN,
    check_arguments,
    container_faults,
    merge,
    normalise_services,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._contract import fault_of_level
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._egress import (
    faults_of_egress,
    faults_of_rate,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._images import SITE_SHARED_COMMAND, reference
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._names import (
    canonical_domain,
    check_client_id,
    shown,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import InvalidInput

# On the first run of all it may be missing; there is no text to be changed then.
with contextlib.suppress(ImportError):
    import yaml

# https://www.rfc-editor.org/rfc/rfc1918
_PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")

_NAME_PREFIX = re.compile(r"[a-z][a-z0-9]{0,5}")

CONFIG_SPEC: dict[str, Any] = {
    "default_client_id": {"type": "str", "default": "default"},
    "root_domain": {"type": "str", "default": "localhost"},
    "isolation_level": {"type": "str", "default": "medium"},
    "client_services": {"type": "list", "elements": "str", "default": ["site"]},
    "network_pool": {"type": "str", "default": "10.217.0.0/16"},
    "subnet_prefix": {"type": "int", "default": 28},
    # systemd's table of uids leaves 1879048192 to 2147483647 unused (https://systemd.io/UIDS-GIDS/).
    "uid_base": {"type": "int", "default": 1900000000},
    "name_prefix": {"type": "str", "default": "mt"},
    "health_timeout": {"type": "int", "default": 60},
    "scripts": {"type": "bool", "default": True},
    "edge": {
        "type": "dict",
        "apply_defaults": True,
        "options": {
            "image": {"type": "str", "default": BUILT_IN},
            "http_port": {"type": "int", "default": 80},
            "https_port": {"type": "int", "default": 443},
            "api_port": {"type": "int", "default": 8079},
            "mem_limit": {"type": "str", "default": "512m"},
        },
    },
    "firewall": {
        "type": "dict",
        "apply_defaults": True,
        "options": {
            "clients_reach_edge": {"type": "bool", "default": False},
        },
    },
    "soft": {
        "type": "dict",
        "apply_defaults": True,
        "options": {
            "rate_average": {"type": "int", "default": 100},
            "rate_burst": {"type": "int", "default": 200},
        },
    },
    "medium": {
        "type": "dict",
        "apply_defaults": True,
        "options": {
            "egress": {"type": "str", "default": "allow"},
            "egress_allow": {"type": "list", "elements": "str", "default": []},
        },
    },
    "hard": {
        "type": "dict",
        "apply_defaults": True,
        "options": {
            "egress": {"type": "str", "default": "deny"},
            "egress_allow": {"type": "list", "elements": "str", "default": []},
            "memory": {"type": "str", "default": "512m"},
            "cpus": {"type": "float", "default": 0.5},
            "pids": {"type": "int", "default": 512},
            "disk": {"type": "str", "default": "1g"},
        },
    },
    "capacity": {
        "type": "dict",
        "apply_defaults": True,
        "options": {
            "reserved_memory": {"type": "str", "default": "512m"},
            "reserved_cpus": {"type": "float", "default": 0.0},
            "reserved_disk": {"type": "str", "default": "2g"},
            "cpu_overcommit": {"type": "float", "default": 1.0},
        },
    },
    "services": {"type": "dict", "default": {}},
}

SITE_SERVICE: dict[str, Any] = {
    "image": BUILT_IN,
    "volumes": ["site:/srv/www:ro"],
    "tmpfs": ["/tmp:size=16m,mode=1777"],
    "stop_signal": "SIGQUIT",
    "healthcheck": {"test": ["CMD", "/bin/busybox", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8081/healthz"]},
    "deploy": {"update_config": {"order": "start-first"}},
    "mem_limit": "64m",
    "cpus": 1.0,
    "pids_limit": 32,
    "port": 8080,
    "shared": {"command": list(SITE_SHARED_COMMAND), "mem_limit": "256m", "cpus": 2.0, "pids_limit": 64},
}


def effective_config(layers: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Lay the settings over each other and check the result.

    Args:
        layers: (where it comes from, settings), the weakest first. Mappings are merged key by key, null takes a setting
            back to its default, all else replaces.

    Returns:
        The effective settings, every key present, images of the platform's own as real references.

    Raises:
        InvalidInput: All faults at once, each with the layer that brought it.
    """
    config, faults = _checked([settings for dummy, settings in layers])
    if faults:
        raise InvalidInput(_with_sources(layers, faults))
    prefix = config["name_prefix"]
    config["firewall"]["table"] = "agency_stack" if prefix == "mt" else f"agency_stack_{prefix}"
    if config["edge"]["image"] == BUILT_IN:
        config["edge"]["image"] = reference("edge")
    return config


def _checked(layers: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """The settings over each other, with their defaults and their services, and the faults that they have."""
    merged: dict[str, Any] = {}
    faults: list[str] = []
    for settings in layers:
        unknown = sorted(str(key) for key in settings if key not in CONFIG_SPEC)
        faults += [f"'{shown(key)[1:-1]}' is no setting; known are {', '.join(CONFIG_SPEC)}." for key in unknown]
        merged = merge(merged, {key: value for key, value in settings.items() if key in CONFIG_SPEC})
    config, messages = check_arguments(CONFIG_SPEC, merged)
    faults += messages
    if faults:
        return config, faults
    catalog = merge({"site": SITE_SERVICE}, config["services"])
    config["services"], faults = normalise_services(catalog)
    return config, faults + _value_faults(config, config["services"], list(catalog))


def _with_sources(layers: Sequence[tuple[str, Mapping[str, Any]]], faults: Sequence[str]) -> list[str]:
    """The faults, each after the name of the layer with which it came and did not go again."""
    sources: dict[str, str] = {}
    for number, (source, settings) in enumerate(layers, 1):
        here = _checked([settings for dummy, settings in layers[:number]])[1] if settings else list(sources)
        sources = {fault: sources.get(fault, source) for fault in here}
    return [f"{sources.get(fault, 'The settings')}: {fault}" for fault in dict.fromkeys(faults)]


def _value_faults(config: Mapping[str, Any], services: Mapping[str, Any], catalog: Sequence[str]) -> list[str]:
    faults: list[str] = []
    for check, key in ((check_client_id, "default_client_id"), (canonical_domain, "root_domain")):
        try:
            check(config[key])
        except InvalidInput as exc:
            faults += [f"{key}: {fault}" for fault in exc.faults]
    level_fault = fault_of_level(config["isolation_level"])
    if level_fault:
        faults.append(level_fault)
    try:
        pool = ipaddress.IPv4Network(config["network_pool"])
        if not pool.prefixlen < config["subnet_prefix"] <= 29:
            faults.append(
                f"subnet_prefix {config['subnet_prefix']} must lie between the pool's {pool.prefixlen} and 29."
            )
        if not any(pool.subnet_of(ipaddress.IPv4Network(network)) for network in _PRIVATE):
            faults.append(f"network_pool {pool} is not a private range: use a part of {', '.join(_PRIVATE)}.")
    except ValueError as exc:
        faults.append(f"network_pool: {exc}; use a private IPv4 network such as 10.217.0.0/16.")
    if _NAME_PREFIX.fullmatch(config["name_prefix"]) is None:
        faults.append(
            f"name_prefix {shown(config['name_prefix'])} is not allowed: use 1 to 6 of a-z and 0-9, a letter first."
        )
    if not 65536 <= config["uid_base"] <= 2147400000:
        faults.append("uid_base must lie between 65536 and 2147400000.")
    if not 1 <= config["health_timeout"] <= 3600:
        faults.append("health_timeout must lie between 1 and 3600 seconds.")
    for level in ("medium", "hard"):
        faults += faults_of_egress(config[level]["egress"], config[level]["egress_allow"], f"{level}.")
    faults += faults_of_rate(config["soft"]["rate_average"], config["soft"]["rate_burst"], "soft.rate_")
    ports = [config["edge"][key] for key in ("http_port", "https_port", "api_port")]
    if not all(1 <= port <= 65535 for port in ports) or len(set(ports)) != len(ports):
        faults.append("edge: http_port, https_port and api_port must be three different ports from 1 to 65535.")
    faults += [f"edge.{fault}." for fault in container_faults(config["edge"])]
    faults += [
        f"client_services: '{shown(name)[1:-1]}' is not in the catalog ({', '.join(catalog)})."
        for name in config["client_services"]
        if name not in catalog
    ]
    return faults


# What YAML takes for something else, or cannot read, when it stands in a text as it is.
_UNREADABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_PLAIN_KEY = re.compile(r"(?!(?:y|n|yes|no|on|off|true|false|null)$)[A-Za-z_][A-Za-z0-9_-]*", re.IGNORECASE)


def _flow(value: Any) -> str:
    """A value on one line, as JSON, which is YAML."""
    text = json.dumps(value, ensure_ascii=False)
    return _UNREADABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _lines(key: str, value: Any) -> list[str]:
    """A setting as YAML, mappings as blocks."""
    name = key if _PLAIN_KEY.fullmatch(key) else _flow(key)
    if not isinstance(value, Mapping) or not value:
        return [f"{name}: {_flow(value)}"]
    return [f"{name}:", *_indented(_block(value), 2)]


def _block(settings: Mapping[str, Any]) -> list[str]:
    return [line for key, value in settings.items() for line in _lines(str(key), value)]


def initial_text(settings: Mapping[str, Any]) -> str:
    """config.yaml as it is made: what was chosen, and the rest as comments with the defaults.

    Args:
        settings: What was chosen, keys of CONFIG_SPEC, null for nothing.
    """
    lines = [
        "---",
        "# Settings of agency_stack.multi_tenancy on this host. Edit, then run: make multi_tenancy",
        "# A re-run keeps your edits. What is commented out shows the default.",
        "",
    ]
    for key, spec in CONFIG_SPEC.items():
        options = {name: option["default"] for name, option in spec.get("options", {}).items()}
        value = settings.get(key)
        if value is None and key in ("default_client_id", "root_domain", "isolation_level"):
            value = spec["default"]
        if value is not None and not (options and not value):
            lines += _lines(key, value)
            rest = {name: default for name, default in options.items() if name not in value}
        elif options:
            lines.append(f"# {key}:")
            rest = options
        else:
            lines.append(f"# {key}: {_flow(spec['default'])}")
            rest = {}
        lines += [f"#   {name}: {_flow(default)}" for name, default in rest.items()]
    return "\n".join(lines) + "\n"


def text_with(text: str, settings: Mapping[str, Any]) -> str:
    """config.yaml with some top-level settings set; every other line, comments included, stays as it is.

    Of a mapping that is written as a block only the lines that differ are written. Whether the outcome says what it
    should is for the caller to see: some texts can only be changed by hand.

    Args:
        text: YAML that can be read, a mapping or nothing.
        settings: What is to be said; null is written as null.
    """
    present = yaml.safe_load(text) or {}
    settings = {key: value for key, value in settings.items() if key not in present or present[key] != value}
    if not settings:
        return text
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    end = "\r\n" if "\r\n" in text else "\n"
    if not isinstance(root, yaml.MappingNode):
        edits, added = [], _block(settings)
    elif root.flow_style:
        edits, added = [(root.start_mark.index, root.end_mark.index, _block(present | settings))], []
    else:
        edits, added = _edits(text, root, present, settings)
    parts, at = [], 0
    # What is added at one place to mappings in each other is noted for the innermost first.
    for start, stop, lines in sorted(edits, key=lambda edit: edit[0]):
        parts += [text[at:start], end.join(lines)]
        at = stop
    text = "".join(parts) + text[at:]
    if added and text and not text.endswith("\n"):
        text += end
    return text + "".join(line + end for line in added)


def _edits(
    text: str, node: Any, present: Mapping[str, Any], wanted: Mapping[str, Any]
) -> tuple[list[tuple[int, int, list[str]]], list[str]]:
    """How a block mapping comes to say something else.

    Args:
        text: The whole text.
        node: The mapping in it.
        present: What it says.
        wanted: What it shall say; keys that are not in it stay, but go below.

    Returns:
        (begin, end, lines that take its place) of each part that differs, and the lines of keys that it does not have.
    """
    pairs = {key.value: (key, value) for key, value in node.value if isinstance(key, yaml.ScalarNode)}
    edits: list[tuple[int, int, list[str]]] = []
    added: list[str] = []
    for name, value in wanted.items():
        below = present.get(name)
        if name in present and below == value:
            continue
        if name not in pairs:
            added += _lines(name, value)
            continue
        key, old = pairs[name]
        in_place = isinstance(below, dict) and isinstance(value, Mapping) and not below.keys().isdisjoint(value)
        if in_place and isinstance(old, yaml.MappingNode) and not old.flow_style and not _is_alias(key, old):
            inner, more = _edits(text, old, below or {}, value)
            gone = set(below or {}) - set(value)
            edits += [*inner, *(_without(text, *pair) for pair in old.value if pair[0].value in gone)]
            if more:
                last = _end_of_line(text, _end_of(text, *old.value[-1]))
                edits.append((last, last, ["", *_indented(more, old.start_mark.column)]))
        else:
            first, *others = _lines(name, value)
            lines = [first, *_indented(others, key.start_mark.column)]
            edits.append((key.start_mark.index, _end_of(text, key, old), lines))
    return edits, added


_ALIAS = re.compile(r"\s*:\s*\*\S+")


def _is_alias(key: Any, value: Any) -> bool:
    """Whether the value of a key stands elsewhere."""
    return bool(value.start_mark.index < key.end_mark.index)


def _end_of(text: str, key: Any, value: Any) -> int:
    """Where a key with its value ends; to YAML a block ends only where the next one begins, after all comments."""
    if _is_alias(key, value):
        alias = _ALIAS.match(text, key.end_mark.index)
        return key.end_mark.index if alias is None else alias.end()
    if isinstance(value, yaml.CollectionNode) and not value.flow_style:
        last = value.value[-1]
        return _end_of(text, *last) if isinstance(value, yaml.MappingNode) else _end_of(text, key, last)
    return len(text[: value.end_mark.index].rstrip(" \t\r\n"))


def _end_of_line(text: str, at: int) -> int:
    return at + len(re.split(r"[\r\n]", text[at:], maxsplit=1)[0])


def _without(text: str, key: Any, value: Any) -> tuple[int, int, list[str]]:
    """How a key with its value, on lines of their own, goes.

    The line end before it goes, not the one after it, where another key may be added.
    """
    before = text[: key.start_mark.index - key.start_mark.column].removesuffix("\n").removesuffix("\r")
    return len(before), _end_of_line(text, _end_of(text, key, value)), []


def _indented(lines: Iterable[str], by: int) -> list[str]:
    return [" " * by + line for line in lines]
