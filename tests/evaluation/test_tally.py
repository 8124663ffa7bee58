"""Shares of people's grades, and kappas against published examples."""

import json

import pytest

from owl_jax.errors import UserError
from owl_jax.evaluation.benchmark import Item
from owl_jax.evaluation.rating.tally import (
    Ratings,
    cohen_kappa,
    fleiss_kappa,
    read_ratings,
    shares,
    tally,
    token_of,
)

# The example of Fleiss 1971 ("Measuring nominal scale agreement among many raters"): grades of ten
# subjects by fourteen raters. Its fourth and fifth categories are one here, since grades are four.
FLEISS = [
    *((0, 0, 0, 14), (0, 2, 6, 6), (0, 0, 3, 11), (0, 3, 9, 2), (2, 2, 8, 2)),
    *((7, 7, 0, 0), (3, 2, 6, 3), (2, 5, 3, 4), (6, 5, 2, 1), (0, 2, 2, 10)),
]
# Grades that two raters gave to the same answers: a row for each grade of the first.
COHEN = [(5, 2, 0, 1), (1, 7, 3, 0), (0, 2, 6, 1), (1, 0, 2, 9)]
ITEMS = [
    Item("1", "?", fields={"turns": ["single_turn"], "abilities": ["a", "e"]}),
    Item("2", "?", fields={"turns": ["single_turn", "multi_turn"], "abilities": ["a"]}),
    Item("3", "?", fields={"turns": ["multi_turn"], "abilities": ["f"]}),
]
ANSWERS = {"owl": {"1": "x", "2": "x", "3": "x"}, "other": {"1": "y", "2": "y"}}


def test_fleiss_kappa_is_that_of_statsmodels():
    """statsmodels 0.15, inter_rater.fleiss_kappa."""
    raters = [{} for _ in range(14)]
    for token, counts in enumerate(FLEISS):
        grades = [grade for grade, count in zip("ABCD", counts, strict=True) for _ in range(count)]
        for rater, grade in zip(raters, grades, strict=True):
            rater[str(token)] = grade
    assert fleiss_kappa(raters) == pytest.approx(0.23240751864917708, abs=1e-12)
    for rater in raters[:3]:  # what not everybody graded does not count
        rater["more"] = "A"
    assert fleiss_kappa(raters) == pytest.approx(0.23240751864917708, abs=1e-12)


def test_cohen_kappa_is_that_of_statsmodels():
    """statsmodels 0.15, inter_rater.cohens_kappa."""
    pairs = [
        (ours, theirs)
        for ours, counts in zip("ABCD", COHEN, strict=True)
        for theirs, count in zip("ABCD", counts, strict=True)
        for _ in range(count)
    ]
    first, second = ({str(i): pair[side] for i, pair in enumerate(pairs)} for side in (0, 1))
    assert cohen_kappa(first, second) == pytest.approx(0.563758389261745, abs=1e-12)
    assert cohen_kappa(first, first) == 1


def test_kappas_of_nothing_in_common_are_none():
    assert cohen_kappa({"1": "A"}, {"2": "A"}) is None
    assert cohen_kappa({"1": "A"}, {"1": "A"}) is None  # chance alone would agree
    assert fleiss_kappa([{"1": "A"}]) is None
    assert fleiss_kappa([{"1": "A"}, {"2": "A"}]) is None


def rated(rater, grades, seed=7):
    named = {token_of(system, id, seed): grade for (system, id), grade in grades.items()}
    return Ratings(rater, named)


def test_shares_are_by_system_turn_and_ability():
    ratings = [
        rated(
            "Ann", {("owl", "1"): "A", ("owl", "2"): "B", ("owl", "3"): "D", ("other", "1"): "C"}
        ),
        rated("Ben", {("owl", "1"): "A", ("owl", "2"): "A"}),
    ]
    found = tally(ITEMS, ANSWERS, ratings, seed=7)
    owl = found["systems"]["owl"]
    assert owl["all"] == {"A": 0.6, "B": 0.2, "C": 0, "D": 0.2} and owl["ratings"] == 5
    assert owl["single_turn"] == {"A": 0.75, "B": 0.25, "C": 0, "D": 0}
    assert owl["multi_turn"] == pytest.approx({"A": 1 / 3, "B": 1 / 3, "C": 0, "D": 1 / 3})
    assert owl["abilities"]["e"]["A"] == 1 and set(owl["abilities"]) == {"a", "e", "f"}
    assert found["systems"]["other"]["multi_turn"] == {} == shares([])
    assert found["agreement"]["cohen"] == {"Ann, Ben": pytest.approx(0)}
    assert found["raters"] == {"Ann": 4, "Ben": 2}
    with pytest.raises(UserError, match="two files have the ratings of Ann"):
        tally(ITEMS, ANSWERS, [ratings[0], ratings[0]], seed=7)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"rater": "Ann"}, "found the keys rater; expected rater, grades"),
        ({"rater": "Ann", "grades": []}, r"grades: found \[\]; expected an object"),
        ({"rater": "Ann", "grades": {"abc": "A"}}, "1 of 1 grades are for answers that are not"),
        ({"rater": "Ann", "grades": {token_of("owl", "1", 8): "A"}}, "the same systems and --seed"),
        ({"rater": "Ann", "grades": {token_of("owl", "1", 7): "E"}}, "a grade is 'E'; expected A"),
    ],
)
def test_ratings_of_another_page_are_refused(tmp_path, record, words):
    path = tmp_path / "ratings.json"
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=words):
        read_ratings(path, ANSWERS, seed=7)
