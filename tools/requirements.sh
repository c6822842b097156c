#!/bin/sh
# Pins the newest packages that requirements/*.in allow, with the hashes of their files for every platform.
set -eu
cd "$(dirname "$0")/../requirements"
for name in runtime dev; do
  ../.venv-dev/bin/pip-compile --quiet --upgrade --generate-hashes --allow-unsafe --strip-extras --no-header \
    --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options --annotation-style=line \
    --output-file "$name.txt" "$name.in"
done
