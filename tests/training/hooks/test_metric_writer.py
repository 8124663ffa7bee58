import json
import os
import pty
import resource
import struct
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from owl_jax.errors import UserError
from owl_jax.training.hooks.metric_writer import MetricWriter
from owl_jax.training.report import write_curves


def lines_of(workdir):
    text = (workdir / "metrics.jsonl").read_text()

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def scalars_of(workdir):
    """(step, tag, value) of the TensorBoard files, read by their record format."""
    scalars, starts = [], []
    for path in sorted(workdir.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            if event.HasField("session_log"):
                starts.append(event.step)
            scalars += [
                (event.step, value.tag, value.simple_value) for value in event.summary.value
            ]
    return scalars, starts


def test_one_json_object_per_step(tmp_path, capsys):
    with MetricWriter(tmp_path / "run", total_steps=20) as writer:
        writer.write(10, {"loss": jnp.float32(2.5), "supervised_tokens": np.int64(7), "mfu": 0.25})
        assert lines_of(tmp_path / "run") == [
            {"step": 10, "loss": 2.5, "supervised_tokens": 7, "mfu": 0.25}
        ]
        writer.write(20, {"loss": 1.0, "tokens_per_second": 12345.6, "learning_rate/lora": 1e-4})
    assert [line["step"] for line in lines_of(tmp_path / "run")] == [10, 20]
    assert list(lines_of(tmp_path / "run")[1]) == [
        "step",
        "loss",
        "tokens_per_second",
        "learning_rate/lora",
    ]
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("train 10/20  loss 2.5000  MFU 25.0%  ETA 0:00:0")
    assert printed[1] == "train 20/20  loss 1.0000  12,346 tokens/s  ETA 0:00:00"


def test_tensorboard_has_the_same_numbers(tmp_path):
    with MetricWriter(tmp_path, total_steps=2) as writer:
        writer.write(1, {"loss": 2.5, "grad_norm": 0.5})
        writer.write(2, {"loss": 1.5})
    scalars, starts = scalars_of(tmp_path)
    assert scalars == [(1, "loss", 2.5), (1, "grad_norm", 0.5), (2, "loss", 1.5)]
    assert starts == [1]


def test_a_full_disk_is_told_of_the_workdir_and_hides_no_other_error(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = MetricWriter(tmp_path, total_steps=2)
    writer.write(1, {"loss": 2.5})
    resource.setrlimit(resource.RLIMIT_FSIZE, (30, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as error:
            writer.write(2, {"loss": 1.5})
        assert error.value.filename == str(tmp_path)
        with pytest.raises(UserError, match="this came first"), writer:
            raise UserError("this came first")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    # Half of a line is no line.
    with MetricWriter(tmp_path, total_steps=2, start_step=1) as writer:
        writer.write(2, {"loss": 1.5})
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 2]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), jnp.float32(-jnp.inf)])
def test_numbers_that_are_not_finite_become_null(tmp_path, capsys, value):
    with MetricWriter(tmp_path, total_steps=2) as writer:
        writer.write(1, {"loss": value})
    assert lines_of(tmp_path) == [{"step": 1, "loss": None}]
    assert f"loss {float(value):.4f}" in capsys.readouterr().out


def test_after_a_resume_each_step_is_there_once(tmp_path):
    with MetricWriter(tmp_path, total_steps=6) as writer:
        for step in range(1, 5):
            writer.write(step, {"loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    with MetricWriter(tmp_path, total_steps=6, start_step=2) as writer:
        assert [line["step"] for line in lines_of(tmp_path)] == [1, 2]
        for step in range(3, 7):
            writer.write(step, {"loss": 2.0})
    steps = [(line["step"], line["loss"]) for line in lines_of(tmp_path)]
    assert steps == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 2.0), (6, 2.0)]
    scalars, starts = scalars_of(tmp_path)
    assert starts == [1, 3]
    assert len(scalars) == 8


def test_a_half_written_line_goes_even_if_its_step_is_kept(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "lo')
    MetricWriter(tmp_path, total_steps=6, start_step=2).close()
    assert lines_of(tmp_path) == [{"step": 1, "loss": 1.0}]


def test_a_new_run_drops_the_lines_of_an_old_one(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    MetricWriter(tmp_path, total_steps=6).close()
    assert lines_of(tmp_path) == []


SCRIPT = """
import sys
from owl_jax.errors import UserError
from owl_jax.training.hooks.metric_writer import MetricWriter
with MetricWriter(sys.argv[1], total_steps=5000, start_step=100, description="stage 1") as writer:
    writer.write(200, {"loss": 1.25, "tokens_per_second": 1234.5})
    writer.message("saved step 200")
"""


def test_a_terminal_gets_a_progress_bar(tmp_path):
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": "80", "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], stdout=theirs, env=environment
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            chunk = os.read(ours, 4096)
        except OSError:  # Linux's way to say that the other end is closed.
            break
        if not chunk:
            break
        shown += chunk
    os.close(ours)
    assert process.wait() == 0
    text = shown.decode()
    for part in ("stage 1", "━", "200/5000", "loss 1.2500", "1,234 tokens/s", "ETA"):
        assert part in text
    assert "saved step 200" in text
    assert lines_of(tmp_path)[0]["step"] == 200


DAMAGED_LINES = [
    b"\0" * 40,
    b'{"step": 2, "loss": \xff}',
    b'{"step": 2, "lo',
    b"[1, 2]",
    b"7",
    b'{"loss": 1.0}',
    b'{"step": "2", "loss": 1.0}',
    b'{"step": true}',
    b'{"step": 2, "loss": NaN}',
    b'{"step": 2, "loss": 1e999}',
    b'{"step": 2, "loss": "low"}',
    b'{"step": 2, "loss": ' + b"9" * 400 + b"}",
    b'{"step": ' + b"9" * 5000 + b"}",
    b"[" * 100_000,
    b"",
]


@pytest.mark.parametrize("line", DAMAGED_LINES, ids=range(len(DAMAGED_LINES)))
def test_a_damaged_line_is_dropped_and_said(tmp_path, capsys, line):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"step": 1, "loss": 1.0}\n' + line + b'\n{"step": 3, "loss": null}\n')
    write_curves(tmp_path / "report.html", tmp_path)
    assert capsys.readouterr().out == f"{file}: the curves skip 1 damaged lines\n"
    MetricWriter(tmp_path, total_steps=6, start_step=3).close()
    assert capsys.readouterr().out == f"{file}: 1 damaged lines are dropped\n"
    assert [values["step"] for values in lines_of(tmp_path)] == [1, 3]


def test_a_metrics_file_that_is_none(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(UserError, match=r"metrics\.jsonl: cannot be read \(is a FIFO"):
        MetricWriter(tmp_path, total_steps=2)
