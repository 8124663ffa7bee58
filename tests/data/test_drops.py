"""What is dropped is counted by reason, listed once, and ends a run that loses too much."""

import json
import re

import pytest

from owl_jax.data.drops import DropLog, Dropped
from owl_jax.errors import BadData, UserError


def missing(line):
    return Dropped("missing file", f"data.jsonl:{line}: a.jpg: no such file")


def test_the_place_is_what_the_message_begins_with():
    dropped = Dropped.of(BadData("missing file", "data.jsonl:7: a.jpg: no such file"))
    assert dropped == missing(7)
    assert dropped.where == "data.jsonl:7"


def test_everything_seen_is_counted_and_each_place_listed_once(tmp_path, caplog):
    log = DropLog(1.0, tmp_path / "run" / "skipped.jsonl")
    epoch = [object(), missing(3), object(), Dropped("no answer", "data.jsonl:5: no answer")]
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
    log = DropLog(0.05, tmp_path / "skipped.jsonl")
    for number in range(94):
        log.keep(number)
    for line in range(6):
        assert not log.reasons.total() > log.limit * 100
        if line < 5:
            log.keep(missing(line))
    with pytest.raises(UserError) as error:
        log.keep(missing(99))
    assert re.match(
        r"6 of 100 records were dropped \(missing file: 6\), allowed is a share of "
        r"data\.max_dropped=0\.05; .* listed in .*skipped\.jsonl\. The last one: data\.jsonl:99: ",
        str(error.value),
    )


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
