"""What a text is cut into to be found again.

Words of scripts that put blanks between them are found by their English stem (other languages: as they are written),
without case and accents. Chinese, Japanese, Korean, Thai, Lao, Khmer and Burmese are written without blanks: their
text is indexed by single characters (to find exact phrases) and by pairs (to rank), as Lucene's CJK analyser does it.
A dictionary would rank somewhat better and fail on every name that it does not know.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

import tantivy

_RUN = re.compile(
    r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    r"\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\uac00-\ud7a3"  # Hiragana, Katakana, Hangul
    r"\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ede\u1000-\u109f\u1780-\u17d3]+"  # Thai, Lao, Burmese, Khmer
)

#: Stands between the characters of two runs, so that no phrase reaches across.
BREAK = "\x1f|"

#: Longer words are left out: hashes and addresses are nobody's words.
LONGEST = 60


def _analyzer(*more: tantivy.Filter) -> tantivy.TextAnalyzer:
    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
    steps = (tantivy.Filter.remove_long(LONGEST), tantivy.Filter.lowercase(), tantivy.Filter.ascii_fold(), *more)
    for step in steps:
        builder = builder.filter(step)
    return builder.build()


@lru_cache(1)
def words_analyzer() -> tantivy.TextAnalyzer:
    """For the field of words: their stems."""
    return _analyzer(tantivy.Filter.stemmer("english"))


@lru_cache(1)
def plain_analyzer() -> tantivy.TextAnalyzer:
    """Words as they are written, without case and accents."""
    return _analyzer()


@lru_cache(1)
def blank_analyzer() -> tantivy.TextAnalyzer:
    """For the fields whose terms come ready, with blanks between."""
    return tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace()).build()


def well_formed(text: str) -> str:
    """Text without the halves of characters that undecodable bytes of a command line leave, which no index takes."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def normal(text: str) -> str:
    """Text with one spelling for what looks alike: full-width and half-width forms, ligatures, composed accents."""
    return text if text.isascii() else unicodedata.normalize("NFKC", text)


def cut(text: str) -> tuple[str, list[str]]:
    """(the text with words between blanks, the runs of characters of scripts without blanks) of a normal text."""
    if text.isascii():
        return text, []
    runs = _RUN.findall(text)
    return (_RUN.sub(" ", text) if runs else text), runs


def characters(runs: list[str]) -> str:
    """The single characters of the runs, as the field takes them."""
    return f" {BREAK} ".join(" ".join(run) for run in runs)


def pairs(run: str) -> list[str]:
    """Neighbouring characters of a run, two by two."""
    return [run[i : i + 2] for i in range(len(run) - 1)]
