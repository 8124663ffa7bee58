"""When a hang is reported, and when it ends the process. A real one is in test_faults.py."""

import subprocess
import sys
import time
from types import SimpleNamespace

import jax.numpy as jnp

from owl_jax.training.hooks.watchdog import Watchdog, WatchSteps


def test_silence_while_steps_end(capfd):
    with Watchdog(report_after=2.0, exit_after=0.0, start=0) as watchdog:
        for step in range(1, 8):
            time.sleep(0.4)
            watchdog.step_ended(step)
    time.sleep(2.2)  # nothing comes after the loop
    assert capfd.readouterr().err == ""


def test_a_report_names_the_step_and_the_line_that_waits(capfd):
    with Watchdog(report_after=0.2, exit_after=0.0, start=6) as watchdog:
        time.sleep(2.0)
        watchdog.step_ended(7)
    reports = capfd.readouterr().err.split("no step has ended for ")[1:]
    assert 2 <= len(reports) <= 4  # after 0.2, 0.4, 0.8 and 1.6 s
    for report in reports:
        assert "s: process 0 of 1, after step 6; its threads:" in report
        assert "test_watchdog.py" in report
        assert "in test_a_report_names_the_step_and_the_line_that_waits" in report


HANG = """
import time
from owl_jax.training.hooks.watchdog import WatchSteps, Watchdog
with Watchdog(report_after={report}, exit_after={exit}, start=0):
    time.sleep(60)
"""


def test_what_may_take_its_time_ends_nothing(capfd):
    with Watchdog(report_after=0.2, exit_after=0.3, start=0) as watchdog:
        with watchdog.patient():
            time.sleep(1.0)
        time.sleep(0.1)
    assert "no step has ended for " in capfd.readouterr().err


def test_a_hung_process_ends_so_that_it_is_started_again():
    for report in (0.0, 0.1):
        script = HANG.format(report=report, exit=0.3)
        result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert result.returncode == 75, result.stderr
        assert "exit status 75" in result.stderr.splitlines()[-1]
        assert "Thread 0x" in result.stderr


def test_every_step_that_the_device_has_finished_is_noted(monkeypatch):
    noted = []
    monkeypatch.setattr(Watchdog, "step_ended", lambda self, step: noted.append(step))
    hook = WatchSteps(0.0, 0.0)
    with hook.training(SimpleNamespace(start=0)):
        for number in (1, 2, 3):
            metrics = {"loss": jnp.float32(number)}
            hook.step_started(SimpleNamespace(number=number, metrics=metrics))
        while len(noted) < 3:
            pass
    assert noted == [1, 2, 3]
