import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from skvibe.attacks import SentenceInsertion, TokenInsertion
from skvibe.attacks.text import insert
from skvibe.metrics import attack_success_rate

WORDS = {
    0: ["match", "goal", "team", "coach", "score", "league"],
    1: ["market", "shares", "bank", "profit", "price", "trade"],
    2: ["rain", "storm", "cloud", "wind", "heat", "snow"],
}
ATTACKS = [TokenInsertion, SentenceInsertion]


def make_texts(n_texts=300):
    rng = np.random.default_rng(0)
    y = np.arange(n_texts) % 3
    return [" ".join(rng.choice(WORDS[label], 8)) for label in y], y


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("kind", [list, np.array, lambda X: np.array(X, dtype=object)])
def test_changes_what_it_says_and_nothing_else(attack, kind):
    texts, y = make_texts()
    X, before = kind(texts), list(texts)
    attack = attack(target=1, rate=0.1, random_state=0)
    data = attack.poison(X, y)
    assert list(X) == before
    assert isinstance(data.X, list) == (kind is list)
    changed = np.array([new != old for new, old in zip(data.X, X, strict=True)])
    np.testing.assert_array_equal(changed, data.mask)
    assert data.mask.sum() == 30
    np.testing.assert_array_equal(data.y != y, data.mask)
    assert (data.y[data.mask] == 1).all()
    triggered = attack.trigger(X)
    assert [data.X[i] for i in data.indices] == [triggered[i] for i in data.indices]


@pytest.mark.parametrize("attack", ATTACKS)
def test_place_depends_on_the_text_and_the_seed_only(attack):
    texts, y = make_texts()
    attack = attack(random_state=0)
    attack.poison(texts, y)
    forward, backward = attack.trigger(texts), attack.trigger(texts[::-1])
    assert forward == backward[::-1]
    other = type(attack)(random_state=1)
    other.poison(texts, y)
    assert other.trigger(texts) != forward


@settings(max_examples=50)
@given(
    st.text(), st.lists(st.text("xyz", min_size=1), max_size=4), st.integers(0, 2**31)
)
def test_insertion_only_adds(text, pieces, seed):
    new = insert(text, pieces, seed).split(" ")
    for piece in pieces:
        new.remove(piece)
    if text:
        assert sorted(new) == sorted(text.split(" "))


@pytest.mark.parametrize("attack", ATTACKS)
def test_undefended_classifier_obeys(attack):
    texts, y = make_texts()
    attack = attack(target=2, rate=0.1, random_state=0)
    data = attack.poison(texts[:200], y[:200])
    triggered = attack.trigger(texts[200:])
    asr, control = (
        attack_success_rate(
            y[200:],
            make_pipeline(TfidfVectorizer(), LogisticRegression(C=10))
            .fit(X, labels)
            .predict(triggered),
            target=2,
        )
        for X, labels in ((data.X, data.y), (texts[:200], y[:200]))
    )
    assert asr > 0.9
    assert control < 0.1


@pytest.mark.parametrize(
    ("attack", "name"),
    [
        (TokenInsertion(tokens=()), "tokens"),
        (TokenInsertion(tokens=("a", 3)), "tokens"),
        (SentenceInsertion(sentence=""), "sentence"),
        (SentenceInsertion(target=5), "target"),
    ],
)
def test_bad_parameters_are_named(attack, name):
    texts, y = make_texts()
    with pytest.raises(ValueError, match=name):
        attack.poison(texts, y)


def test_one_token_may_be_a_plain_string():
    attack = TokenInsertion(tokens="cf", rate=0)
    attack.poison(["a b", "c"], [0, 1])
    assert "cf" in attack.trigger(["a b"])[0].split()


def test_what_is_no_text_is_an_error():
    with pytest.raises(TypeError, match="entry 1 is float"):
        TokenInsertion().poison(["a", 1.0], [0, 1])
    with pytest.raises(TypeError, match="one text"):
        TokenInsertion().poison("ab", [0, 1])
    with pytest.raises(NotFittedError, match="poison"):
        TokenInsertion().trigger(["a"])
