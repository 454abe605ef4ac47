"""Narrow products, whoever makes them."""

import pytest
import torch

from skvibe import _narrow_product
from skvibe._narrow_product import product_with


@pytest.mark.parametrize("sizes", [(500, 3), (500, 9), (9, 500), (130, 130), (9, 0)])
@pytest.mark.parametrize("copied", [1 << 19, 40 * 64, 1])
def test_blocks_are_those_of_the_whole(sizes, copied, monkeypatch):
    monkeypatch.setattr(_narrow_product, "_COPIED", copied)
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(n, 40, generator=generator) for n in sizes)
    exact = one.double() @ other.double().T
    product = product_with(one, other)
    torch.testing.assert_close(product.double(), exact, atol=2e-5, rtol=1e-5)
    out = torch.full(sizes, torch.nan)
    assert product_with(one, other, out=out) is out
    torch.testing.assert_close(out, product, atol=2e-5, rtol=1e-5)
    assert torch.equal(product, product_with(one, other))
