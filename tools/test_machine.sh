#!/usr/bin/env bash
# Readies this machine for the tests that need real parts, and tidies it afterwards.
#   test_machine.sh up     install what is missing and start an engine if none answers
#   test_machine.sh down   remove what tests left behind and stop the engine if `up` started it
set -euo pipefail
cd "$(dirname "$0")/.."
log=.cache/test_machine.log
engine_log=.cache/dockerd.log
engine_pid=.cache/dockerd.pid
# What tests of this checkout make carries it; other checkouts may use the same engine.
label=agency_stack.test=$(pwd -P | tr -d '\n' | sha256sum | cut -c 1-6)

die() {
  printf 'test machine: %s\n' "$1" >&2
  exit 1
}

engine_answers() {
  docker version >/dev/null 2>&1
}

install_missing() {
  local packages=() command package
  while read -r command package; do
    command -v "$command" >/dev/null || packages+=("$package")
  done <<'EOF'
dockerd docker.io
nft nftables
mmdebstrap mmdebstrap
ssh openssh-client
ip iproute2
logrotate logrotate
curl curl
EOF
  ((${#packages[@]})) || return 0
  [[ $EUID -eq 0 ]] || die "${packages[*]} must be installed by root; run the tests as root."
  echo "Installing ${packages[*]} ..."
  export DEBIAN_FRONTEND=noninteractive
  {
    apt-get update && apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=300 "${packages[@]}"
  } >>"$log" 2>&1 || die "apt-get cannot install ${packages[*]}; check the network and /etc/apt, and see $log."
}

start_engine() {
  [[ $EUID -eq 0 ]] || die "No Docker engine answers user $(id -un), and only root can start one; run the tests as root."
  if [[ -d /run/systemd/system ]]; then
    systemctl start docker
  else
    # Not `service docker start`: it first raises the limit of open files to 1048576 and gives up where it may not
    # (no CAP_SYS_RESOURCE, a lower hard limit). This engine is a fixture that lives as long as the tests.
    nohup setsid dockerd >"$engine_log" 2>&1 </dev/null &
    echo "$!" >"$engine_pid"
  fi
  for _ in {1..120}; do
    if engine_answers; then return; fi
    if [[ -s $engine_pid && ! -d /proc/$(<"$engine_pid") ]]; then break; fi
    sleep 0.5
  done
  die "The Docker engine does not start; see $engine_log, or journalctl -u docker where systemd runs it."
}

remove_left_behind() {
  docker ps --all --quiet --filter "label=$label" | xargs -r docker rm --force --volumes >/dev/null
  docker network ls --quiet --filter "label=$label" | xargs -r docker network rm >/dev/null
  docker volume ls --quiet --filter "label=$label" | xargs -r docker volume rm --force >/dev/null
}

# The process must still be the engine: numbers are given again.
stop_engine() {
  local pid
  pid=$(<"$engine_pid")
  rm -f "$engine_pid"
  [[ $(cat "/proc/$pid/comm" 2>/dev/null) == dockerd ]] || return 0
  kill "$pid"
  for _ in {1..60}; do
    [[ -d /proc/$pid ]] || return 0
    sleep 0.5
  done
  die "The engine of the tests (process $pid) did not stop within 30 s; see $engine_log."
}

mkdir -p .cache
case "${1:-}" in
  up)
    install_missing
    engine_answers || start_engine
    ;;
  down)
    if engine_answers; then remove_left_behind; fi
    if [[ -s $engine_pid ]]; then stop_engine; fi
    ;;
  *) die "usage: test_machine.sh up|down" ;;
esac
