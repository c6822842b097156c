#!/usr/bin/env bash
# Runs ansible-test on a copy of the work tree, as it demands: a collections tree that is a git repository.
#   ansible_test.sh sanity|units [argument ...]
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
tree=.cache/ansible_test/ansible_collections/agency_stack/multi_tenancy
export HOME=$root/.cache/ansible_test/home

rm -rf "$tree"
mkdir -p "$tree" "$HOME/.ansible/test/cache"
git ls-files -z --cached --others --exclude-standard |
  while IFS= read -r -d '' file; do
    # Git also lists what was deleted and not yet committed.
    if [[ -e $file || -L $file ]]; then printf '%s\0' "$file"; fi
  done | tar --create --null --files-from=- | tar --extract --directory "$tree"
git -C "$tree" init --quiet
git -C "$tree" add --all

# ansible-test downloads the installer of pip from a server of its own; Python carries one.
installer=$(.venv-dev/bin/python -c '
from types import SimpleNamespace
from ansible_test._internal.python_requirements import get_venv_packages
print(get_venv_packages(SimpleNamespace(version=None))["pip"])')
cat >"$HOME/.ansible/test/cache/get_pip_${installer//./_}.py" <<'EOF'
import ensurepip
import runpy
import sys

ensurepip.bootstrap()
sys.argv[1:] = ["install", *(arg for arg in sys.argv[1:] if arg not in ("--no-setuptools", "--no-wheel"))]
runpy.run_module("pip", run_name="__main__", alter_sys=True)
EOF

python=$(.venv-dev/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
cd "$tree"
PATH=$root/.venv-dev/bin:$PATH ansible-test "$1" --python "$python" "${@:2}" </dev/null
