# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What somebody types, pastes or sends to do harm: each is refused in one sentence, or taken and then harmless."""

from __future__ import annotations

from typing import Any

# What breaks out of a path, a rule, a template, a shell, a line, a name.
PIECES: list[str] = [
    *("..", "../", "../../etc/passwd", "/etc/passwd", "./", ".", "//", "\\..\\", "..%2f", "%2e%2e/", "~root", "C:\\"),
    *("`", "``", "`) || HostRegexp(`.*", "`) || PathPrefix(`/", "`) && !Host(`x", "`)||Host(`evil.example", "\\`"),
    *(
        "{{",
        "}}",
        "{{ env `PATH` }}",
        "{{ lookup('pipe', 'id') }}",
        "{%",
        "{% raw %}",
        "{#",
        "${HOME}",
        "$(id)",
        "`id`",
    ),
    *("\n", "\r", "\r\n", "a\nb", "\n\n", "\t", "\v", "\f", "\x1b[2J", "\x00", "a\0b", "\x7f", "\x85", "\u2028"),
    *("-", "--", "-rf", "--help", "-v /:/host", "*", "*.", "*.*", "**", "?", "[a-z]", ".*", "^", "$", "|", "(", ")"),
    *(" ", "  ", "\u00a0", "\u3000", "a b", "'", '"', "';--", '"; id; "', "<script>", "&amp;", "&", ";", "#", "!", "@"),
    *(
        ":",
        ":ro",
        ",",
        "=",
        "a=b",
        "%",
        "%00",
        "%n",
        "%s",
        "+",
        "_",
        "__",
        "\u00e9",
        "\u00df",
        "\u017f",
        "K",
        "\u0130",
        "\u0131",
        "\u0130",
    ),
    # Letters that look like others.
    *(
        "\u0430cme",
        "acm\u0435",
        "\u0251cme",
        "\uff41\uff43\uff4d\uff45",
        "\u0430\u0440\u0440\u04cf\u0435",
        "g\u043e\u043egle",
        "\u0440\u0430\u0443\u0440\u0430l",
        "\u2170d",
        "\u2460",
        "\uff11",
        "\u0660",
        "\u096b",
        "\U0001d4b6",
        "\u2102",
        "\ufb01",
    ),
    # What stands between letters and is not seen, or turns the line round.
    *("\u200b", "\u200c", "\u200d", "\ufeff", "\u2060", "\u00ad", "\u180e", "\u034f", "\u061c", "\u115f"),
    *("\u202e", "\u202d", "\u202a", "\u202c", "\u2066", "\u2067", "\u2069", "\u200e", "\u200f", "moc.\u202eelpmaxe"),
    *("\u3002", "\uff0e", "\uff61", "\u2024", "\u2044", "\u2215", "\uff0f", "\uff3c", "\u0301", "a\u0301", "\u0338"),
    *(
        "\ud800",
        "\udfff",
        "\udcff",
        "\ud83d",
        "\U0010ffff",
        "\ufffe",
        "\ufffd",
        "\ue000",
        "\U0001f98a",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",
        "\u2603",
    ),
    *(
        "xn--",
        "xn--a",
        "xn--bcher-kva",
        "xn--80ak6aa92e",
        "XN--BCHER-KVA",
        "xn--xn--a",
        "xn--0",
        "b\u00fccher",
        "B\u00dcCHER",
    ),
    *("null", "None", "true", "no", "0", "1", "007", "-1", "1e999", "NaN", "inf", "0x7f000001", "2130706433", "127.1"),
    *("all", "localhost", "root", "admin", "default", "ungrouped", "shared", "removed", "edge", "CON", "aux", "nul"),
    *("config", "multi_tenancy", "api@internal", "dashboard", "x@file", "site@docker", "acme", "ACME", "Acme", "acme."),
]

LONG: list[str] = [
    letter * size
    for letter in ("a", "1", "-", ".", "\u00fc")
    for size in (24, 25, 32, 33, 63, 64, 253, 254, 255, 256, 4096)
] + ["a" * 100_000, "\u00fc" * 5_000, "a." * 200, ".a" * 200, "../" * 2000]


def nested(depth: int, inner: Any = "a", mapping: bool = False) -> Any:
    """Lists in lists, or mappings in mappings."""
    for dummy in range(depth):
        inner = {"a": inner} if mapping else [inner]
    return inner


TYPES: list[Any] = [
    *(None, True, 0, -1, 7, 1.5, 10**400, [], ["a"], [[]], {}, {"a": "b"}, b"a", (), float("nan")),
    *(2**63, -(2**63), 10**4000, 1e308, float("inf"), float("-inf"), -0.0),
    *(nested(40), nested(200), nested(40, mapping=True), nested(200, mapping=True), ["a"] * 10_000),
]

IDS: list[Any] = [
    *PIECES,
    *LONG,
    *TYPES,
    *(f"acme{piece}" for piece in PIECES),
    *(f"{piece}acme" for piece in PIECES),
    *(f"a{piece}b" for piece in PIECES),
]

DOMAINS: list[Any] = [
    *PIECES,
    *LONG,
    *TYPES,
    *(f"{piece}.example.com" for piece in PIECES),
    *(f"shop{piece}.example.com" for piece in PIECES),
    *(f"shop.example.com{piece}" for piece in PIECES),
    *(f"*.{piece}.example.com" for piece in PIECES),
    *(f"example.{piece}" for piece in PIECES),
    # At the limits: a part of 63 and 64, a name of 253 and 254, with and without a wildcard in front.
    *("a" * size + ".example" for size in (62, 63, 64)),
    *("\u00fc" * size + ".example" for size in (55, 56, 57, 58, 63, 64)),
    *(".".join(["a" * 61] * 4) + "." + "b" * size for size in (4, 5, 6, 7)),
    *("*." + ".".join(["a" * 61] * 4) + "." + "b" * size for size in (2, 3, 4, 5)),
    *("EXAMPLE.com", "Example.COM.", "example.com..", "https://example.com", "example.com:443", "//example.com/"),
    # What IDNA takes for a dot, an asterisk, a digit or nothing at all.
    *("shop\u3002example\uff0ecom", "*\u3002example.com", "\uff0a.example.com", "shop.example.com\u3002", "localhost."),
    *(
        "\uff11\uff12\uff17.0.0.1",
        "shop.example.\uff11",
        "\u24e2hop.example.com",
        "sho\u00adp.example.com",
        "*.localhost",
    ),
    *("XN--BCHER-KVA.example", "xn--bcher-kva.EXAMPLE", "b\u00dcCHER.example", "stra\u1e9ee.example", "\u03c2.example"),
    *(
        "xn--" + "a" * 59 + ".example",
        "xn--" + "a" * 60 + ".example",
        "*.*.example.com",
        "a.*.example.com",
        "*a.example.com",
    ),
    *("192.0.2.1", "[2001:db8::1]", "0x7f.1", "1.2.3", "user@example.com", "example.com/x?y#z", "*.com", "*.*.com"),
]

SERVICE_NAMES: list[Any] = [*PIECES, *LONG, *(f"site{piece}" for piece in PIECES)]

VOLUMES: list[Any] = [
    *PIECES,
    *LONG,
    *TYPES,
    *(f"{piece}:/srv" for piece in PIECES),
    *(f"site/{piece}:/srv" for piece in PIECES),
    *(f"site:{piece}" for piece in PIECES),
    *(f"site:/srv/{piece}" for piece in PIECES),
    *("a/../../b:/x", "a/./b:/x", "a//b:/x", "/a:/x", "a/:/x", ".a:/x", "a:/x:rw,z", "a:/x:shared", "a:b:c:d"),
    *("/var/run/docker.sock:/s", "a:/../x", "a:/x/..", "a:/..", "a:/", "a:/proc", "/".join("a" * 9) + ":/x"),
]

ENVIRONMENT_KEYS: list[Any] = [*PIECES, *LONG, *(f"KEY{piece}" for piece in PIECES), "LD_PRELOAD", "PATH", 1, None]

ENVIRONMENT_VALUES: list[Any] = [*PIECES, *LONG, *TYPES, *(f"x{piece}" for piece in PIECES), 2**63, float("inf")]
