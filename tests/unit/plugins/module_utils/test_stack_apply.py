# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Containers brought up and taken away, on an engine in memory; also when the run dies between any two of its calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._stack import (
    ContainerSpec,
    StackPlan,
    plan_stacks,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._stack_apply import (
    StackApplier,
    list_containers,
)
from ansible_collections.agency_stack.multi_tenancy.tests.unit.fake_engine import FakeEngine, refusal
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

LABELS = {"agency_stack.platform": "mt", "agency_stack.client_id": "acme", "agency_stack.service": "site"}
CHECK = {"test": ["CMD", "/bin/check", "-q"], "interval": 30 * 10**9, "timeout": 10**9, "retries": 3, "start_period": 0}
SPEC = ContainerSpec(
    name="mt-acme.site",
    client_id="acme",
    service="site",
    image="site:1",
    network="mt-acme",
    subnet="10.217.0.0/28",
    labels=LABELS,
    user="7:8",
    healthcheck=CHECK,
)
V1, V2, SICK, BROKEN = (replace(SPEC, image=image) for image in ("site:1", "site:2", "sick:1", "broken:1"))


class Killed(BaseException):
    """The process is gone."""


@pytest.fixture
def engine(engine: FakeEngine) -> FakeEngine:
    return with_network(engine)


def with_network(engine: FakeEngine) -> FakeEngine:
    engine.local_images |= {"site:1", "site:2", "sick:1", "broken:1"}
    engine.sick, engine.broken = {"sick:1"}, {"broken:1"}
    pool = {"Subnet": "10.217.0.0/28", "Gateway": "10.217.0.1"}
    engine.create_network(
        name="mt-acme", driver="bridge", internal=False, options={}, labels={}, ipam={"Config": [pool]}
    )
    engine.calls.clear()
    return engine


def converge(
    engine: FakeEngine, *wanted: ContainerSpec, restart: bool = False, force: bool = False, **options: Any
) -> StackPlan:
    """What a run does: list, plan, apply."""
    actual = list_containers(engine, {"agency_stack.platform": "mt"})
    plan = plan_stacks(wanted, actual, ["acme"], restart, force)
    applier = StackApplier(engine, 5, **options)
    for change in [*plan.starts, *plan.removals]:
        applier.apply(change)
    return plan


def order(engine: FakeEngine) -> list[tuple[str, str]]:
    """The calls that changed something, with the names of what they changed."""
    changing = ("create_container", "start", "stop", "restart", "unpause", "remove_container", "rename")
    names = {container["Id"]: container["Name"] for container in engine.containers_by_id.values()}
    return [(call[0], names.get(call[1], call[1])) for call in engine.calls if call[0] in changing]


# ---------------------------------------------------------------- one run


def test_a_container_is_made_as_specified(engine: FakeEngine) -> None:
    spec = replace(
        SPEC,
        command=["serve"],
        entrypoint=["/bin/site"],
        environment={"A": "1"},
        binds=[{"source": "/data", "target": "/srv", "read_only": True}],
        tmpfs={"/tmp": "size=16m"},
        cap_add=["CHOWN"],
        mem_limit=64 * 1024**2,
        nano_cpus=10**9,
        pids_limit=32,
        stop_signal="SIGQUIT",
        stop_timeout=20,
    )
    converge(engine, spec)
    config = engine.by_name("mt-acme.site")["Config"]
    host = config["HostConfig"]
    assert (host["CapDrop"], host["CapAdd"], host["SecurityOpt"]) == (["ALL"], ["CHOWN"], ["no-new-privileges:true"])
    assert (host["ReadonlyRootfs"], host["PidsLimit"], host["NanoCpus"]) == (True, 32, 10**9)
    assert host["Memory"] == host["MemorySwap"] == 64 * 1024**2
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert host["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "3"}
    assert host["Mounts"] == [{"Type": "bind", "Source": "/data", "Target": "/srv", "ReadOnly": True}]
    assert host["Tmpfs"] == {"/tmp": "size=16m"}
    assert (host["NetworkMode"], host["Init"]) == ("mt-acme", True)
    assert "Privileged" not in host
    assert (config["User"], config["Cmd"], config["Entrypoint"], config["Env"]) == (
        "7:8",
        ["serve"],
        ["/bin/site"],
        ["A=1"],
    )
    assert (config["StopSignal"], config["StopTimeout"]) == ("SIGQUIT", 20)
    assert config["Labels"] == LABELS | {"agency_stack.spec_hash": spec.hash}
    assert config["Healthcheck"]["Test"] == ["CMD", "/bin/check", "-q"]
    endpoint = config["NetworkingConfig"]["EndpointsConfig"]["mt-acme"]
    assert (endpoint["IPAMConfig"], endpoint["Aliases"]) == ({"IPv4Address": "10.217.0.2"}, ["site"])


@pytest.mark.parametrize(("version", "interval"), [("1.41", None), ("1.43", None), ("1.44", 10**9), ("1.51", 10**9)])
def test_engines_that_can_look_often_at_a_starting_container_do(
    engine: FakeEngine, version: str, interval: int | None
) -> None:
    engine._version = version
    converge(engine, SPEC)
    assert engine.by_name("mt-acme.site")["Config"]["Healthcheck"].get("StartInterval") == interval


def test_a_second_run_has_nothing_to_do(engine: FakeEngine) -> None:
    converge(engine, SPEC)
    engine.calls.clear()
    plan = converge(engine, SPEC)
    assert (plan.starts, plan.removals) == ([], [])
    assert [call[0] for call in engine.calls] == ["containers"]


def test_start_first_stops_the_old_one_when_the_new_one_serves(engine: FakeEngine) -> None:
    converge(engine, replace(V1, start_first=True))
    engine.calls.clear()
    converge(engine, replace(V2, start_first=True))
    effects = [
        call[0] for call in engine.calls if call[0] in ("create_container", "start", "exec_inspect", "stop", "rename")
    ]
    assert effects == ["create_container", "start", "exec_inspect", "stop", "rename"]
    assert engine.running() == ["mt-acme.site"]


def test_stop_first_never_runs_two_at_once(engine: FakeEngine) -> None:
    converge(engine, V1)
    most = []
    engine.after_call = lambda: most.append(len(engine.running()))
    converge(engine, V2)
    assert max(most) == 1
    assert engine.by_name("mt-acme.site")["Config"]["Image"] == "site:2"


@pytest.mark.parametrize("start_first", [True, False], ids=["start-first", "stop-first"])
@pytest.mark.parametrize("bad", [SICK, BROKEN], ids=["never healthy", "ends at once"])
def test_a_new_one_that_fails_is_removed_and_the_old_one_serves(
    engine: FakeEngine, bad: ContainerSpec, start_first: bool
) -> None:
    converge(engine, replace(V1, start_first=start_first))
    old = engine.by_name("mt-acme.site")["Id"]
    with pytest.raises(TenancyError) as refused:
        converge(engine, replace(bad, start_first=start_first))
    assert "The earlier container was kept." in str(refused.value)
    assert engine.running() == ["mt-acme.site"]
    assert engine.names() == ["mt-acme.site"]
    assert engine.by_name("mt-acme.site")["Id"] == old


@pytest.mark.parametrize("start_first", [True, False], ids=["start-first", "stop-first"])
def test_force_makes_anew_what_is_as_wanted(engine: FakeEngine, start_first: bool) -> None:
    spec = replace(SPEC, start_first=start_first)
    converge(engine, spec)
    old = engine.by_name("mt-acme.site")["Id"]
    most = []
    engine.after_call = lambda: most.append(len(engine.running()))
    converge(engine, spec, force=True)
    assert (min(most), max(most)) == ((1, 2) if start_first else (0, 1))
    assert engine.by_name("mt-acme.site")["Id"] != old
    assert_converged(engine, spec)


@pytest.mark.parametrize("start_first", [True, False], ids=["start-first", "stop-first"])
@pytest.mark.parametrize("fault", ["sick", "broken"])
def test_one_that_is_made_anew_and_fails_is_removed_and_the_old_one_serves(
    engine: FakeEngine, fault: str, start_first: bool
) -> None:
    spec = replace(SPEC, start_first=start_first)
    converge(engine, spec)
    old = engine.by_name("mt-acme.site")["Id"]
    real_create = engine.create_container_from_config

    def create(config: dict[str, Any], name: str) -> dict[str, Any]:
        # The same image does not come up a second time, as for want of memory.
        engine.local_images.add(f"{fault}:1")
        return real_create(config | {"Image": f"{fault}:1"}, name)

    engine.create_container_from_config = create  # type: ignore[method-assign]
    with pytest.raises(TenancyError, match="The earlier container was kept"):
        converge(engine, spec, force=True)
    assert (engine.names(), engine.running()) == (["mt-acme.site"], ["mt-acme.site"])
    assert engine.by_name("mt-acme.site")["Id"] == old


FAILURES = {
    "never healthy": (SICK, "did not become healthy within 5 s. Its last log lines: starting sick:1 | listening"),
    "ends at once": (BROKEN, "ended with exit code 3. Its last log lines: starting broken:1 | no such file"),
}


@pytest.mark.parametrize(("spec", "told"), FAILURES.values(), ids=FAILURES)
def test_a_failure_shows_the_last_log_lines_and_leaves_nothing(
    engine: FakeEngine, spec: ContainerSpec, told: str
) -> None:
    with pytest.raises(TenancyError) as refused:
        converge(engine, spec)
    assert str(refused.value) == f"Container mt-acme.site {told}"
    assert engine.names() == []


def test_one_that_stood_alone_and_does_not_start_again_is_kept_to_be_looked_at(engine: FakeEngine) -> None:
    converge(engine, SPEC)
    engine.stop("mt-acme.site")
    engine.broken.add("site:1")
    with pytest.raises(TenancyError, match="ended with exit code 3"):
        converge(engine, SPEC)
    assert engine.names() == ["mt-acme.site"]


def test_one_whose_health_is_not_proven_never_replaces_the_old_one(engine: FakeEngine) -> None:
    """What a run leaves that died after the start of a container that will never be healthy."""
    converge(engine, replace(V1, start_first=True))
    kill_at(engine, "exec_create")
    with pytest.raises(Killed):
        converge(engine, replace(SICK, start_first=True))
    revive(engine)
    assert engine.running() == ["mt-acme.site", "mt-acme.site.next"]
    with pytest.raises(TenancyError, match="did not become healthy"):
        converge(engine, replace(SICK, start_first=True))
    assert "mt-acme.site" in engine.running()
    assert engine.by_name("mt-acme.site")["Config"]["Image"] == "site:1"


def test_without_a_health_check_it_must_run_for_a_second(engine: FakeEngine, clock: Any) -> None:
    converge(engine, replace(SPEC, healthcheck=None))
    assert 1 <= clock.now < 2


def test_waiting_lasts_no_longer_than_until_it_is_healthy(engine: FakeEngine, clock: Any) -> None:
    converge(engine, SPEC)
    assert clock.now < 0.5


def test_the_engines_own_word_is_enough(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_exec(*_args: object, **_options: object) -> None:
        raise refusal(500, "OCI runtime exec failed")

    monkeypatch.setattr(engine, "exec_create", no_exec)
    real = engine.start
    monkeypatch.setattr(engine, "start", lambda container: (real(container), engine.settle()))
    converge(engine, SPEC)
    assert engine.running() == ["mt-acme.site"]


def test_a_container_that_ends_while_it_is_asked_is_told_with_its_exit_code(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(container: str, *_args: object, **_options: object) -> None:
        engine.containers_by_id[container] |= {"State": "exited", "ExitCode": 9}
        raise refusal(409, f"Container {container} is not running")

    monkeypatch.setattr(engine, "exec_create", ends)
    with pytest.raises(TenancyError, match="ended with exit code 9"):
        converge(engine, SPEC)


@pytest.mark.parametrize(
    ("test", "command"),
    [(["CMD", "a", "b"], ("a", "b")), (["CMD-SHELL", "a && b"], ("/bin/sh", "-c", "a && b"))],
)
def test_the_health_check_is_run_as_the_engine_would(
    engine: FakeEngine, test: list[str], command: tuple[str, ...]
) -> None:
    converge(engine, replace(SPEC, healthcheck=CHECK | {"test": test}))
    assert [call[2] for call in engine.calls if call[0] == "exec_create"] == [command]


def test_a_restart_starts_anew_with_the_containers_own_grace(engine: FakeEngine) -> None:
    converge(engine, replace(SPEC, stop_timeout=33))
    made = engine.by_name("mt-acme.site")["Id"]
    engine.calls.clear()
    converge(engine, replace(SPEC, stop_timeout=33), restart=True)
    assert ("restart", made, 33) in engine.calls
    assert (engine.by_name("mt-acme.site")["Id"], engine.by_name("mt-acme.site")["Starts"]) == (made, 2)


def test_a_paused_container_goes_on(engine: FakeEngine) -> None:
    converge(engine, SPEC)
    engine.by_name("mt-acme.site")["State"] = "paused"
    converge(engine, SPEC)
    assert engine.running() == ["mt-acme.site"]


def test_a_foreign_container_of_that_name_is_left_alone_and_told(engine: FakeEngine) -> None:
    engine.create_container_from_config(
        {"Image": "site:1", "Labels": {}, "HostConfig": {"NetworkMode": "host"}}, "mt-acme.site"
    )
    with pytest.raises(TenancyError, match=r"Creating container mt-acme\.site failed: Conflict"):
        converge(engine, SPEC)
    assert engine.names() == ["mt-acme.site"]


def test_a_full_subnet_is_told(engine: FakeEngine) -> None:
    services = [replace(SPEC, service=f"s{n}", name=f"mt-acme.s{n}") for n in range(14)]
    with pytest.raises(TenancyError, match=r"The subnet 10\.217\.0\.0/28 has no address left for mt-acme\.s13"):
        converge(engine, *services)
    assert len(engine.running()) == 13


def test_a_missing_image_is_pulled_once_and_a_refused_one_is_told(engine: FakeEngine) -> None:
    engine.registry = {"far:1"}
    converge(engine, replace(SPEC, image="far:1"), replace(SPEC, image="far:1", service="b", name="mt-acme.b"))
    assert [call[1] for call in engine.calls if call[0] == "pull"] == ["far:1"]
    with pytest.raises(TenancyError, match="Image away:1 cannot be had: the engine failed: manifest unknown"):
        converge(engine, replace(SPEC, image="away:1"))


def test_what_is_gone_already_need_not_be_removed(engine: FakeEngine) -> None:
    converge(engine, SPEC)
    plan = plan_stacks([], list_containers(engine, {"agency_stack.platform": "mt"}), ["acme"])
    engine.remove_container("mt-acme.site", force=True)
    StackApplier(engine, 5).apply(plan.removals[0])


def test_what_else_was_changed_is_taken_back_before_the_old_one_starts_again(engine: FakeEngine) -> None:
    converge(engine, V1)
    seen: list[list[str]] = []
    with pytest.raises(TenancyError):
        converge(engine, SICK, undo=lambda: seen.append(engine.running()))
    assert seen == [[]]
    assert engine.running() == ["mt-acme.site"]


# ---------------------------------------------------------------- runs that die


def kill_at(engine: FakeEngine, call: int | str, stays_dead: bool = True) -> None:
    """Let the process die before its call of this number, or of this name; with stays_dead no clean-up runs either."""
    start = len(engine.calls)
    dead = []

    def before(number: int, name: str) -> None:
        if (stays_dead and dead) or (not dead and call in (number - start, name)):
            dead.append(name)
            raise Killed

    engine.before_call = before


def revive(engine: FakeEngine) -> None:
    engine.before_call = lambda number, name: None


def watch(engine: FakeEngine, broken_rule: Callable[[], str | None]) -> None:
    def after() -> None:
        problem = broken_rule()
        assert problem is None, problem

    engine.after_call = after


def good_ones(engine: FakeEngine) -> list[str]:
    """The running containers that serve."""
    return [
        name
        for name in engine.running(client_id="acme")
        if engine.by_name(name)["Config"]["Image"] in ("site:1", "site:2")
    ]


def assert_converged(engine: FakeEngine, spec: ContainerSpec) -> None:
    assert engine.names() == ["mt-acme.site"]
    container = engine.by_name("mt-acme.site")
    assert (container["State"], container["Config"]["Labels"]["agency_stack.spec_hash"]) == ("running", spec.hash)
    plan = converge(engine, spec)
    assert (plan.starts, plan.removals) == ([], [])


def number_of_calls(*specs: ContainerSpec) -> int:
    engine = with_network(FakeEngine())
    for spec in specs[:-1]:
        converge(engine, spec)
    engine.calls.clear()
    converge(engine, specs[-1])
    return len(engine.calls)


@pytest.mark.parametrize("stays_dead", [True, False], ids=["killed", "interrupted"])
@pytest.mark.parametrize("start_first", [True, False], ids=["start-first", "stop-first"])
@pytest.mark.parametrize("first", [True, False], ids=["first run", "replacement"])
def test_a_run_that_dies_at_any_call_is_finished_by_the_next(
    clock: Any, first: bool, start_first: bool, stays_dead: bool
) -> None:
    old, new = replace(V1, start_first=start_first), replace(V2, start_first=start_first)
    specs = [new] if first else [old, new]
    calls = number_of_calls(*specs)
    assert calls > 5
    for number in range(1, calls + 1):
        engine = with_network(FakeEngine())
        if not first:
            converge(engine, old)
            if start_first:
                watch(engine, lambda engine=engine: None if good_ones(engine) else "nothing serves")
        kill_at(engine, number, stays_dead)
        with pytest.raises(Killed):
            converge(engine, new)
        revive(engine)
        if not stays_dead and not first:
            assert good_ones(engine), number
        converge(engine, new)
        assert_converged(engine, new)


@pytest.mark.parametrize("again", [True, False], ids=["forced again", "not forced again"])
@pytest.mark.parametrize("stays_dead", [True, False], ids=["killed", "interrupted"])
@pytest.mark.parametrize("start_first", [True, False], ids=["start-first", "stop-first"])
def test_a_forced_run_that_dies_at_any_call_is_finished_by_the_next(
    clock: Any, start_first: bool, stays_dead: bool, again: bool
) -> None:
    spec = replace(SPEC, start_first=start_first)
    for number in range(1, 100):
        engine = with_network(FakeEngine())
        converge(engine, spec)
        if start_first:
            watch(engine, lambda engine=engine: None if good_ones(engine) else "nothing serves")
        kill_at(engine, number, stays_dead)
        try:
            converge(engine, spec, force=True)
        except Killed:
            revive(engine)
            if not stays_dead:
                assert good_ones(engine), number
            converge(engine, spec, force=again)
            assert_converged(engine, spec)
        else:
            break
    assert number > 8


@pytest.mark.parametrize("start_first", [True, False], ids=["start-first", "stop-first"])
def test_a_run_that_dies_and_a_next_one_that_fails_leave_what_served(clock: Any, start_first: bool) -> None:
    old, sick = replace(V1, start_first=start_first), replace(SICK, start_first=start_first)
    for number in range(1, 40):
        engine = with_network(FakeEngine())
        converge(engine, old)
        kill_at(engine, number)
        with pytest.raises((Killed, TenancyError)):
            converge(engine, sick)
        revive(engine)
        with pytest.raises(TenancyError, match="The earlier container was kept"):
            converge(engine, sick)
        assert good_ones(engine) == ["mt-acme.site"], number
        converge(engine, old)
        assert_converged(engine, old)


RUNS = st.lists(
    st.tuples(
        st.sampled_from(["site:1", "site:2", "sick:1", "broken:1"]),
        st.none() | st.integers(1, 25),
        st.booleans(),
        st.booleans(),
        st.booleans(),
    ),
    max_size=5,
)


@pytest.mark.parametrize("start_first", [True, False], ids=["start-first", "stop-first"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(runs=RUNS)
# Stop first, the second run must take the address back from what the first one left.
@example(runs=[("sick:1", 5, True, False, False), ("site:2", 3, False, False, False)])
def test_after_any_series_of_dying_and_failing_runs_one_good_run_is_enough(
    clock: Any, start_first: bool, runs: list[tuple[str, int | None, bool, bool, bool]]
) -> None:
    engine = with_network(FakeEngine())
    last = replace(V1, start_first=start_first)
    converge(engine, last)
    if start_first:
        watch(engine, lambda: None if good_ones(engine) else "nothing serves")
    for image, number, stays_dead, settled, force in runs:
        if number is not None:
            kill_at(engine, number, stays_dead)
        killed = False
        try:
            converge(engine, replace(SPEC, image=image, start_first=start_first), force=force)
        except Killed:
            killed = True
        except TenancyError:
            pass
        revive(engine)
        if settled:
            engine.settle()
        if not killed:
            # Beside it, start first may keep another good one of a run that died.
            assert len(good_ones(engine)) == 1 or (start_first and good_ones(engine))
    converge(engine, last)
    assert_converged(engine, last)
