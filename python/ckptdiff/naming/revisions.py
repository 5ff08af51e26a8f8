"""What a checkpoint's label says of where training stood: stage, ingredient, step and tokens.

Labels are branch names of a Hub repository, directory names or file names. Each series has its own
way to write them: ``stage2-ingredient1-step11931-tokens50B`` (OLMo 2), ``step-480k-token-1007B``
(TinyLlama), ``global_step1000`` (BLOOM), ``checkpoint-500`` (Hugging Face's trainer), a bare
``0000020000``. They are read by a few rules, not by a list of series:

- Nothing is a number of tokens unless it stands after the step: ``TinyLlama-1.1B`` is a model's
  size. Tokens are rounded in a label, so :attr:`Revision.tokens_unit` says to what.
- ``+`` joins what a soup was averaged of: ``stage2-ingredient1+2-step23842`` is made of two
  ingredients, ``step11921+11000+10000`` of three steps. One can also be called a soup, and no more.
- ``ckpt_356`` (Amber) counts checkpoints, not steps.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Revision", "parse_revision"]

# Longer runs of digits are hashes and dates, not steps; and the largest of these fits a float.
_DIGITS = r"\d{1,15}"

_MULTIPLES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}

_STAGE = re.compile(
    # a stage can have a name beside its number: stage3_longcontext, or stage_3_longcontext
    rf"(?<![a-z0-9])stage[-_]?({_DIGITS})(?![a-z0-9])"
    r"(?:_(?!steps?(?![a-z])|ingredient|tokens?(?![a-z]))([a-z]+)(?![a-z0-9]))?"
)
_INGREDIENT = re.compile(rf"(?<![a-z0-9])ingredient[-_]?({_DIGITS}(?:\+{_DIGITS})*)(?![a-z0-9])")
_STEP = re.compile(
    rf"(?<![a-z])(?:global[-_]?)?(?:step|iter)[-_=]?"
    rf"(?:({_DIGITS}(?:\.{_DIGITS})?)([km])|({_DIGITS}(?:\+{_DIGITS})*))(?![a-z0-9])"
)
_WHOLE_STEP = re.compile(rf"(?:checkpoint[-_]?)?({_DIGITS})")
_INDEX = re.compile(rf"ckpt[-_]?({_DIGITS})")
_TOKENS = re.compile(
    # with the word any unit, or none, is one of tokens; without it only what counts in billions
    rf"(?<![a-z0-9])(?:tokens?[-_=]?({_DIGITS}(?:\.{_DIGITS})?)([kmbt]?)"
    rf"|({_DIGITS}(?:\.{_DIGITS})?)([bt]))t?(?![a-z0-9])"
)
_SOUP = re.compile(r"(?<![a-z0-9])soups?(?![a-z0-9])")
_LONG_CONTEXT = re.compile(r"(lc-.+?)[-_]step")


@dataclass(frozen=True, slots=True)
class Revision:
    """What a label says; what it does not say is None, or empty.

    ``step`` counts optimizer steps as the label does, most often since the start of the stage; a
    soup of several steps has them all in ``steps`` and the largest as its ``step``. A soup of
    several ``ingredients`` has no ``ingredient``. ``tokens`` is a multiple of ``tokens_unit``, to
    which it was rounded, up or down. ``phase`` is a stage's name (``longcontext``), ``index`` the
    number of a checkpoint where checkpoints are counted.
    """

    label: str
    stage: int | None = None
    phase: str | None = None
    ingredient: int | None = None
    ingredients: tuple[int, ...] = ()
    step: int | None = None
    steps: tuple[int, ...] = ()
    tokens: int | None = None
    tokens_unit: int | None = None
    index: int | None = None
    is_called_soup: bool = False

    @property
    def is_soup(self) -> bool:
        """Whether this is an average of several checkpoints."""
        return self.is_called_soup or len(self.ingredients) > 1 or len(self.steps) > 1

    @property
    def says_nothing(self) -> bool:
        """Whether the label tells neither stage, ingredient, step nor index."""
        return (
            self.stage is None
            and self.phase is None
            and not self.ingredients
            and self.step is None
            and self.index is None
        )


def parse_revision(label: str) -> Revision:
    """Read a label; never an error, as a label is whatever somebody wrote.

    >>> parse_revision("stage2-ingredient1-step11931-tokens50B").tokens
    50000000000
    >>> parse_revision("step11921+11000+10000").steps
    (11921, 11000, 10000)
    >>> parse_revision("TinyLlama-1.1B").says_nothing
    True
    """
    text = label.lower()
    stage, phase = _stage(text)
    ingredients = _joined(_INGREDIENT.search(text), 1)
    steps, rest = _steps(text)
    tokens, unit = _tokens(rest)
    index = _INDEX.fullmatch(text)
    return Revision(
        label=label,
        stage=stage,
        phase=phase,
        ingredient=ingredients[0] if len(ingredients) == 1 else None,
        ingredients=ingredients,
        step=max(steps, default=None),
        steps=steps,
        tokens=tokens,
        tokens_unit=unit,
        index=int(index[1]) if index else None,
        is_called_soup=_SOUP.search(text) is not None,
    )


def _stage(text: str) -> tuple[int | None, str | None]:
    match = _STAGE.search(text)
    if match:
        return int(match[1]), match[2]
    # SmolLM3 names the stages that lengthen its context, and does not number them
    long_context = _LONG_CONTEXT.match(text)
    return None, long_context[1] if long_context else None


def _steps(text: str) -> tuple[tuple[int, ...], str]:
    """The steps, and the text behind them."""
    match = _STEP.search(text)
    if match:
        behind = text[match.end() :]
        if match[2]:
            return (_multiple(match[1], _MULTIPLES[match[2]]),), behind
        return _joined(match, 3), behind
    whole = _WHOLE_STEP.fullmatch(text)
    return ((int(whole[1]),) if whole else ()), ""


def _tokens(behind_the_step: str) -> tuple[int | None, int | None]:
    match = _TOKENS.search(behind_the_step)
    if not match:
        return None, None
    number, unit = (match[1], match[2]) if match[1] else (match[3], match[4])
    decimals = len(number.partition(".")[2])
    # 1.5T is rounded to tenths of a trillion
    rounded_to = max(1, _MULTIPLES[unit] // 10**decimals)
    return _multiple(number, _MULTIPLES[unit]), rounded_to


def _joined(match: re.Match[str] | None, group: int) -> tuple[int, ...]:
    return tuple(map(int, match[group].split("+"))) if match else ()


def _multiple(number: str, unit: int) -> int:
    """``number``, which may have decimals, times ``unit``: in integers, so that 1.1 k is 1100."""
    whole, _, decimals = number.partition(".")
    return int(whole) * unit + (int(decimals) * unit // 10 ** len(decimals) if decimals else 0)
