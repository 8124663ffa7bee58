"""What is dropped is counted by reason, listed once, and ends a run that loses too much."""

import json
import re

import numpy as np
import pytest

from owl_jax.data.drops import DropLog, Dropped, too_many
from owl_jax.errors import BadData, UserError


def missing(line):
    return Dropped(f"data.jsonl:{line}", "missing file", f"data.jsonl:{line}: a.jpg: no such file")


def test_what_was_bad_is_told_with_its_place():
    error = BadData("missing file", "data.jsonl:7: a.jpg: no such file")
    assert Dropped.of(error, "data.jsonl:7") == missing(7)


def test_everything_seen_is_counted_and_each_place_listed_once(tmp_path, caplog):
    log = DropLog(1.0, tmp_path / "run" / "skipped.jsonl")
    epoch = [
        object(),
        missing(3),
        object(),
        Dropped("data.jsonl:5", "no answer", "data.jsonl:5: no answer"),
    ]
    assert [log.keep(item) for item in epoch * 2] == [True, False] * 4
    assert log.seen == 8
    assert log.reasons == {"missing file": 2, "no answer": 2}
    assert [item.where for item in log.dropped] == ["data.jsonl:3", "data.jsonl:5"]
    lines = (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {
            "where": "data.jsonl:3",
            "reason": "missing file",
            "message": "data.jsonl:3: a.jpg: no such file",
        },
        {"where": "data.jsonl:5", "reason": "no answer", "message": "data.jsonl:5: no answer"},
    ]
    assert caplog.text.count("dropped (missing file): data.jsonl:3: a.jpg") == 1


def test_a_resumed_run_does_not_list_again(tmp_path):
    file = tmp_path / "skipped.jsonl"
    DropLog(1.0, file).drop(missing(3))
    with file.open("a") as half:
        half.write('{"where": "data.jsonl:4", "rea')  # killed while writing
    log = DropLog(1.0, file)
    assert [item.where for item in log.dropped] == ["data.jsonl:3"]
    log.drop(missing(3))
    log.drop(missing(9))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["where"] for line in lines] == ["data.jsonl:3", "data.jsonl:9"]


def test_too_many_end_the_run_with_the_numbers(tmp_path):
    log = DropLog(0.04, tmp_path / "skipped.jsonl")
    for number in range(89):
        log.keep(number)
    for line in range(10):  # of 100, four are allowed and six more may be chance
        log.keep(missing(line))
    with pytest.raises(UserError) as error:
        log.keep(missing(99))
    assert re.match(
        r"11 of 100 records were dropped \(missing file: 11\), more than data\.max_dropped=0\.04 "
        r"allows; .* listed in .*skipped\.jsonl\. The last one: data\.jsonl:99: ",
        str(error.value),
    )


@pytest.mark.parametrize(
    ("share", "stops"), [(0.005, False), (0.008, False), (0.015, True), (0.03, True)]
)
def test_a_share_within_the_limit_does_not_stop_a_run_by_chance(share, stops):
    stopped = 0
    for run in range(20):
        bad = np.random.default_rng(run).random(30_000) < share
        dropped = np.cumsum(bad)
        stopped += any(too_many(int(dropped[i]), int(i) + 1, 0.01) for i in np.flatnonzero(bad))
    assert stopped == (20 if stops else 0)


def test_without_a_usable_picture_any_limit_is_passed():
    """What is kept as words is not used before its pictures are decoded."""
    log = DropLog(1.0)
    for number in range(99):
        assert log.keep(number)
        log.drop(missing(number))
    log.keep(99)
    with pytest.raises(UserError, match="100 of 100 records were dropped"):
        log.drop(missing(99))
    used = DropLog(1.0)
    used.keep(object())
    used.use()
    for number in range(500):
        used.keep(number)
        used.drop(missing(number))
    assert used.reasons.total() == 500


def test_names_of_files_may_be_anything(tmp_path):
    strange = [f"Set 1: owls/a{mark}b.jpg" for mark in "\u2028\u2029\x85\n\udcff"]
    items = [Dropped(f"{name}:1", "missing file", f"{name}:1: gone") for name in strange]
    log = DropLog(1.0, tmp_path / "skipped.jsonl")
    for item in items:
        log.keep(item)
    again = DropLog(1.0, tmp_path / "skipped.jsonl")
    assert [item.where for item in again.dropped][:4] == [item.where for item in items][:4]
    assert len(again.dropped) == len(items)


def test_a_list_that_is_none_is_refused(tmp_path):
    (tmp_path / "skipped.jsonl").write_text("my notes\n")
    with pytest.raises(UserError, match=r"skipped\.jsonl: 'my notes' does not describe"):
        DropLog(1.0, tmp_path / "skipped.jsonl")


def test_only_the_first_are_logged(tmp_path, caplog):
    log = DropLog(1.0, tmp_path / "skipped.jsonl")
    log.use()
    log.keep(object())
    for line in range(60):
        log.keep(missing(line))
    assert caplog.text.count("dropped (missing file)") == 20
    assert "further drops are listed in" in caplog.text
    assert len((tmp_path / "skipped.jsonl").read_text().splitlines()) == 60


def test_few_records_are_not_judged():
    log = DropLog(0.0)
    for line in range(99):
        log.keep(missing(line))
    with pytest.raises(UserError, match="100 of 100"):
        log.keep(missing(99))


def test_without_one_usable_record_any_limit_is_passed():
    log = DropLog(1.0)
    for line in range(99):
        log.keep(missing(line))
    with pytest.raises(UserError, match="100 of 100"):
        log.keep(missing(99))


@pytest.mark.parametrize("data", [b"\0" * 9 + b"\xff\n", b"[" * 100_000 + b"\n", b"\0\0\n"])
def test_a_damaged_list_is_one_line(tmp_path, data):
    (tmp_path / "skipped.jsonl").write_bytes(data)
    with pytest.raises(UserError, match=r"skipped\.jsonl: .*move the file away"):
        DropLog(1.0, tmp_path / "skipped.jsonl")


def test_what_was_read_is_told_in_one_line(caplog):
    log = DropLog(1.0)
    for number in range(1000):
        assert log.keep(number)
        log.note(f"x:{number}", number % 4 == 0, ("depth\x1b",) if number % 2 else ())
    log.keep(Dropped("x:1000", "missing file", "x:1000: a.jpg"))
    assert (log.text_only, log.unread) == (250, {"depth\x1b": 500})
    assert log.summary() == (
        "data: 1,001 records read, 250 without picture or video, 1 dropped (missing file: 1), "
        '"depth\\x1b" of 500 not read'
    )
    told = [record.getMessage() for record in caplog.records if "not read" in record.getMessage()]
    assert told == [
        'x:1: "depth\\x1b" looks like a picture or video but is not read; other keys hold media'
    ]
