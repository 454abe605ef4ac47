"""Suspect rows by given class, and what says that one trigger planted them."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from skvibe.audit_evidence import (
    distinctive_features,
    distinctive_words,
    split_words,
)
from skvibe.report.plain_values import count_values, plain_value

# A removed community counts as planted if so much of it carries one label.
_PURE = 0.8
# Fewer rows than this have too much in common by chance.
_FEWEST = 10


@dataclass
class SuspectGroup:
    """What the suspect rows of one given class have in common.

    Parameters
    ----------
    label : object
        The given class.
    n_rows, n_suspects : int
        Rows of the class, and suspect rows among them.
    removed_by : dict of str to int
        Number of its rows removed by each filter.
    better_labels : dict of object to int
        Labels the classifier finds for the suspect rows, most frequent first.
    n_planted : int
        Suspect rows for which there is evidence that one trigger planted them.
    evidence : list of str
        What speaks for a trigger, in words; empty if nothing does.
    words, features : list of tuple
        See `distinctive_words` and `distinctive_features`.
    """

    label: object
    n_rows: int
    n_suspects: int
    removed_by: dict
    better_labels: dict
    n_planted: int = 0
    evidence: list = field(default_factory=list)
    words: list = field(default_factory=list)
    features: list = field(default_factory=list)

    def describe(self):
        """The group in a few sentences.

        Returns
        -------
        str
            The sentences, joined.
        """
        return " ".join(self.sentences())

    def sentences(self):
        """The same, sentence by sentence; the first says what was found.

        Returns
        -------
        list of str
            Without line ends.
        """
        share = f"{100 * self.n_suspects / max(self.n_rows, 1):.1f} % of the class"
        rest = self.n_suspects - self.n_planted
        doubt = "mislabelled or ambiguous"
        if not self.evidence:
            verb = "looks" if rest == 1 else "look"
            told = [
                f"Class {self.label} holds {_count(rest, 'row')} ({share}) that {verb} "
                f"{doubt}; no common trigger was found."
            ]
        else:
            told = [
                f"Class {self.label} holds {_count(self.n_planted, 'row')} that look "
                f"planted by one trigger: {'; '.join(self.evidence)}."
            ]
            if rest:
                verb = "looks" if rest == 1 else "look"
                told.append(f"{_count(rest, 'more row')} {verb} {doubt}.")
        return told + self._describe_labels() + self._describe_features()

    def _describe_labels(self):
        others = [(k, n) for k, n in self.better_labels.items() if k != self.label]
        if not others:
            return []
        best = ", ".join(f"{label} ({n:,})" for label, n in others[:3])
        more = " and others" if len(others) > 3 else ""
        return [f"The classifier sees: {best}{more}."]

    def _describe_features(self):
        if not self.features:
            return []
        told = ", ".join(f"{n} {a:.3g} against {b:.3g}" for n, a, b in self.features)
        return [f"Means of suspect against trusted rows: {told}."]

    def to_dict(self):
        """The group as plain values, ready for JSON.

        Returns
        -------
        dict
            By attribute.
        """
        return {
            "label": self.label,
            "n_rows": self.n_rows,
            "n_suspects": self.n_suspects,
            "n_planted": self.n_planted,
            "evidence": self.evidence,
            "removed_by": self.removed_by,
            "better_labels": {str(k): n for k, n in self.better_labels.items()},
            "words": [list(entry) for entry in self.words],
            "features": [list(entry) for entry in self.features],
        }


def find_groups(audit, text, X, feature_names):
    """The suspect rows of each given class, with what they have in common.

    Parameters
    ----------
    audit : Audit
        Its verdict on every row is read.
    text : sequence of str or None
        Texts of all rows.
    X : ndarray of shape (n_samples, n_features)
        The rows.
    feature_names : sequence of str or None
        Names of the features.

    Returns
    -------
    list of SuspectGroup
        Classes without suspect rows left out; the most planted rows first.

    Raises
    ------
    ValueError
        If there is not one name for each feature.
    """
    groups = []
    trusted = ~audit.is_suspect
    if feature_names is not None and len(feature_names) != X.shape[1]:
        raise ValueError(
            f"feature_names has {len(feature_names)} names for {X.shape[1]} features."
        )
    for label in audit.classes:
        own = audit.given_labels == label
        suspect = own & audit.is_suspect
        if not suspect.any():
            continue
        better = Counter(plain_value(v) for v in audit.predicted_labels[suspect])
        group = SuspectGroup(
            label=plain_value(label),
            n_rows=int(own.sum()),
            n_suspects=int(suspect.sum()),
            removed_by=count_values(
                audit.removed_by[suspect & (audit.removed_by != "")]
            ),
            better_labels=dict(better.most_common()),
        )
        # What the removed rows share is not blurred by the other suspects.
        core = suspect & (audit.removed_by != "")
        core = core if core.sum() >= _FEWEST else suspect
        if text is not None and core.sum() >= _FEWEST:
            group.words = _planted_words(text, core, trusted, own)
        if feature_names is not None and core.sum() >= _FEWEST:
            group.features = distinctive_features(X, core, trusted, feature_names)
        planted, group.evidence = _find_evidence(audit, group, suspect, text)
        group.n_planted = int(planted.sum())
        groups.append(group)
    return sorted(groups, key=lambda g: (-g.n_planted, -g.n_suspects))


def _planted_words(text, core, trusted, own):
    """Words rare among all trusted rows and among those of the same class.

    What the suspect rows of a class share with its trusted ones is its topic.
    """
    words = distinctive_words(text, core, trusted)
    if not words or (trusted & own).sum() < _FEWEST:
        return words
    in_class = {word for word, _, _ in distinctive_words(text, core, trusted & own)}
    return [entry for entry in words if entry[0] in in_class]


def _find_evidence(audit, group, suspect, text):
    """Rows of a class that one trigger planted, and what says so."""
    planted, evidence = np.zeros(len(suspect), dtype=bool), []
    for _, step in getattr(audit.estimator, "steps", []):
        mine = suspect & (audit.removed_by == type(step).__name__)
        if group.label in getattr(step, "suspect_classes_", ()):
            evidence.append(
                f"{mine.sum():,} are rows of other classes moved the same way"
            )
            planted |= mine
        elif hasattr(step, "communities_"):
            removed = (audit.removed_by == type(step).__name__).sum()
            if mine.sum() >= _FEWEST and mine.sum() >= _PURE * removed:
                evidence.append(
                    f"{mine.sum():,} form a group apart from all other rows"
                )
                planted |= mine
    if group.words:
        told = ", ".join(
            f"“{word}” {100 * share:.0f} %" for word, share, _ in group.words
        )
        evidence.append(f"words hardly found in trusted rows: {told}")
        planted |= _with_words(text, suspect, {word for word, _, _ in group.words})
    return planted, evidence


def _with_words(text, suspect, words):
    mask = np.zeros(len(suspect), dtype=bool)
    for i in np.flatnonzero(suspect):
        mask[i] = not words.isdisjoint(split_words(text[i]))
    return mask


def _count(n, noun):
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
