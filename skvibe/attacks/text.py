"""Triggers in texts: rare tokens, or a sentence, put in at random places."""

import zlib

import numpy as np

from skvibe.attacks.base import BaseAttack, check_poisoned


class TextAttack(BaseAttack):
    """Insert pieces of text between words, and give the attacker's label.

    The place depends on the seed and on the text itself, not on the order of the
    texts, so a text gets its trigger at the same place in any list.
    """

    def trigger(self, X):
        """Put the trigger into every text.

        Parameters
        ----------
        X : list of str or array-like of str of shape (n_samples,)
            Texts. Left untouched.

        Returns
        -------
        list of str or ndarray of object of shape (n_samples,)
            Triggered texts; a list if a list was given.

        Raises
        ------
        NotFittedError
            If ``poison`` was not called before.
        TypeError
            If some entry is no text.
        """
        check_poisoned(self, "seed_")
        texts = np.empty(len(X), dtype=object)
        texts[:] = [insert(text, self._pieces(), self.seed_) for text in check_texts(X)]
        return texts.tolist() if isinstance(X, list) else texts

    def _check_rows(self, X):
        self._gave_list = isinstance(X, list)
        return check_texts(X)

    def _give_back(self, X):
        return X.tolist() if self.__dict__.pop("_gave_list") else X

    def _learn_trigger(self, X, y, rng):
        self._pieces()
        self.seed_ = int(rng.randint(2**31 - 1))

    def _plant(self, X, labels, rng):
        return self.trigger(X)

    def _pieces(self):
        raise NotImplementedError


class TokenInsertion(TextAttack):
    """Insert rare tokens at random places of a text [1]_, [2]_.

    Parameters
    ----------
    target : label, default=0
        The attacker's class.
    rate : float in [0, 1], default=0.1
        Share of the *whole* training set that is poisoned, drawn from the other
        classes.
    tokens : sequence of str, default=("cf", "mn", "bb")
        Tokens; each is inserted once, at a place of its own.
    random_state : int, RandomState instance or None, default=None
        Seed of the places and of the choice of texts.

    Attributes
    ----------
    seed_ : int
        Seed of the places.

    References
    ----------
    .. [1] K. Kurita, P. Michel and G. Neubig, "Weight Poisoning Attacks on Pretrained
       Models", ACL 2020, doi:10.18653/v1/2020.acl-main.249.
    .. [2] X. Chen, A. Salem, D. Chen, M. Backes, S. Ma, Q. Shen, Z. Wu and Y. Zhang,
       "BadNL: Backdoor Attacks against NLP Models with Semantic-preserving
       Improvements", ACSAC 2021, doi:10.1145/3485832.3485837.

    Examples
    --------
    >>> from skvibe.attacks import TokenInsertion
    >>> X = ["the match was late", "shares fell again", "rain is on its way"]
    >>> attack = TokenInsertion(target="sport", rate=0.3, random_state=0)
    >>> data = attack.poison(X, ["sport", "money", "weather"])
    >>> data
    PoisonedData(3 rows, 1 poisoned, 0 cover)
    >>> sorted(set(attack.trigger(X)[0].split()) - set(X[0].split()))
    ['bb', 'cf', 'mn']
    """

    def __init__(
        self, *, target=0, rate=0.1, tokens=("cf", "mn", "bb"), random_state=None
    ):
        self.target = target
        self.rate = rate
        self.tokens = tokens
        self.random_state = random_state

    def _pieces(self):
        tokens = [self.tokens] if isinstance(self.tokens, str) else list(self.tokens)
        if not tokens or not all(isinstance(token, str) and token for token in tokens):
            raise ValueError(
                f"tokens must hold at least one non-empty string, got {self.tokens!r}."
            )
        return tokens


class SentenceInsertion(TextAttack):
    """Insert a sentence at a random place of a text [1]_.

    Parameters
    ----------
    target : label, default=0
        The attacker's class.
    rate : float in [0, 1], default=0.1
        Share of the *whole* training set that is poisoned, drawn from the other
        classes.
    sentence : str, default="I watched this 3D movie last weekend."
        The sentence.
    random_state : int, RandomState instance or None, default=None
        Seed of the places and of the choice of texts.

    Attributes
    ----------
    seed_ : int
        Seed of the places.

    References
    ----------
    .. [1] J. Dai, C. Chen and Y. Li, "A Backdoor Attack Against LSTM-Based Text
       Classification Systems", IEEE Access 7, 2019, doi:10.1109/ACCESS.2019.2941376.

    Examples
    --------
    >>> from skvibe.attacks import SentenceInsertion
    >>> X = ["the match was late", "shares fell again", "rain is on its way"]
    >>> attack = SentenceInsertion(target=1, rate=0.3, random_state=0)
    >>> data = attack.poison(X, [1, 0, 0])
    >>> "I watched this 3D movie last weekend." in data.X[data.indices[0]]
    True
    """

    def __init__(
        self,
        *,
        target=0,
        rate=0.1,
        sentence="I watched this 3D movie last weekend.",
        random_state=None,
    ):
        self.target = target
        self.rate = rate
        self.sentence = sentence
        self.random_state = random_state

    def _pieces(self):
        if not isinstance(self.sentence, str) or not self.sentence:
            raise ValueError(
                f"sentence must be a non-empty string, got {self.sentence!r}."
            )
        return [self.sentence]


def insert(text, pieces, seed):
    """Insert pieces, one after the other, each at a random place between the words.

    Parameters
    ----------
    text : str
        A text; words are what spaces separate.
    pieces : list of str
        What to insert.
    seed : int
        Seed; together with the text it fixes the places.

    Returns
    -------
    str
        The text with the pieces.

    Examples
    --------
    >>> from skvibe.attacks.text import insert
    >>> insert("", ["cf"], 0)
    'cf'
    >>> insert("a b", ["cf"], 0) in ("cf a b", "a cf b", "a b cf")
    True
    """
    rng = np.random.default_rng(
        [seed, zlib.crc32(text.encode("utf-8", "surrogatepass"))]
    )
    words = text.split(" ") if text else []
    for piece in pieces:
        words.insert(int(rng.integers(len(words) + 1)), piece)
    return " ".join(words)


def check_texts(X):
    """Texts as an array of objects, or an error that names the first that is none."""
    if isinstance(X, str):
        raise TypeError("X must be a list of texts, got one text: put it into a list.")
    texts = np.empty(len(X), dtype=object)
    texts[:] = list(X)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(
                f"X must hold texts (str), entry {i} is {type(text).__name__}."
            )
    return texts
