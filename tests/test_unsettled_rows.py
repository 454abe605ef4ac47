"""Rows whose clean label an E-step may change, told from the others."""

import numpy as np
import pytest
import torch

from skvibe._unsettled_rows import Screen, in_groups
from skvibe.transport import OutOfReach, RowSweep, solve_transport


def posterior(n_rows, n_classes):
    """Log-posteriors of unit vectors round unit prototypes, some labels wrong."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((n_classes, 16))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    y = rng.integers(n_classes, size=n_rows)
    x = centres[y] + 0.3 * rng.standard_normal((n_rows, 16))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    log_p = torch.log_softmax(torch.from_numpy(60.0 * x @ centres.T), dim=1)
    given = torch.from_numpy(np.where(rng.random(n_rows) < 0.1, 0, y))
    log_p -= 6.0
    log_p[torch.arange(n_rows), given] += 5.9
    return log_p.float()


def screened(log_p, potentials, labels, lam=25.0, bound=None):
    """What a screen makes of rows whose joint is known throughout."""
    screen = Screen(lam, potentials)
    for start in range(0, len(log_p), 700):
        block, at = log_p[start : start + 700], labels[start : start + 700]
        own = block.gather(1, at[:, None])[:, 0]
        upper = (block if bound is None else bound[start : start + 700]).clone()
        left = screen.pick(own, upper, at)
        screen.keep(left + start, block[left])
    return screen.finish()


@pytest.mark.parametrize("n_classes", [3, 12, 80])
@pytest.mark.parametrize("looseness", [0.0, 2.0])
def test_the_rows_left_solve_the_whole_problem(n_classes, looseness):
    log_p = posterior(5000, n_classes)
    prior = np.full(n_classes, 1 / n_classes)
    before = solve_transport(log_p, prior)
    generator = torch.Generator().manual_seed(0)
    moved = log_p + 0.1 * torch.rand(log_p.shape, generator=generator)
    rows = screened(moved, before.potentials, before.labels, bound=moved + looseness)
    assert 0 < len(rows.places) < 2500
    whole = solve_transport(moved, prior, init=before.potentials, tol=1e-9)
    part = solve_transport(
        rows.log_p, prior, init=before.potentials, tol=1e-9, aside=rows.aside
    )
    assert part.converged
    labels = before.labels.index_copy(0, rows.places, part.labels)
    assert torch.equal(labels, whole.labels)
    torch.testing.assert_close(part.potentials, whole.potentials, atol=1e-6, rtol=0)
    assert part.value == pytest.approx(whole.value, rel=1e-6)
    assert part.error == pytest.approx(whole.error, abs=1e-9)


@pytest.mark.parametrize("n_classes", [2, 7, 80])
def test_rows_aside_belong_to_their_class_wherever_that_is_claimed(n_classes):
    log_p = posterior(3000, n_classes)
    rng = np.random.default_rng(0)
    g = 5 * rng.standard_normal(n_classes)
    exact = 25.0 * log_p.double() + torch.from_numpy(g)
    labels = exact.argmax(dim=1)
    rows = screened(log_p, g, labels)
    aside = np.setdiff1d(np.arange(3000), rows.places)
    np.testing.assert_array_equal(
        rows.aside.counts, np.bincount(labels[aside], minlength=n_classes)
    )
    sweep = RowSweep(lambda: [rows.log_p], n_rows=3000, lam=25.0, aside=rows.aside)
    for size in (0.0, 1.0, 99.0):
        h = g + size * rng.random(n_classes)
        q = torch.softmax(exact + torch.from_numpy(h - g), dim=1)
        own = q[aside].gather(1, labels[aside][:, None])
        assert len(own)
        assert own.min() > 1 - 1e-13
        sums, fresh = (
            RowSweep(lambda rows=rows: [rows], n_rows=3000, lam=25.0, aside=part)(
                h, curvature=True
            )
            for rows, part in ((rows.log_p, rows.aside), (log_p, None))
        )
        np.testing.assert_allclose(sums.columns, fresh.columns, atol=4e-12)
        np.testing.assert_allclose(sums.curvature, fresh.curvature, atol=1e-6)
        assert sums.value == pytest.approx(fresh.value, abs=sums.noise + fresh.noise)
    with pytest.raises(OutOfReach):
        sweep(g + 101.0 * np.eye(n_classes)[0])
    with pytest.raises(OutOfReach):
        sweep(g, sharpness=0.5)


@pytest.mark.parametrize("turned", [False, True])
def test_groups_are_of_size_and_lose_no_row(turned):
    rows = torch.arange(60.0).view(20, 3)
    rows = rows.T.contiguous().T if turned else rows
    parts = (
        (torch.arange(20)[a : a + 2], None, rows[a : a + 2]) for a in range(0, 20, 2)
    )
    groups = list(in_groups(parts, 7))
    assert [len(places) for places, _, _ in groups] == [8, 8, 4]
    assert all(nothing is None for _, nothing, _ in groups)
    assert torch.equal(torch.cat([places for places, _, _ in groups]), torch.arange(20))
    assert torch.equal(torch.cat([found for *_, found in groups]), rows)
    assert all((found.stride(0) == 1) == turned for *_, found in groups)
    assert list(in_groups([], 7)) == []


@pytest.mark.parametrize("n_classes", [2, 5])
def test_a_row_that_is_not_finite_stays(n_classes):
    screen = Screen(25.0, np.zeros(n_classes))
    labels = torch.zeros(3, dtype=torch.int64)
    bound = torch.full((3, n_classes), -1e3)
    bound[0, 1] = torch.nan
    own = torch.tensor([0.0, 0.0, torch.nan])
    assert screen.pick(own, bound, labels).tolist() == [0, 2]
    assert screen.aside.counts.tolist() == [1.0] + [0.0] * (n_classes - 1)
