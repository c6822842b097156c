# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A page that notes each visit in PostgreSQL and lists the latest ones: the web part of webapp.yaml.

It needs Python and psycopg2. libpq reads PGHOST, PGUSER and PGDATABASE by itself; the password comes from a file.
"""

from __future__ import annotations

import html
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psycopg2

SCHEMA = """
CREATE TABLE IF NOT EXISTS visits (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    visitor text NOT NULL
)
"""
PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>Visits</title>
<h1>Visit {count}</h1>
<ul>
{rows}
</ul>
</html>
"""


@contextmanager
def database() -> Iterator[psycopg2.extensions.cursor]:
    """One transaction on a connection of its own."""
    password = Path(os.environ["PGPASSWORD_FILE"]).read_text(encoding="utf-8").rstrip("\n")
    with closing(psycopg2.connect(password=password, connect_timeout=3)) as connection:
        yield connection.cursor()
        connection.commit()


def page(visitor: str) -> str:
    """Note a visit, and show the ten latest."""
    with database() as cursor:
        cursor.execute("INSERT INTO visits (visitor) VALUES (%s)", (visitor,))
        cursor.execute("SELECT count(*) FROM visits")
        (count,) = cursor.fetchone()
        cursor.execute("SELECT at, visitor FROM visits ORDER BY id DESC LIMIT 10")
        rows = [f"<li>{at:%Y-%m-%d %H:%M:%S} {html.escape(visitor)}</li>" for at, visitor in cursor]
    return PAGE.format(count=count, rows="\n".join(rows))


class Handler(BaseHTTPRequestHandler):
    """Answers / with the page and /healthz with the health of the whole, database included."""

    def do_GET(self) -> None:
        status, text = 404, "There is nothing here.\n"
        try:
            if self.path == "/":
                forwarded = self.headers.get("X-Forwarded-For", self.client_address[0])
                status, text = 200, page(forwarded.rpartition(",")[2].strip()[:100])
            elif self.path == "/healthz":
                with database() as cursor:
                    cursor.execute("SELECT 1")
                status, text = 200, "ok\n"
        except psycopg2.Error as exc:
            print(f"The database cannot be used: {exc}", file=sys.stderr, flush=True)
            status, text = 503, "The database cannot be reached; try again soon.\n"
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"text/{'html' if text.startswith('<') else 'plain'}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    """Make the table, then serve until the engine says stop."""
    signal.signal(signal.SIGTERM, lambda *dummy: sys.exit(0))
    with database() as cursor:
        cursor.execute(SCHEMA)
    ThreadingHTTPServer(("", 8080), Handler).serve_forever()


if __name__ == "__main__":
    main()
