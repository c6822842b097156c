#!/bin/sh
# Starts PostgreSQL as the uid that the container was given, on a read-only root. The first start makes the database.
set -eu

# initdb wants a name for its uid; /etc/passwd of this image leads to here.
printf 'postgres:x:%s:%s::/:/bin/sh\n' "$(id -u)" "$(id -g)" >/tmp/passwd

user=${POSTGRES_USER:-postgres}
database=${POSTGRES_DB:-$user}
if [ ! -d "$PGDATA" ]; then
  # Made under another name, which only a whole one loses: a start that was killed leaves nothing that looks like data.
  new=$PGDATA.new
  rm -rf "$new"
  initdb --pgdata="$new" --username="$user" --pwfile="$POSTGRES_PASSWORD_FILE" --auth=scram-sha-256 \
    --encoding=UTF8 --locale=C.UTF-8 --no-instructions
  echo 'host all all all scram-sha-256' >>"$new/pg_hba.conf"
  if [ "$database" != postgres ]; then
    printf 'CREATE DATABASE "%s"\n' "$database" |
      postgres --single -D "$new" -c exit_on_error=on postgres >/dev/null
  fi
  sync "$new/pg_hba.conf"
  mv "$new" "$PGDATA"
  sync "$(dirname "$PGDATA")"
fi
exec "$@"
