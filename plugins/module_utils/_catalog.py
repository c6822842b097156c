# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The services that clients can have, described with Compose's keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._images import BUILT_IN as BUILT_IN_IMAGES
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._images import reference
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._names import NO_TEXT, SERVICE_NAME, shown

# The value of `image` that stands for the image which the platform builds by itself.
BUILT_IN = "built-in"

# Capabilities that let a process leave its container, read the wire or load code into the kernel are not on offer.
ALLOWED_CAPABILITIES = (
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETUID",
)

SERVICE_SPEC: dict[str, Any] = {
    "image": {"type": "str", "required": True},
    "command": {"type": "list", "elements": "str"},
    "entrypoint": {"type": "list", "elements": "str"},
    "environment": {"type": "dict", "default": {}},
    "user": {"type": "str"},
    "read_only": {"type": "bool", "default": True},
    "tmpfs": {"type": "list", "elements": "str", "default": []},
    "volumes": {"type": "list", "elements": "str", "default": []},
    "cap_add": {"type": "list", "elements": "str", "choices": list(ALLOWED_CAPABILITIES), "default": []},
    "mem_limit": {"type": "str"},
    "cpus": {"type": "float"},
    "pids_limit": {"type": "int"},
    "stop_signal": {"type": "str"},
    "stop_grace_period": {"type": "str", "default": "10s"},
    "healthcheck": {
        "type": "dict",
        "options": {
            "test": {"type": "list", "elements": "str", "required": True},
            "interval": {"type": "str", "default": "30s"},
            "timeout": {"type": "str", "default": "5s"},
            "retries": {"type": "int", "default": 3},
            "start_period": {"type": "str", "default": "30s"},
        },
    },
    "deploy": {
        "type": "dict",
        "apply_defaults": True,
        "options": {
            "update_config": {
                "type": "dict",
                "apply_defaults": True,
                "options": {
                    "order": {"type": "str", "choices": ["stop-first", "start-first"], "default": "stop-first"},
                },
            },
        },
    },
    # As Compose has it, a list of names or a mapping of names to conditions.
    "depends_on": {"type": "raw"},
    "secrets": {"type": "list", "elements": "str", "default": []},
    # Not Compose's: where the edge sends requests, and under which name in front of the client's domain.
    "port": {"type": "int"},
    "subdomain": {"type": "str"},
    # How the one instance differs that serves all clients of the level soft; without it there is none.
    "shared": {"type": "dict"},
}

DEPENDENCY_CONDITIONS = ("service_started", "service_healthy")
# Names that stand for something else where services are named.
RESERVED_SERVICES = ("edge", "traefik")

_SIZE = re.compile(r"([1-9][0-9]{0,14})(b|k|kb|m|mb|g|gb)?", re.IGNORECASE)
_DURATION = re.compile(r"(?:([0-9]{1,4})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,8})s)?(?:([0-9]{1,9})ms)?")
_IMAGE = re.compile(
    r"[a-z0-9][a-z0-9._-]*(?::[0-9]{1,5})?(?:/[a-z0-9][a-z0-9._-]*)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)
# One folder, directly below data/, which root owns. Inside a folder that a container can write, a client could put a
# symbolic link in the place of the source, and the engine, which looks the source up at every start, would follow it.
_VOLUME = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,63}):(/[A-Za-z0-9._/-]{1,255})(:ro|:rw)?")
_ENVIRONMENT_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_SECRET = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_USER = re.compile(r"[0-9]{1,10}(?::[0-9]{1,10})?")
_SUBDOMAIN = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_SIGNAL = re.compile(r"SIG[A-Z0-9]{2,8}")
_TMPFS = re.compile(r"/[A-Za-z0-9._/-]{1,255}(?::[a-z0-9=,]{1,100})?")
_UNITS = {"": 1, "b": 1, "k": 1024, "m": 1024**2, "g": 1024**3}


def parse_size(text: str) -> int:
    """Bytes of a Compose byte value such as 256m.

    Raises:
        ValueError: It is none.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{shown(text)} is no size such as 256m or 2g")
    return int(match[1]) * _UNITS[(match[2] or "").lower()[:1]]


def parse_duration(text: str) -> int:
    """Nanoseconds of a Compose duration such as 1m30s.

    Raises:
        ValueError: It is none.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None or not any(match.groups()):
        raise ValueError(f"{shown(text)} is no duration such as 30s or 1m30s")
    hours, minutes, seconds, milliseconds = (int(group or 0) for group in match.groups())
    return ((hours * 60 + minutes) * 60 + seconds) * 10**9 + milliseconds * 10**6


def parse_volume(text: str) -> tuple[str, str, bool]:
    """(path below the client's data folder, path in the container, read-only) of a volume such as site:/srv/www:ro.

    Raises:
        ValueError: It is none, or leaves the client's data folder.
    """
    match = _VOLUME.fullmatch(text)
    if match is None or ".." in match[2].split("/"):
        raise ValueError(
            f"{shown(text)} is no volume of the form folder:/path/in/container[:ro], "
            "with the name of one folder in the client's data"
        )
    return match[1], match[2], match[3] == ":ro"


def without_values(service: Mapping[str, Any]) -> dict[str, Any]:
    """A service, or a client's overrides of one, as it may be shown: values of the environment may be secrets."""
    if not isinstance(service.get("environment"), Mapping):
        return dict(service)
    return {**service, "environment": dict.fromkeys(service["environment"], "(not shown)")}


def merge(weak: Mapping[str, Any], strong: Mapping[str, Any]) -> dict[str, Any]:
    """strong laid over weak: mappings are merged key by key, null takes a key away again, all else replaces."""
    result = deepcopy(dict(weak))
    for key, value in strong.items():
        # YAML knows numbers as keys; as text they are refused by name like any other unknown one.
        key = str(key)  # noqa: PLW2901
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            below = result.get(key)
            result[key] = merge(below if isinstance(below, Mapping) else {}, value)
        else:
            result[key] = deepcopy(value)
    return result


def normalise_services(services: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Check a catalog and fill in its defaults.

    Returns:
        The services by name with every key of SERVICE_SPEC that is set, and the faults found, each one sentence.
    """
    normal: dict[str, dict[str, Any]] = {}
    faults: list[str] = []
    for name, service in services.items():
        where = f"services.{name}" if isinstance(name, str) else f"services.{shown(name)}"
        if not isinstance(name, str) or SERVICE_NAME.fullmatch(name) is None:
            faults.append(f"The service name {shown(name)} is not allowed: use 1 to 24 of a-z, 0-9 and '-'.")
        elif name in RESERVED_SERVICES:
            faults.append(f"The service name '{name}' is reserved for the platform.")
        elif not isinstance(service, Mapping):
            faults.append(f"{where} must be a mapping with Compose's keys.")
        else:
            parameters, messages = check_arguments(SERVICE_SPEC, service)
            faults += [f"{where}: {message}" for message in messages]
            if not messages:
                normal[name] = {k: v for k, v in parameters.items() if v is not None}
                normal[name]["depends_on"], dependency_faults = _dependencies(normal[name].get("depends_on"))
                faults += [f"{where}.{fault}." for fault in (*_value_faults(normal[name]), *dependency_faults)]
                if normal[name]["image"] == BUILT_IN and name in BUILT_IN_IMAGES:
                    normal[name]["image"] = reference(name)
                elif normal[name]["image"] == BUILT_IN:
                    faults.append(f"{where}: there is no built-in image of that name; set image.")
    faults += [fault for name in normal for fault in _faults_of_sharing(name, services[name])]
    return normal, faults


def shared_service(name: str, service: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A service as the one instance runs it that serves all clients of the level soft, and the faults of that.

    Args:
        name: Its name.
        service: Its catalog entry, with the key `shared`.
    """
    alone = {key: value for key, value in service.items() if key != "shared"}
    normal, faults = normalise_services({name: merge(alone, service["shared"])})
    return normal.get(name, {}), faults


def _faults_of_sharing(name: str, service: Mapping[str, Any]) -> list[str]:
    """What is wrong with the shared form of a service, each one sentence."""
    if not isinstance(service.get("shared"), Mapping):
        return []
    shared, faults = shared_service(name, service)
    where = f"services.{name}.shared"
    if faults:
        return [fault.replace(f"services.{name}", where, 1) for fault in faults]
    if len(shared["volumes"]) > 1:
        faults.append(f"{where}: a shared instance has one volume at most, with a folder of each client in it.")
    if shared["secrets"] or shared["depends_on"] or "user" in shared:
        faults.append(f"{where}: secrets, depends_on and user belong to a client, and a shared instance to none.")
    if {"port", "subdomain"} & service["shared"].keys():
        faults.append(f"{where}: port and subdomain are those of the service; set them there.")
    return faults


def _dependencies(given: Any) -> tuple[dict[str, str], list[str]]:
    """Conditions by name of the service that another one needs, and the faults, each one sentence without its dot."""
    if given is None:
        return {}, []
    if isinstance(given, list) and all(isinstance(name, str) for name in given):
        return dict.fromkeys(given, "service_started"), []
    conditions = {}
    if not isinstance(given, Mapping):
        return {}, ["depends_on must be a list of names, or a mapping of names to conditions"]
    for name, value in given.items():
        condition = value.get("condition") if isinstance(value, Mapping) and set(value) <= {"condition"} else value
        if condition not in DEPENDENCY_CONDITIONS:
            allowed = " or ".join(f"{{condition: {one}}}" for one in DEPENDENCY_CONDITIONS)
            return {}, [f"depends_on.{shown(name)[1:-1]} {shown(value)} is not allowed: use {allowed}"]
        conditions[str(name)] = str(condition)
    return conditions, []


def in_order(services: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The names of a client's services, each after those that it depends on.

    Raises:
        ValueError: One that is needed is not among them, or they need each other in a circle.
    """
    order: list[str] = []
    waiting = sorted(services)
    for name in waiting:
        missing = sorted(set(services[name]["depends_on"]) - services.keys())
        if missing:
            raise ValueError(f"services.{name} depends on '{missing[0]}', which this client does not have.")
    while waiting:
        ready = [name for name in waiting if set(services[name]["depends_on"]) <= set(order)]
        if not ready:
            raise ValueError(f"services: {', '.join(waiting)} depend on each other in a circle.")
        order.append(ready[0])
        waiting.remove(ready[0])
    return order


def check_arguments(spec: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The arguments with their defaults, as Ansible checks them, and what is wrong with them, each one sentence."""
    arguments = merge({}, given)
    messages = _drop_misshapen(spec, arguments, "")
    try:
        validated = ArgumentSpecValidator(spec).validate(arguments)
    except (ArithmeticError, ValueError) as exc:
        # Ansible does not expect infinity where a whole number belongs.
        return arguments, [*messages, _one_line(f"a number in it is none ({exc}).")]
    messages += [
        _one_line(message.replace(". Supported parameters include: ", " is not known; known are ").rstrip(".") + ".")
        for message in validated.error_messages
    ]
    return validated.validated_parameters, messages


def _one_line(text: str) -> str:
    """A message of Ansible's, which quotes values as they came, made short and printable."""
    text = "".join(c if c.isascii() and c.isprintable() else ascii(c)[1:-1] for c in text)
    return text if len(text) <= 600 else text[:300] + " ... " + text[-295:]


def _is_plain(value: Any) -> bool:
    """Whether a value can be handed to a process: text without NUL that has an encoding, or a number."""
    if isinstance(value, str):
        return NO_TEXT.search(value) is None
    return isinstance(value, (int, float)) and abs(value) < 2**63


def _drop_misshapen(spec: Mapping[str, Any], arguments: dict[str, Any], where: str) -> list[str]:
    """Take out what Ansible stumbles over, or takes for something else: it cuts text at the commas to make a list."""
    messages = []
    for key, rules in spec.items():
        value = arguments.get(key)
        kind = {"list": list, "dict": dict}.get(rules["type"])
        if value is not None and kind is not None and not isinstance(value, kind):
            form = "list" if kind is list else "mapping"
            messages.append(f"{where}{key} {shown(arguments.pop(key))} must be a {form}.")
        elif isinstance(value, dict) and "options" in rules:
            messages += _drop_misshapen(rules["options"], value, f"{where}{key}.")
    return messages


def container_faults(holder: Mapping[str, Any]) -> list[str]:
    """What is wrong with the image and the memory limit of a service, or of the edge; no sentence ends with a dot."""
    faults = []
    if _IMAGE.fullmatch(holder["image"]) is None:
        faults.append(f"image {shown(holder['image'])} is not allowed: use name[:tag][@sha256:digest]")
    if "mem_limit" in holder:
        try:
            # The engine itself refuses less than 6 MiB, and counts with 63 bits.
            if not 6 * 1024**2 <= parse_size(holder["mem_limit"]) < 2**63:
                faults.append(f"mem_limit {shown(holder['mem_limit'])} is not allowed: use 6m or more")
        except ValueError as exc:
            faults.append(f"mem_limit: {exc}")
    return faults


def _value_faults(service: Mapping[str, Any]) -> list[str]:
    faults = container_faults(service)

    def check(key: str, valid: bool, allowed: str) -> None:
        if not valid:
            faults.append(f"{key} {shown(service[key])} is not allowed: {allowed}")

    def parsed(key: str, parse: Any, value: str) -> None:
        try:
            parse(value)
        except ValueError as exc:
            faults.append(f"{key}: {exc}")

    for key, pattern, allowed in (
        ("user", _USER, "use uid or uid:gid in numbers"),
        ("subdomain", _SUBDOMAIN, "use one part of a host name, such as shop"),
        ("stop_signal", _SIGNAL, "use a signal such as SIGTERM"),
    ):
        if key in service:
            check(key, pattern.fullmatch(service[key]) is not None, allowed)
    for key, lowest, highest in (("port", 1, 65535), ("pids_limit", 1, 4194304), ("cpus", 0.01, 4096)):
        if key in service:
            check(key, lowest <= service[key] <= highest, f"use {lowest} to {highest}")
    parsed("stop_grace_period", parse_duration, service["stop_grace_period"])
    if "healthcheck" in service:
        for key in ("interval", "timeout", "start_period"):
            parsed(f"healthcheck.{key}", parse_duration, service["healthcheck"][key])
        test = service["healthcheck"]["test"]
        if not all(map(_is_plain, test)):
            faults.append("healthcheck.test must be text without NUL")
        if test[:1] not in (["CMD"], ["CMD-SHELL"]) or len(test) < 2:
            faults.append(
                f"healthcheck.test {shown(test)} is not allowed: use [CMD, program, argument ...] or [CMD-SHELL, line]"
            )
    for secret in service["secrets"]:
        if _SECRET.fullmatch(secret) is None:
            faults.append(f"secrets: {shown(secret)} is not allowed: use the name of a file in the client's secrets/")
    for volume in service["volumes"]:
        parsed("volumes", parse_volume, volume)
    for mount in service["tmpfs"]:
        if _TMPFS.fullmatch(mount) is None or ".." in mount.split("/"):
            faults.append(f"tmpfs {shown(mount)} is not allowed: use /path or /path:size=16m")
    for key in ("command", "entrypoint"):
        if not all(map(_is_plain, service.get(key, []))):
            faults.append(f"{key} must be text without NUL")
    for key, value in service["environment"].items():
        if not isinstance(key, str) or _ENVIRONMENT_KEY.fullmatch(key) is None:
            faults.append(f"environment: {shown(key)} is no name of a variable")
        elif not _is_plain(value):
            faults.append(f"environment.{key} must be text or a number without NUL")
    return faults
