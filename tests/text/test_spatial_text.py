"""Texts that do and do not mention places in their image."""

import time

import pytest

from owl_jax.text.spatial_text import mentions_place


@pytest.mark.parametrize(
    "text",
    [
        "What is on the left?",
        "The Right hand",
        "in the top-left corner",
        "topright",
        "the leftmost cup",
        "LEFT-HANDED",
        "turn rightwards",
        "on the right-side",
        "it rotates counterclockwise",
        "anti-clockwise",
        "which state is farthest west",
        "in the north-eastern part",
        "狗在猫的左边。",
        "右側",
        "逆时针旋转",
        "东侧的门",
        "the eastbound lane",
        "Westbound traffic",
        "it lies north-northeast of here",
        "the westernmost island",
        "向西走",
        "她朝东北看",
        "由东向西",
        "河的西岸",
        "東邊有一座山",
        "这条路是东西走向",
        "on the port side of the ship",
        "to starboard",
        "Two lefties play.",
        "a left-hander",
        "lefthanders",
        "a southpaw stance",
        # Clock times.
        "It is 3:15.",
        "at three o'clock",
        "at 3 o’clock",
        "half past ten",
        "It shows 5 p.m.",
        "The hour hand is near six.",
        "现在是3点",
        "三点钟",
        "八点十五分",
        "现在几点了?",
        # Numbers of boxes and points.
        "The dog is at [0.12, 0.30, 0.5, 0.9].",
        "[[12,30,50,90],[1,2,3,4]]",
        "tap (12, 30)",
        "(-1.5, 0.25)",
        "在（12，30）处",
        "<box>(12,30),(50,90)</box>",
        "Where is <BOX>?",
        "{<12><30><50><90>}",
        "<loc0123><loc0456>",
        "Give the bounding box.",
        "猫的坐标是什么?",
        # What is written in the picture.
        "The sign says stop.",
        "A banner that reads welcome",
        "What is the text in the picture?",
        "What is written there?",
        "Which word is on the shirt?",
        "a shirt with the word love on it",
        "What does the sign\nsay?",
        "big red letters",
        "OCR this picture",
        "What number is on the jersey?",
        "bus number 12",
        "the license plate of the car",
        'a mug with "best dad" on it',
        "图中的文字",
        "牌子上写着什么?",
        "车牌号码",
        # Words that only look alike count as well.
        "That's right.",
        "He left the room.",
        "He says hello.",
        "as shown in [1, 2]",
    ],
)
def test_texts_that_mention_places(text):
    assert mentions_place(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A bright street above the river",
        "copyright, upright, human rights, alright",
        "leftovers and a cleft",
        "at least two beasts at Easter",
        "What is at the top of the picture?",
        "桌子上有一只猫。这是什么东西?",
        "他从西班牙买东西,吃西瓜,穿西装。这东西方便吗?",
        "她的名字是什么? 十字路口有一点雪。请注意以下几点。用10分钟,三点建议",
        "What is the dog doing?",
        "He has 3 cats (two of them black) and 12 fish.",
        "It costs 3.50, or 7 (50 % more).",
        "a ratio of 1:2",
        "People read a book; a girl is reading a letter.",
        "Answer the question using a single word or phrase.",
        "Answer with the option's letter from the given choices directly.",
        "In other words, it is hard to say. Describe it in a few words.",
        "a cardboard box with a number of toys, its texture, the context, texting",
        "<image><|video|> What is it?",
        "a northbound train, north of Westminster and Southampton",
        "a port, a portrait, a clock on the wall, an airport",
        "They dance at noon; i am 5 meters tall.",
        "Une image d'un chat.",
        "The following is a conversation between a curious human and AI assistant. The assistant "
        "gives helpful, detailed, and polite answers to the user's questions.",
    ],
)
def test_texts_that_mention_none(text):
    assert not mentions_place(text)


@pytest.mark.parametrize(
    "part", ["<1", "<1 ", "<<1", "(1,", "[1.", "<1>(", "do x ", "did", "点一", "1:", "-", "<-1.5%"]
)
def test_a_text_of_any_shape_takes_linear_time(part):
    start = time.monotonic()
    mentions_place(part * (300_000 // len(part)))
    assert time.monotonic() - start < 20  # where it was quadratic: an hour


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a <1<2<3 and on", False),
        ("a <1<2<3> and on", True),
        ("<1 2> 3 4 and on", True),
        ("<1 (2, 3)", True),
        ("<1<(2", False),
        ("(1 (2, 3 (4; 5]", True),
        ("(2019) [7] <5>", False),
        ("[ -1.5% ,2 )", True),
    ],
)
def test_numbers_in_brackets(text, expected):
    assert mentions_place(text) is expected
