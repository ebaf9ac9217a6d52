"""A suite is refused when a model that reads the text alone can tell its lies from its truths: it would then
test how lies are written, not whether a judge knows what is true."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ....envs.statistics import Values
from .families import LIES
from .pairs import Pair, SuiteError, items

BOUND = 0.55
"""Largest share of pairs of a family of lies that a model which reads the text alone may tell."""
_FOLDS, _TIE = 5, 1e-9


def reader() -> Any:
    """Logistic regression on counts of words and of pairs of words.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    try:
        from sklearn.feature_extraction.text import CountVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
    except ImportError as error:
        raise ImportError("the suite's check needs scikit-learn: pip install 'recrl[demo]'") from error
    words = CountVectorizer(ngram_range=(1, 2), token_pattern=r"\S+")
    return make_pipeline(words, LogisticRegression(max_iter=1000))


def accuracies(pairs: Sequence[Pair]) -> dict[str, float]:
    """How often a model that reads the text alone finds the worse text of a pair, by family of lies.

    It is cross-validated over groups of mirror images; a tie counts half. What both texts have in common says
    nothing here, so an artefact shows sooner than in the accuracy on single texts.
    """
    from sklearn.model_selection import GroupKFold, cross_val_predict

    found = {}
    for family in LIES:
        shown = items([pair for pair in pairs if pair.kind == "defect" and pair.family == family])
        # Numbers of groups are told apart by part: seen and unseen households count theirs alone.
        names = [f"{one.pair.part == 'training'} {one.pair.group}" for one in shown]
        if len(set(names)) < 2:
            continue
        groups = np.unique(names, return_inverse=True)[1]
        folds = GroupKFold(min(_FOLDS, int(groups.max()) + 1))
        bad: Values = np.array([float(one.bad) for one in shown])
        texts = [one.text for one in shown]
        worse = cross_val_predict(reader(), texts, bad, groups=groups, cv=folds, method="decision_function")
        gaps = worse[1::2] - worse[0::2]
        found[family] = float(np.where(np.abs(gaps) < _TIE, 0.5, gaps > 0).mean())
    return found


def check(pairs: Sequence[Pair]) -> dict[str, float]:
    """As :func:`accuracies`.

    Raises:
        SuiteError: one of them is larger than :data:`BOUND`.
    """
    found = accuracies(pairs)
    for family, accuracy in found.items():
        if accuracy > BOUND:
            raise SuiteError(
                f"the suite is refused: a model that reads the text alone finds the false text of "
                f"{accuracy:.2f} of the pairs of {family!r} (at most {BOUND:g}); ask for more --pairs, or "
                "another --seed"
            )
    return found
