"""Penn Treebank tokens of captions, as COCO's evaluation makes them with Stanford's PTBTokenizer.

Written after the tokenizer's documentation and its output on captions; no Java is needed. Rare
things that captions do not have (emoticons, XML) are not treated as there.
"""

from __future__ import annotations

import re

# Dropped after tokenising. COCO's list also has brackets, as -LRB-, but tokens are in lower case.
# So brackets count as words.
_DROPPED = frozenset(("''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"))
_BRACKETS = {
    "(": "-lrb-",
    ")": "-rrb-",
    "[": "-lsb-",
    "]": "-rsb-",
    "{": "-lcb-",
    "}": "-rcb-",
}
_QUOTES = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "…": "..."})

_ABBREVIATIONS = (
    "mr|mrs|ms|dr|prof|rev|gen|col|lt|sgt|capt|st|ste|jr|sr|co|corp|inc|ltd|bros|vs|etc|no|"
    "jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec|mon|tue|wed|thu|fri|sat|ave|blvd|rd|mt|ft"
)

_TOKEN = re.compile(
    rf"""
    (?:https?://|www\.)\S+[\w/]
  | [\w.+-]+@[\w-]+(?:\.[\w-]+)+
  | (?:[a-z]\.)+[a-z]\b\.?                           # a.m.
  | (?:{_ABBREVIATIONS})\.(?=\s|$)
  | \d+(?:[.,:]\d+)+(?:[a-z]+)?                      # 10:30
  | \w+(?:-\w+){{0,2}}(?:/\w+(?:-\w+){{0,2}}){{1,2}} # black/white
  | (?:o'clock|ma'am|y'all|[dol]'\w{{2,}})\b
  | \w+n't\b
  | \w+(?:-\w+)*                                    # well-lit
  | '(?:tis|twas|s|m|d|re|ve|ll|n|em)\b
  | \.{{2,}} | -{{2,}} | [?!]+ | ''? | ``? | \S
    """,
    re.VERBOSE,
)
_NEGATED = re.compile(r"(\w+)(n't)")
_SPLIT = {
    "cannot": "can not",
    "gonna": "gon na",
    "gotta": "got ta",
    "wanna": "wan na",
    "gimme": "gim me",
    "lemme": "lem me",
    "'tis": "'t is",
    "'twas": "'t was",
}


def ptb_tokens(text: str) -> list[str]:
    """The tokens of a caption in lower case, without punctuation. Line breaks count as spaces."""
    tokens: list[str] = []
    for found in _TOKEN.findall(text.translate(_QUOTES).lower()):
        tokens += _parts(found)
    return [token for token in tokens if token not in _DROPPED]


def _parts(token: str) -> list[str]:
    if token in _BRACKETS:
        return [_BRACKETS[token]]
    if token == '"':
        return ["''"]
    if token in _SPLIT:
        return _SPLIT[token].split()
    if negated := _NEGATED.fullmatch(token):
        return list(negated.groups())
    if "/" in token and "://" not in token:
        return [token.replace("/", "\\/")]
    return [token]
