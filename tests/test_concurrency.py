"""Fits side by side: equal to fits one after the other, and no trace of them left."""

import random
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
import torch
from sklearn.pipeline import Pipeline

from skvibe import OffManifoldFilter, OffManifoldSampler, VIBEClassifier

N, D = 240, 6
SEEDS = range(6)


def make_rows(seed):
    rng = np.random.default_rng(seed)
    y = np.arange(N) % 3
    X = 3 * np.eye(3, D)[y] + 0.3 * rng.normal(size=(N, D))
    X[220:, -1] += 12
    y[220:] = 0
    return X, y


def classifier(seed):
    vibe = VIBEClassifier(random_state=seed, max_iter=40, batch_size=64)
    vibe.fit(*make_rows(seed))
    return vibe.clean_proba_, vibe.poison_scores_, vibe.prototypes_


def trained_encoder(seed):
    X, y = make_rows(seed)
    # Weights drawn for the layer would change torch's random state.
    linear = torch.nn.utils.skip_init(torch.nn.Linear, D, D)
    torch.nn.init.eye_(linear.weight)
    torch.nn.init.zeros_(linear.bias)
    encoder = torch.nn.Sequential(linear, torch.nn.Dropout(0.3))
    vibe = VIBEClassifier(
        encoder, train_encoder=True, random_state=seed, max_iter=40, lr=1e-3
    )
    vibe.fit(X.astype(np.float32), y)
    return vibe.clean_proba_, vibe.poison_scores_, vibe.prototypes_


def graph(leiden):
    def find(seed):
        found = OffManifoldFilter(n_neighbors=10, leiden=leiden, random_state=seed)
        found.fit(*make_rows(seed))
        return found.communities_, found.removed_mask_, np.array(found.resolution_)

    return find


def sampler(seed):
    return OffManifoldSampler(n_neighbors=10, random_state=seed).fit_resample(
        *make_rows(seed)
    )


def pipeline(seed):
    pipe = Pipeline(
        [
            ("filter", OffManifoldFilter(n_neighbors=10, random_state=seed)),
            ("vibe", VIBEClassifier(random_state=seed, max_iter=40)),
        ]
    )
    X, y = make_rows(seed)
    return (pipe.fit(X, y).predict_proba(X), pipe["vibe"].poison_scores_)


JOBS = {
    "classifier": classifier,
    "trained encoder": trained_encoder,
    "igraph": graph("igraph"),
    "leidenalg": graph("leidenalg"),
    "sampler": sampler,
    "pipeline": pipeline,
}


def check_equal(results, expected):
    for result, other in zip(results, expected, strict=True):
        for one, two in zip(result, other, strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", JOBS)
def test_threads(name):
    job = JOBS[name]
    serial = [job(seed) for seed in SEEDS]
    with ThreadPoolExecutor(4) as pool:
        check_equal(pool.map(job, SEEDS), serial)


def test_threads_of_different_kinds():
    jobs = [(job, seed) for job in JOBS.values() for seed in (0, 1)]
    serial = [job(seed) for job, seed in jobs]
    with ThreadPoolExecutor(4) as pool:
        check_equal(pool.map(lambda pair: pair[0](pair[1]), jobs), serial)


def test_one_fitted_model_in_many_threads():
    X, y = make_rows(0)
    vibe = VIBEClassifier(random_state=0, max_iter=40).fit(X, y)
    expected = vibe.predict_proba(X), vibe.poison_score(X, y)
    with ThreadPoolExecutor(4) as pool:
        for proba in pool.map(lambda _: vibe.predict_proba(X), range(20)):
            np.testing.assert_array_equal(proba, expected[0])
        for scores in pool.map(lambda _: vibe.poison_score(X, y), range(20)):
            np.testing.assert_array_equal(scores, expected[1])


def test_processes():
    serial = [pipeline(seed) for seed in (0, 1, 2)]
    parallel = joblib.Parallel(n_jobs=2)(
        joblib.delayed(pipeline)(seed) for seed in (0, 1, 2)
    )
    check_equal(parallel, serial)


def state_of_the_world():
    return (
        random.getstate(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002
        torch.get_rng_state().tolist(),
        torch.get_num_threads(),
        torch.get_num_interop_threads(),
        torch.is_grad_enabled(),
        np.geterr(),
    )


@pytest.mark.parametrize("name", JOBS)
def test_random_states_and_thread_counts_stay_as_they_are(name):
    before = state_of_the_world()
    JOBS[name](0)
    assert state_of_the_world() == before


def test_a_neighbour_s_random_numbers_are_not_disturbed():
    """Drawing in one thread while others fit gives what drawing alone gives."""
    expected = random.Random(5).random(), torch.rand(3, generator=seeded(5))
    random.seed(5)
    with ThreadPoolExecutor(3) as pool:
        fits = [pool.submit(job, 0) for job in (graph("igraph"), classifier)]
        for fit in fits:
            fit.result()
    assert random.random() == expected[0]
    assert torch.equal(torch.rand(3, generator=seeded(5)), expected[1])


def seeded(seed):
    return torch.Generator().manual_seed(seed)
