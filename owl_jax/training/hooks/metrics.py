"""Logs the metrics of steps, throughput and evaluations; ends a run that diverges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any

from owl_jax.errors import UserError
from owl_jax.parallel.chips import peak_flops
from owl_jax.training.hooks.hook import Hook
from owl_jax.training.hooks.metric_writer import MetricWriter
from owl_jax.training.hooks.throughput import Throughput
from owl_jax.training.optimizer import learning_rates
from owl_jax.training.run import Run, StepEvent
from owl_jax.training.start_up import say


class LogMetrics(Hook):
    """Logs every `config.log_every` steps, the first and last step, and every evaluation."""

    @contextmanager
    def training(self, run: Run) -> Iterator[None]:
        """Opens and closes the files."""
        self._run = run
        mesh = run.program.mesh
        peak = peak_flops(mesh.devices.flat[0].device_kind)
        with (
            MetricWriter(run.workdir, run.config.steps, run.start, run.workdir.name) as writer,
            closing(
                Throughput(run.num_shards, run.program.flops(), peak and peak * mesh.size)
            ) as throughput,
        ):
            self._writer, self._throughput = writer, throughput
            yield

    def step_started(self, event: StepEvent) -> None:
        """Counts the step, and the time that the device waited for its batch."""
        self._throughput.waited_for_data(event.asked, event.arrived)
        self._throughput.count(event.metrics["loss"], event.batch)

    def after_step(self, event: StepEvent) -> None:
        """Writes the step if it is due. Raises UserError for a run that diverges."""
        run, first = self._run, self._run.start + 1
        is_logged = event.number % run.config.log_every == 0 or event.number == first
        if not (is_logged or event.is_last):
            if event.evaluations:
                self._writer.write(event.number, {}, event.evaluations)
            return
        metrics: dict[str, Any] = dict(event.metrics)
        # A skipped step does not advance the schedule.
        taken = event.number - 1 - int(metrics["skipped"])
        metrics |= learning_rates(run.program.recipes, run.config.steps, taken)
        drops = run.data.drops
        metrics |= {"dropped": drops.reasons.total(), "text_only": drops.text_only}
        self._writer.write(event.number, metrics | self._throughput.read(), event.evaluations)
        if event.number == first or event.is_last:
            say(drops.summary())
        _stop_if_diverged(metrics, run.config.max_skipped_steps, event.number)

    def pause(self, counted: bool) -> AbstractContextManager[object]:
        """Excludes the pause from the rates, unless `counted`."""
        return super().pause(counted) if counted else self._throughput.leaving_out()


def _stop_if_diverged(metrics: Mapping[str, Any], limit: int, step: int) -> None:
    in_a_row = int(metrics["skipped_in_a_row"])
    if in_a_row >= limit:
        raise UserError(
            f"step {step}: the loss or gradient of the last {in_a_row} steps was not finite, and "
            "they were skipped. Lower the learning rate, or inspect the data of these steps"
        )
