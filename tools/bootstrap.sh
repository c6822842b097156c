#!/bin/sh
# Prepares the checkout: a virtualenv with pinned packages, and the collection's place in a collections tree.
#   bootstrap.sh runtime   .venv, for the playbooks
#   bootstrap.sh local     the same, after checking that this machine and user can be worked on
#   bootstrap.sh dev       .venv-dev, for lint and tests
# What is up to date is left alone, in a few milliseconds; what an interrupted run left behind is made anew.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
cd "$root"
log=.cache/bootstrap.log
tree=.ansible/collections/ansible_collections/agency_stack/multi_tenancy

die() {
  printf 'multi_tenancy: %s\n' "$1" >&2
  exit 1
}

check_local() {
  [ "$(id -u)" -eq 0 ] ||
    die "Only root can set up this machine. Run it as root or with sudo: sudo make ${TENANCY_GOAL:-multi_tenancy}"
  (
    ID='' VERSION_ID='' PRETTY_NAME='an unknown system'
    # shellcheck source=/dev/null
    [ ! -r /etc/os-release ] || . /etc/os-release
    # Testing and unstable carry no VERSION_ID.
    if [ "$ID" != debian ] || [ "${VERSION_ID:-99}" -lt 12 ]; then
      die "This machine runs $PRETTY_NAME; a host must be Debian 12 or newer. Name another one with INVENTORY=."
    fi
  ) || exit 1
}

# Every visible entry of the checkout has a link of its own, so that the checkout may have any folder name.
tree_is_current() {
  for link in "$tree"/*; do
    [ -e "$link" ] || return 1
  done
  for entry in *; do
    [ "$entry" = build ] || [ -h "$tree/$entry" ] || return 1
  done
}

refresh_tree() {
  if tree_is_current; then return; fi
  mkdir -p "$tree"
  for link in "$tree"/*; do
    [ -e "$link" ] || rm -f "$link"
  done
  for entry in *; do
    [ "$entry" = build ] || [ -h "$tree/$entry" ] || ln -s "../../../../../$entry" "$tree/$entry"
  done
}

# What the virtualenv was made from: its packages, its place (its scripts name it) and its interpreter.
stamp() {
  set -- "$(sha256sum <"$requirements")" "$(readlink -f "$venv/bin/python")"
  printf '%s\n%s\n%s\n' "$1" "$root/$venv" "$2"
}

venv_is_current() {
  [ -r "$venv/stamp" ] && [ -x "$venv/bin/python" ] && [ "$(stamp)" = "$(cat "$venv/stamp")" ]
}

# A Python that can make a virtualenv; Debian's own comes first, as a version manager's shim may not run.
find_python() {
  for python in /usr/bin/python3 python3; do
    if "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >>"$log" 2>&1; then return; fi
  done
  return 1
}

apt_install() {
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=300 "$@" \
    </dev/null >>"$log" 2>&1
}

need_python() {
  if find_python; then return; fi
  if command -v apt-get >/dev/null; then
    [ "$(id -u)" -eq 0 ] || die "python3-venv is missing. Install it as root: sudo apt-get install python3-venv"
    case "${CHECK:-}" in
      1 | true | yes | on)
        echo "Check run: python3-venv is installed all the same; everything else prepared lies in this checkout." ;;
    esac
    # The package lists of a bare machine may be empty or old.
    apt_install python3 python3-venv || { apt-get update >>"$log" 2>&1 && apt_install python3 python3-venv; } ||
      die "apt-get cannot install python3-venv. Check the network, the proxy and /etc/apt/sources.list; see $log."
    if find_python; then return; fi
  fi
  die "There is no Python 3.11 or newer on this machine. Install one and put it on PATH as python3."
}

make_venv() {
  mkdir -p .cache 2>/dev/null && rm -f "$log" 2>/dev/null && [ -w .cache ] && [ -w . ] ||
    die "$(id -un) may not write to $root, which another user prepared. Run make as that user, or as root: sudo make ..."
  echo "Preparing $venv (once; about a minute) ..."
  need_python
  rm -rf "$venv"
  "$python" -m venv "$venv" >>"$log" 2>&1 || die "The virtualenv $venv cannot be made. Check disk space; see $log."
  if ! "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --retries 2 --require-hashes \
    -r "$requirements" </dev/null >>"$log" 2>&1; then
    if grep -q 'DO NOT MATCH THE HASHES' "$log"; then
      die "A downloaded package is not the one pinned in $requirements. Check the package index and proxy; see $log."
    fi
    die "pip cannot install the packages of $requirements. Check the network, the proxy and disk space; see $log."
  fi
  stamp >"$venv/stamp"
}

case "${1:-}" in
  local) check_local && venv=.venv requirements=requirements/runtime.txt ;;
  runtime) venv=.venv requirements=requirements/runtime.txt ;;
  dev) venv=.venv-dev requirements=requirements/dev.txt ;;
  *) die "usage: bootstrap.sh runtime|local|dev" ;;
esac

if venv_is_current && tree_is_current; then exit 0; fi
# One run at a time prepares; the others wait and find it done.
exec 9<requirements
flock 9
refresh_tree
venv_is_current || make_venv
