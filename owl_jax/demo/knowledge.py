"""Questions about arithmetic and general facts, by split.

A tenth of the arithmetic problems is held out. Facts cannot be inferred, so every fact is trained
in its first phrasing; the second phrasing of every other fact is held out.
"""

from owl_jax.demo.scene_questions import Turn
from owl_jax.demo.scenes import SPLITS, stable_bucket

# Two phrasings, then subject and answer.
_KNOWLEDGE: tuple[tuple[str, str, dict[str, str]], ...] = (
    (
        "What is the capital of {}?",
        "Name the capital of {}.",
        {
            "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin",
            "England": "London", "Japan": "Tokyo", "China": "Beijing", "Russia": "Moscow",
            "Egypt": "Cairo", "Greece": "Athens", "Portugal": "Lisbon", "Austria": "Vienna",
            "Norway": "Oslo", "Sweden": "Stockholm", "Poland": "Warsaw", "Peru": "Lima",
        },
    ),
    (
        "What is the opposite of {}?",
        "Name the opposite of {}.",
        {
            "hot": "cold", "big": "small", "day": "night", "open": "closed", "fast": "slow",
            "old": "young", "wet": "dry", "happy": "sad", "light": "dark", "hard": "soft",
            "full": "empty", "early": "late", "rich": "poor", "strong": "weak", "near": "far",
            "high": "low", "long": "short", "loud": "quiet",
        },
    ),
    (
        "Which day comes after {}?",
        "Name the day after {}.",
        {
            "Monday": "Tuesday", "Tuesday": "Wednesday", "Wednesday": "Thursday",
            "Thursday": "Friday", "Friday": "Saturday", "Saturday": "Sunday", "Sunday": "Monday",
        },
    ),
    (
        "Which month comes after {}?",
        "Name the month after {}.",
        {
            "January": "February", "February": "March", "March": "April", "April": "May",
            "May": "June", "June": "July", "July": "August", "August": "September",
            "September": "October", "October": "November", "November": "December",
            "December": "January",
        },
    ),
    (
        "What is a young {} called?",
        "Name the young of a {}.",
        {
            "dog": "puppy", "cat": "kitten", "cow": "calf", "horse": "foal", "sheep": "lamb",
            "hen": "chick", "duck": "duckling", "bear": "cub",
        },
    ),
)  # fmt: skip


def _list_problems() -> dict[str, tuple[Turn, ...]]:
    """Sums and differences by split: single digits, and 10 to 20 with a single digit."""
    pools: dict[str, list[Turn]] = {split: [] for split in SPLITS}
    for a in range(21):
        for b in range(10):
            # Hashed with the smaller number first, so that 3 + 4 and 4 + 3 are in one split.
            plus = stable_bucket(f"{min(a, b)} + {max(a, b)}", 10) == 0
            pools[SPLITS[plus]].append(Turn("math", f"What is {a} + {b}?", str(a + b)))
            if a >= b:
                minus = stable_bucket(f"{a} - {b}", 10) == 0
                pools[SPLITS[minus]].append(Turn("math", f"What is {a} - {b}?", str(a - b)))
    return {split: tuple(pool) for split, pool in pools.items()}


def _list_facts() -> dict[str, tuple[Turn, ...]]:
    """The facts by split, in the phrasings of that split."""
    pools: dict[str, list[Turn]] = {split: [] for split in SPLITS}
    for usual, other, answers in _KNOWLEDGE:
        for number, (subject, answer) in enumerate(answers.items()):
            pools["train"].append(Turn("facts", usual.format(subject), answer))
            pools[SPLITS[number % 2]].append(Turn("facts", other.format(subject), answer))
    return {split: tuple(pool) for split, pool in pools.items()}


PROBLEMS = _list_problems()
FACTS = _list_facts()
