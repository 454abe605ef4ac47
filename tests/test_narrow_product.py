"""Narrow products, whoever makes them."""

import pytest
import torch

from skvibe import _narrow_product
from skvibe._narrow_product import product_with


@pytest.mark.parametrize("sizes", [(500, 3), (500, 9), (9, 500), (130, 130), (9, 0)])
@pytest.mark.parametrize("at_a_time", [1 << 19, 40 * 64, 1])
def test_blocks_are_those_of_the_whole(sizes, at_a_time, monkeypatch):
    monkeypatch.setattr(_narrow_product, "_AT_A_TIME", at_a_time)
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(n, 40, generator=generator) for n in sizes)
    exact = one.double() @ other.double().T
    product = product_with(one, other)
    torch.testing.assert_close(product.double(), exact, atol=2e-5, rtol=1e-5)
    out = torch.full(sizes, torch.nan)
    assert product_with(one, other, out=out) is out
    torch.testing.assert_close(out, product, atol=2e-5, rtol=1e-5)
    assert torch.equal(product, product_with(one, other))


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("sizes", [(500, 9), (9, 500), (40, 40), (12, 1)])
def test_a_torch_without_the_plain_product_gives_the_same_bits(
    sizes, turned, monkeypatch
):
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(n, 40, generator=generator) for n in sizes)
    if turned:  # as the transpose is stored
        one, other = one.T.contiguous().T, other.T.contiguous().T
    product = product_with(one, other)
    monkeypatch.setattr(_narrow_product, "_plain_product", lambda: None)
    assert torch.equal(product, product_with(one, other))


def test_a_product_that_torch_has_changed_is_not_used(monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda one, other: one)
    assert _narrow_product._plain_product.__wrapped__() is None
    monkeypatch.delattr(torch.ops.mkldnn, "_linear_pointwise")
    monkeypatch.setattr(type(torch.ops.mkldnn), "__getattr__", _missing)
    assert _narrow_product._plain_product.__wrapped__() is None


def _missing(self, name):
    raise AttributeError(name)
