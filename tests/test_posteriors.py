import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

from skvibe import posteriors
from skvibe.posteriors import (
    clean_log_posterior,
    corrupted_log_bound,
    corrupted_log_posterior,
    corrupted_log_posterior_at,
    cosines_with,
    poison_score_from_log_posterior,
    poisoning_log_rule,
    unit_rows,
)

# Concentrations over twelve decades; a large one takes the shifted path.
NU = st.one_of(
    st.sampled_from([0.0, 1e-6, 1.0, 10.0, 39.9, 40.0, 40.1, 1e3, 1e6]),
    st.floats(0, 1e4),
)


@st.composite
def unit_vectors(draw, dtype=torch.float64):
    """Rows v, prototypes mu and eta, and given labels; some rows equal a prototype."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_rows, n_classes = draw(st.integers(1, 20)), draw(st.integers(2, 8))
    n_features = draw(st.integers(2, 30))

    def draw_unit(n):
        vectors = torch.from_numpy(rng.normal(size=(n, n_features)))
        return unit_rows(vectors)

    v, mu, eta = draw_unit(n_rows), draw_unit(n_classes), draw_unit(n_classes)
    if draw(st.booleans()):
        v[0] = mu[0]
    labels = torch.from_numpy(rng.integers(n_classes, size=n_rows))
    return v.to(dtype), mu.to(dtype), eta.to(dtype), labels


def tables(v, mu, eta):
    return v @ mu.T, v @ eta.T, mu @ eta.T


def naive_corrupted(v, mu, eta, nu):
    """log p(y | l, x) at [i, l, y], with every h formed: N x K x d."""
    h = mu.numpy()[None] + v.numpy()[:, None]
    h = h / np.linalg.norm(h, axis=2, keepdims=True)
    return log_softmax(nu * (h @ eta.numpy().T), axis=2)


@given(unit_vectors(), NU)
def test_the_bound_lies_above_the_posterior_and_within_the_missing_terms(vectors, nu):
    v, mu, eta, labels = vectors
    bound = corrupted_log_bound(*tables(v, mu, eta), labels, nu)
    exact = corrupted_log_posterior(*tables(v, mu, eta), labels, nu)
    slack = 1e-9 * (1 + nu)
    assert (bound >= exact - slack).all()
    # Two terms of the normaliser, and their larger one taken for both.
    two = mu @ eta.T
    at = two[:, labels].T + (v @ eta.T).gather(1, labels[:, None])
    own = two.diagonal() + v @ eta.T
    norm = (mu[None] + v[:, None]).norm(dim=2).clamp_min(1e-3)
    top = torch.maximum(at, own)
    np.testing.assert_allclose(bound, nu * (at - top) / norm, atol=1e-6 * (1 + nu))


@given(unit_vectors(), NU)
def test_full_posterior_equals_the_naive_one(vectors, nu):
    v, mu, eta, labels = vectors
    expected = naive_corrupted(v, mu, eta, nu)[
        np.arange(len(v))[:, None], np.arange(len(mu))[None], labels.numpy()[:, None]
    ]
    result = corrupted_log_posterior(*tables(v, mu, eta), labels, nu)
    np.testing.assert_allclose(
        result.numpy(), expected, rtol=1e-7, atol=1e-7 + nu / 1e9
    )


@given(unit_vectors(), NU)
def test_full_posterior_is_normalised_over_the_given_label(vectors, nu):
    v, mu, eta, labels = vectors
    total = torch.zeros(len(v), len(mu), dtype=torch.float64)
    for y in range(len(mu)):
        given_y = torch.full_like(labels, y)
        total += corrupted_log_posterior(*tables(v, mu, eta), given_y, nu).exp()
    np.testing.assert_allclose(total.numpy(), 1, rtol=1e-9)


@given(unit_vectors(dtype=torch.float32), NU)
def test_float32_stays_finite_and_below_one(vectors, nu):
    v, mu, eta, labels = vectors
    result = corrupted_log_posterior(*tables(v, mu, eta), labels, nu)
    assert torch.isfinite(result).all()
    assert (result <= 1e-5 + 1e-6 * nu).all()
    # Of what it was given: |h| follows from a cosine, and where v is close to -mu the
    # rounding of that cosine turns h (the next test).
    given = tables(v, mu, eta)
    exact = corrupted_log_posterior(*(t.double() for t in given), labels, nu)
    scale = nu / (2 + 2 * given[0].double()).clamp_min(1e-12).sqrt()
    error = (result - exact).abs()
    assert (error <= 2e-6 + 1e-6 * (scale + nu)).all()
    # Elsewhere also of the vectors.
    exact = corrupted_log_posterior(
        *tables(v.double(), mu.double(), eta.double()), labels, nu
    )
    plain = given[0] > -0.99
    np.testing.assert_allclose(
        result[plain], exact[plain], rtol=1e-4, atol=1e-4 + 1e-4 * nu
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("nu", [0.0, 10.0, 1e3, 1e6])
def test_a_row_opposite_to_a_prototype_has_a_finite_posterior(dtype, nu):
    # h = 0 there, and has no direction.
    mu = torch.eye(3, dtype=dtype)
    labels = torch.tensor([0, 1, 2])
    result = corrupted_log_posterior(*tables(-mu, mu, mu), labels, nu)
    assert torch.isfinite(result).all()
    assert (result <= 1e-5 * (1 + nu)).all()


@given(unit_vectors(), NU, st.integers(1, 7))
def test_blocks_of_rows_may_be_worked_separately(vectors, nu, size):
    v, mu, eta, labels = vectors
    cosines, given_cosines, table = tables(v, mu, eta)
    whole = corrupted_log_posterior(cosines, given_cosines, table, labels, nu)
    parts = [
        corrupted_log_posterior(c, g, table, y, nu)
        for c, g, y in zip(
            cosines.split(size),
            given_cosines.split(size),
            labels.split(size),
            strict=True,
        )
    ]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=1e-12)


@given(unit_vectors(), NU)
def test_posterior_at_one_clean_label(vectors, nu):
    v, mu, eta, labels = vectors
    clean = labels.flip(0)
    whole = corrupted_log_posterior(*tables(v, mu, eta), labels, nu)
    at = corrupted_log_posterior_at(*tables(v, mu, eta), labels, clean, nu)
    expected = whole.gather(1, clean[:, None])[:, 0]
    torch.testing.assert_close(at, expected, rtol=1e-9, atol=1e-9 * (1 + nu))


@settings(max_examples=10)
@given(unit_vectors(), st.sampled_from([0.5, 10.0, 60.0]))
def test_gradient_of_the_m_step(vectors, nu):
    v, mu, eta, labels = vectors
    mu.requires_grad_()
    eta.requires_grad_()

    def loss(mu, eta):
        cosines, given_cosines, table = tables(v, unit_rows(mu), unit_rows(eta))
        clean = clean_log_posterior(cosines, torch.zeros(len(mu)), 5.0)
        corrupted = corrupted_log_posterior_at(
            cosines, given_cosines, table, labels, labels.flip(0), nu
        )
        return clean.mean() + corrupted.mean()

    assert torch.autograd.gradcheck(loss, (mu, eta), atol=1e-4, rtol=1e-3)


@given(unit_vectors(), st.floats(1e-6, 1e6), st.data())
def test_clean_posterior_is_the_mixture_s(vectors, kappa, data):
    v, mu, _, _ = vectors
    prior = np.array(data.draw(st.lists(st.floats(1e-6, 1), min_size=8, max_size=8)))
    prior = prior[: len(mu)] / prior[: len(mu)].sum()
    result = clean_log_posterior(v @ mu.T, torch.from_numpy(np.log(prior)), kappa)
    logits = kappa * (v @ mu.T).numpy() + np.log(prior)
    np.testing.assert_allclose(
        result, log_softmax(logits, axis=1), atol=1e-9, rtol=1e-9
    )
    np.testing.assert_allclose(result.exp().sum(dim=1), 1, rtol=1e-9)


@given(unit_vectors(dtype=torch.float32), st.floats(1e-6, 1e4))
def test_clean_posterior_is_the_same_with_and_without_a_gradient(vectors, kappa):
    v, mu, _, _ = vectors
    log_prior = torch.linspace(-2, 0, len(mu))
    plain = clean_log_posterior(v @ mu.T, log_prior, kappa)
    wanted = clean_log_posterior((v @ mu.T).requires_grad_(), log_prior, kappa)
    assert wanted.requires_grad
    atol = 1e-5 + 1e-6 * kappa  # rounding of the logits
    torch.testing.assert_close(plain, wanted.detach(), rtol=1e-5, atol=atol)


@given(unit_vectors(), NU)
def test_rule_is_a_table_of_probabilities(vectors, nu):
    _, mu, eta, _ = vectors
    rule = poisoning_log_rule(mu @ eta.T, nu).exp().numpy()
    np.testing.assert_allclose(rule.sum(axis=1), 1, rtol=1e-9)
    expected = softmax(nu * (mu @ eta.T).numpy(), axis=1)
    np.testing.assert_allclose(rule, expected, rtol=1e-6, atol=1e-12)


def test_full_posterior_of_a_row_at_its_prototype_is_the_rule():
    mu = unit_rows(torch.randn(4, 6, dtype=torch.float64, generator=seeded()))
    eta = unit_rows(torch.randn(4, 6, dtype=torch.float64, generator=seeded(1)))
    labels = torch.arange(4)
    full = corrupted_log_posterior(*tables(mu, mu, eta), labels, 7.0)
    rule = poisoning_log_rule(mu @ eta.T, 7.0)
    torch.testing.assert_close(full.diagonal(), rule.diagonal())


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@given(st.integers(1, 10), st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_poison_score_compares_the_given_with_the_best_other_label(n, k, seed):
    rng = np.random.default_rng(seed)
    log_p = log_softmax(rng.normal(scale=5, size=(n, k)), axis=1)
    labels = rng.integers(k, size=n)
    p = np.exp(log_p)
    own = p[np.arange(n), labels]
    p[np.arange(n), labels] = 0
    other = p.max(axis=1)
    score = poison_score_from_log_posterior(
        torch.from_numpy(log_p), torch.from_numpy(labels)
    )
    np.testing.assert_allclose(score, other / (other + own), rtol=1e-7)
    # A constant of the row changes nothing.
    shifted = torch.from_numpy(log_p + rng.normal(size=(n, 1)))
    again = poison_score_from_log_posterior(shifted, torch.from_numpy(labels))
    np.testing.assert_allclose(again, score, rtol=1e-7)


def test_poison_score_at_the_ends():
    log_p = torch.tensor([[0.0, -1e6], [-1e6, 0.0], [0.0, 0.0]], dtype=torch.float64)
    score = poison_score_from_log_posterior(log_p, torch.zeros(3, dtype=torch.int64))
    assert score.tolist() == [0.0, 1.0, 0.5]


def test_unit_rows():
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-30, 0.0], [3e18, 4e18]])
    lengths = unit_rows(vectors).norm(dim=1)
    assert lengths[0] == pytest.approx(1)
    assert lengths[1] == 0
    assert lengths[3] == pytest.approx(1)
    assert torch.isfinite(unit_rows(vectors)).all()


def test_unit_rows_of_many_rows_are_those_of_each():
    vectors = torch.randn(9000, 40, generator=seeded())
    vectors[5] = 0
    whole = unit_rows(vectors)
    assert torch.equal(whole, torch.cat([unit_rows(v) for v in vectors.split(1000)]))
    wanted = vectors.clone().requires_grad_()
    torch.testing.assert_close(unit_rows(wanted).detach(), whole, rtol=1e-6, atol=0)
    assert unit_rows(wanted).requires_grad
    assert unit_rows(vectors.T).shape == (40, 9000)
    assert torch.isfinite(unit_rows(vectors.double().T)).all()


@pytest.mark.parametrize(("n_rows", "n_features"), [(900, 7), (5, 130), (40, 50)])
def test_many_rows_are_scaled_in_blocks(n_rows, n_features, monkeypatch):
    vectors = torch.randn(n_rows, n_features, generator=seeded())
    whole = unit_rows(vectors)
    monkeypatch.setattr(posteriors, "_BLOCK", 100)
    worked, norm = [], torch.linalg.vector_norm

    def norm_of(rows, *args, **options):
        worked.append(len(rows))
        return norm(rows, *args, **options)

    monkeypatch.setattr(torch.linalg, "vector_norm", norm_of)
    assert torch.equal(unit_rows(vectors), whole)
    at_a_time = max(1, 100 // n_features)
    assert worked[:-1] == [at_a_time] * (len(worked) - 1)
    assert sum(worked) == n_rows
    for shape in (vectors[None], vectors[0]):
        lengths = unit_rows(shape).norm(dim=-1)
        torch.testing.assert_close(lengths, torch.ones_like(lengths))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_row_s_unit_vector_does_not_depend_on_its_neighbours(dtype):
    vectors = torch.randn(60, 7, generator=seeded(), dtype=dtype)
    sizes = [0.0, 1e-38, 1e-30, 1e-15, 1e-14, 1.0, 1e14, 1e15, 1e18, 1e37]
    vectors *= torch.tensor(sizes, dtype=dtype).repeat(6)[:, None]
    whole = unit_rows(vectors)
    for i in range(60):
        assert torch.equal(whole[i], unit_rows(vectors[i : i + 1])[0])
    lengths = torch.where(vectors.any(dim=1), 1.0, 0.0).to(dtype)
    torch.testing.assert_close(whole.norm(dim=1), lengths)


@pytest.mark.parametrize("angle", [0.0, 1e-7, 1.6e-4, 1e-3])
def test_rows_opposite_to_a_prototype_stay_in_range(angle):
    mu = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    v = -torch.tensor([[np.cos(angle), np.sin(angle)]], dtype=torch.float32)
    eta = unit_rows(torch.tensor([[0.6, 0.8], [-0.3, 1.0]]))
    for y in (0, 1):
        log_p = corrupted_log_posterior(
            v @ mu.T, v @ eta.T, mu @ eta.T, torch.tensor([y]), 15.0
        )
        assert torch.isfinite(log_p).all()
        assert (log_p <= 1e-6).all()
        assert (log_p >= -2.5 * 15).all()


def rows_last(matrix):
    """Whether a row's neighbours, not its columns, lie side by side in memory."""
    return matrix.T.is_contiguous() and not matrix.is_contiguous()


@pytest.mark.parametrize("n_classes", [2, 63, 64, 100])
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("wants_grad", [False, True])
def test_cosines_are_stored_as_they_are_read_fastest(n_classes, times, wants_grad):
    # Prototypes alone, or corrupted prototypes as well.
    vectors = torch.randn(times * n_classes, 9, requires_grad=wants_grad)
    cosines = cosines_with(vectors, torch.randn(300, 9), n_classes)
    assert cosines.requires_grad == wants_grad
    assert rows_last(cosines) == (n_classes < 64)


@pytest.mark.parametrize("n_classes", [2, 63, 64, 100])
@pytest.mark.parametrize("wanted", ["nothing", "cosines", "prior"])
def test_clean_posterior_is_stored_as_it_is_made_fastest(n_classes, wanted):
    cosines = torch.randn(300, n_classes, generator=seeded())
    log_prior = torch.randn(n_classes, generator=seeded(1))
    expected = torch.log_softmax(3 * cosines.double() + log_prior.double(), dim=1)
    cosines.requires_grad_(wanted == "cosines")
    log_prior.requires_grad_(wanted == "prior")
    log_p = clean_log_posterior(cosines, log_prior, 3.0)
    torch.testing.assert_close(log_p.double(), expected, rtol=1e-5, atol=1e-5)
    assert rows_last(log_p) == (n_classes < 64)
    with torch.no_grad():
        assert rows_last(clean_log_posterior(cosines, log_prior, 3.0)) == (
            n_classes < 64
        )


@pytest.mark.parametrize("n_classes", [2, 63, 64, 100])
def test_gradients_do_not_depend_on_the_storage(n_classes):
    labels, clean = (
        torch.randint(n_classes, (50,), generator=seeded(i)) for i in (2, 3)
    )
    table = torch.randn(n_classes, n_classes, generator=seeded(4)) / 3
    rows = torch.rand(50, n_classes, generator=seeded()) - 0.5
    found = []
    for start in (rows, rows.T.contiguous().T, rows.double()):
        cosines = start.detach().requires_grad_()
        log_prior = torch.zeros(n_classes, dtype=start.dtype, requires_grad=True)
        log_p = clean_log_posterior(cosines, log_prior, 3.0)
        log_q = corrupted_log_posterior_at(
            cosines, 0.5 * cosines, table.to(start), labels, clean, 4.0
        )
        (log_p.gather(1, clean[:, None]).sum() + log_q.sum()).backward()
        found.append((cosines.grad.double(), log_prior.grad.double()))
    for grads in found[:2]:
        torch.testing.assert_close(grads, found[2], rtol=1e-4, atol=1e-5)


def test_in_double_precision_a_row_does_not_depend_on_its_neighbours():
    cosines = torch.rand(300, 10, dtype=torch.float64, generator=seeded())
    log_prior = torch.zeros(10, dtype=torch.float64)
    whole = clean_log_posterior(cosines, log_prior, 10.0)
    assert not rows_last(whole)
    for i in range(0, 300, 7):
        alone = clean_log_posterior(cosines[i : i + 1], log_prior, 10.0)
        assert torch.equal(whole[i], alone[0])


@pytest.mark.parametrize("n_classes", [3, 63, 64, 100])
def test_columns_of_the_given_labels(n_classes):
    table = torch.randn(n_classes, n_classes, generator=seeded())
    labels = torch.randint(n_classes, (300,), generator=seeded(1))
    columns = posteriors._columns(table, labels)
    assert torch.equal(columns, table[:, labels].T)
    assert rows_last(columns) == (n_classes < 64)


@pytest.mark.parametrize("n_vectors", [2, 9, 30, 200])
def test_cosines_are_those_of_the_blas_library(n_vectors):
    generator = torch.Generator().manual_seed(0)
    rows, vectors = (
        unit_rows(torch.randn(n, 70, generator=generator)) for n in (500, n_vectors)
    )
    exact = rows.double() @ vectors.double().T
    cosines = cosines_with(vectors, rows)
    assert (cosines - exact).abs().max() < 1e-6
    assert (cosines_with(vectors.double(), rows.double()) - exact).abs().max() < 1e-14
    vectors.requires_grad_()
    (gradient,) = torch.autograd.grad(cosines_with(vectors, rows).sum(), vectors)
    torch.testing.assert_close(gradient, rows.sum(dim=0).expand_as(vectors))
    assert cosines_with(vectors.detach(), rows[:0]).shape == (0, n_vectors)
