#!/usr/bin/env bash
# Runs lint and test steps one after the other, all of them even when one fails, and sums up.
#   test.sh STEP ...   steps: lint unit sanity integration bare molecule
# With TENANCY_FULL=1 tests run at full length, and a step that passed on these very files is not run again.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
tools/bootstrap.sh dev

export PATH=$root/.venv-dev/bin:$PATH
export ANSIBLE_CONFIG=$root/ansible.cfg ANSIBLE_COLLECTIONS_PATH=$root/.ansible/collections
export LC_ALL=C.UTF-8
# Tests run make themselves; they are no part of this one.
unset MAKEFLAGS MFLAGS MAKELEVEL

work_tree() {
  git ls-files -z --cached --others --exclude-standard |
    while IFS= read -r -d '' file; do
      # Git also lists what was deleted and not yet committed.
      if [[ -f $file && ! -L $file ]]; then printf '%s\0' "$file"; fi
    done
}

lint_shell() {
  work_tree | xargs -0 awk 'FNR == 1 { if (/^#!.*[\/ ](ba)?sh/) printf "%s%c", FILENAME, 0; nextfile }' |
    xargs -0 -r shellcheck
}

step_lint() {
  local faults=()
  check() {
    "$@" || faults+=("$*")
  }
  check yamllint --strict .
  check ansible-lint -q
  check ruff check --quiet --output-format=concise
  check ruff format --check --quiet --output-format=concise
  check mypy --no-error-summary
  check lint_shell
  check antsibull-docs lint-collection-docs --plugin-docs --validate-collection-refs self \
    --disallow-unknown-collection-refs .
  check antsibull-changelog lint
  ((${#faults[@]} == 0)) || {
    printf 'lint failed: %s\n' "${faults[@]}"
    return 1
  }
}

step_unit() {
  pytest tests/unit
  tools/ansible_test.sh units --num-workers 2
}

step_sanity() {
  tools/ansible_test.sh sanity
}

step_integration() {
  pytest tests/integration
}

step_bare() {
  pytest tests/bare
}

step_molecule() {
  molecule test --all
}

# Whoever interrupts one step means all of them; a step that deals with the signal by itself would hide it otherwise.
trap 'exit 130' INT
trap 'exit 143' TERM

ready_machine() {
  trap 'tools/test_machine.sh down' EXIT
  tools/test_machine.sh up
}

done_mark() {
  echo ".cache/test-full/$(work_tree | xargs -0 sha256sum | sha256sum | cut -c 1-16)-$1"
}

for step in "$@"; do
  case $step in
    integration | bare | molecule)
      ready_machine
      break
      ;;
  esac
done

passed=0
failed=0
summary=()
for step in "$@"; do
  SECONDS=0
  if [[ -n ${TENANCY_FULL:-} ]] && mark=$(done_mark "$step") && [[ -e $mark ]]; then
    passed=$((passed + 1))
    summary+=("$(printf '%-12s passed before' "$step")")
    continue
  fi
  printf '\n== %s\n' "$step"
  # Not in a condition, where `set -e` would be off.
  set +e
  (
    set -e
    "step_$step"
  ) </dev/null
  status=$?
  set -e
  if ((status == 0)); then
    passed=$((passed + 1))
    summary+=("$(printf '%-12s passed %5d s' "$step" "$SECONDS")")
    if [[ -n ${TENANCY_FULL:-} ]]; then mkdir -p .cache/test-full && touch "$mark"; fi
  else
    failed=$((failed + 1))
    summary+=("$(printf '%-12s FAILED %5d s' "$step" "$SECONDS")")
  fi
done

printf '\n'
printf '%s\n' "${summary[@]}"
printf 'steps: %d passed, %d failed\n' "$passed" "$failed"
((failed == 0))
