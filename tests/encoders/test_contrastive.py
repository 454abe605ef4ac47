"""NT-Xent against its definition, and its properties."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skvibe.encoders import nt_xent_loss


def by_definition(first, second, temperature):
    views = np.concatenate([first, second]).astype(float)
    views /= np.linalg.norm(views, axis=1, keepdims=True)
    n, total = len(first), 0.0
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        cosines = views @ views[i] / temperature
        rest = sum(math.exp(cosines[k]) for k in range(2 * n) if k != i)
        total -= cosines[j] - math.log(rest)
    return total / (2 * n)


@settings(deadline=None, max_examples=25)
@given(
    n_rows=st.integers(2, 9),
    temperature=st.floats(0.1, 2.0),
    seed=st.integers(0, 1000),
)
def test_agrees_with_the_definition(n_rows, temperature, seed):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(2, n_rows, 5)).astype(np.float32)
    loss = nt_xent_loss(
        torch.from_numpy(first), torch.from_numpy(second), temperature=temperature
    )
    assert float(loss) == pytest.approx(
        by_definition(first, second, temperature), rel=1e-4, abs=1e-5
    )


def test_symmetric_and_blind_to_length():
    torch.manual_seed(0)
    first, second = torch.randn(2, 6, 4)
    loss = nt_xent_loss(first, second)
    torch.testing.assert_close(nt_xent_loss(second, first), loss)
    torch.testing.assert_close(nt_xent_loss(3 * first, second / 7), loss)


def test_half_precision_is_summed_in_single():
    torch.manual_seed(0)
    first, second = torch.randn(2, 6, 4).bfloat16()
    assert nt_xent_loss(first, second).dtype == torch.float32


def test_gradient_draws_views_together():
    first = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    second = torch.tensor([[0.8, 0.6], [-0.6, 0.8]])
    nt_xent_loss(first, second).backward()
    moved = first.detach() - 0.1 * first.grad
    assert nt_xent_loss(moved, second) < nt_xent_loss(first, second)
