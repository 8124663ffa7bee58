import pytest
from stubs import LAUNCH, TRAINING, Stubs

SOURCE = f"source {LAUNCH}/common.sh; "


@pytest.fixture
def stubs(tmp_path):
    return Stubs(tmp_path / "stubs")


def test_quoted_words_come_back_as_they_were(stubs):
    words = [*TRAINING, "", "plain", "a/b.c:d=e,f@g%h+i-j", "two\nlines", "tab\there", "-n", "-e"]
    printed = stubs.run("-c", SOURCE + 'quoted "$@"', "bash", *words)
    assert printed.returncode == 0, printed.stderr
    assert len(printed.stdout.splitlines()) == 1
    back = stubs.run("-c", f"printf '%s\\0' {printed.stdout}")
    assert back.stdout.split("\0")[:-1] == words


def test_plain_words_are_left_alone(stubs):
    words = ["gcloud", "--zone=us-west4-a", "v5litepod-64", "w/a_b.py:x,y@z%1+2"]
    assert stubs.run("-c", SOURCE + 'quoted "$@"', "bash", *words).stdout == " ".join(words) + "\n"


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ("", 0),
        ("0", 0),
        ("0 0 0", 0),
        ("75 75", 75),
        ("0 75", 75),
        ("1 1", 1),
        ("2 1 0", 1),
        ("1 134 134", 1),  # one fails, the others are ended for want of it
        ("1 75", 1),
        ("134 139", 134),
        ("75 134 75", 75),  # saved, and one was slow to leave
        ("lost 134 134", 75),  # a machine vanished
        ("lost 1", 75),
        ("0 lost", 75),
    ],
)
def test_the_verdict_on_all_processes(stubs, statuses, expected):
    result = stubs.run("-c", SOURCE + f"verdict {statuses}")
    assert result.stdout == f"{expected}\n", result.stderr


def ends(stubs, *ended):
    """Which of these (status, seconds) are started again, with at most 2 quick ends in a row."""
    lines = [f"start_again {status} {seconds} && echo yes || echo no" for status, seconds in ended]
    result = stubs.run("-c", SOURCE + "quick_seconds=300 max_quick_ends=3;" + ";".join(lines))
    return result.stdout.split()


def test_only_a_preempted_training_is_started_again(stubs):
    assert ends(stubs, (0, 900), (1, 900), (2, 900), (74, 900), (143, 900)) == ["no"] * 5
    assert ends(stubs, (75, 900)) == ["yes"]


def test_quick_ends_in_a_row_are_not_repeated_for_ever(stubs):
    assert ends(stubs, (75, 1), (75, 299), (75, 0)) == ["yes", "yes", "no"]
    assert ends(stubs, (75, 1), (75, 1), (75, 300), (75, 1), (75, 1), (75, 1)) == [
        *["yes"] * 5,
        "no",
    ]


def test_an_old_bash_is_told(stubs):
    # BASH_VERSINFO cannot be changed; the file is, as an old bash would read it.
    old = stubs.folder / "old.sh"
    old.write_text((LAUNCH / "common.sh").read_text().replace("< 404", "< 9904"))
    result = stubs.run("-c", f"source {old}; echo on")
    assert result.returncode == 2
    assert result.stderr.startswith("error: bash 4.4 or later is needed")
    assert result.stdout == ""
