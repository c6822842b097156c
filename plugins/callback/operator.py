# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: operator
type: stdout
short_description: Output for people who host clients
author:
  - The AgencyStack developers (@agency-stack)
description:
  - One line for each step, texts as they are, diffs when they are asked for, and each error once, as one sentence.
  - With C(-v) it prints what Ansible's default output prints.
extends_documentation_fragment:
  - default_callback
  - result_format_callback
requirements:
  - set as stdout_callback in the configuration
"""

from typing import Any

from ansible import constants
from ansible.plugins.callback.default import CallbackModule as Default

QUIET_ACTIONS = ("validate_argument_spec", "ansible.builtin.validate_argument_spec")
TEXT_ACTIONS = ("debug", "ansible.builtin.debug")


class CallbackModule(Default):  # type: ignore[misc]
    """The default output, made short."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "agency_stack.multi_tenancy.operator"

    @property
    def _full(self) -> bool:
        return bool(self._display.verbosity)

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Name the play."""
        if self._full:
            super().v2_playbook_on_play_start(play)
            return
        # What the default output remembers here, its diffs and skipped tasks need.
        self._play = play
        self._display.display(play.get_name().strip(), color=constants.COLOR_HIGHLIGHT)

    def _task_start(self, task: Any, prefix: str | None = None) -> None:
        """Name a task only together with its result."""
        if self._full:
            super()._task_start(task, prefix)

    def _print_task_banner(self, task: Any) -> None:
        """Diffs stand above the line that names their task."""
        if self._full:
            super()._print_task_banner(task)

    def v2_runner_on_ok(self, result: Any) -> None:
        """Say what a task did, in one line, or print its text."""
        if self._full:
            super().v2_runner_on_ok(result)
            return
        fields = result.result
        action = result.task.action
        if action in TEXT_ACTIONS and "msg" in fields:
            self._display.display("\n" + _text(fields["msg"]) + "\n")
        elif action not in QUIET_ACTIONS and not (result.task.loop or "results" in fields):
            changed = bool(fields.get("changed"))
            self._line(
                "changed" if changed else "ok", result, constants.COLOR_CHANGED if changed else constants.COLOR_OK
            )

    def v2_runner_item_on_ok(self, result: Any) -> None:
        """Say what a task did with one item."""
        if self._full:
            super().v2_runner_item_on_ok(result)
            return
        changed = bool(result.result.get("changed"))
        self._line("changed" if changed else "ok", result, constants.COLOR_CHANGED if changed else constants.COLOR_OK)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Print the reason once: every fault of the input on a line of its own, or the one sentence."""
        if self._full:
            super().v2_runner_on_failed(result, ignore_errors)
            return
        fields = result.result
        self._line("failed", result, constants.COLOR_ERROR)
        faults = fields.get("faults") or [fields.get("msg") or "no reason was given; run again with VERBOSE=1"]
        for fault in faults:
            self._display.display(f"ERROR: {_text(fault)}", color=constants.COLOR_ERROR, stderr=True)
        for key in ("module_stderr", "stderr"):
            if fields.get(key):
                self._display.display(_text(fields[key]), color=constants.COLOR_ERROR, stderr=True)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        """Print why one item failed."""
        self.v2_runner_on_failed(result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Print why a host cannot be reached."""
        if self._full:
            super().v2_runner_on_unreachable(result)
            return
        self._line("failed", result, constants.COLOR_UNREACHABLE)
        reason = _text(result.result.get("msg", "no reason was given"))
        message = f"ERROR: The host {result.host.get_name()} cannot be reached: {reason}"
        self._display.display(message, color=constants.COLOR_UNREACHABLE, stderr=True)

    def v2_playbook_on_include(self, included_file: Any) -> None:
        """Which file the next tasks come from is no news."""
        if self._full:
            super().v2_playbook_on_include(included_file)

    def v2_runner_retry(self, result: Any) -> None:
        """Waiting is no news."""
        if self._full:
            super().v2_runner_retry(result)

    def _line(self, word: str, result: Any, color: str) -> None:
        host = result.host.get_name()
        where = "" if host == "localhost" else f"  [{host}]"
        name = result.task.get_name().rpartition(" : ")[2]
        label = result.result.get("_ansible_item_label")
        item = "" if label is None else f": {_text(label)}"
        self._display.display(f"  {word:<8} {name}{item}{where}", color=color)


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "\n".join(str(line) for line in value)
    return str(value).rstrip("\n")
