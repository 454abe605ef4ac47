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
def test_a_torch_without_the_plain_product_gives_the_same(sizes, turned, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(n, 40, generator=generator) for n in sizes)
    if turned:  # as the transpose is stored
        one, other = one.T.contiguous().T, other.T.contiguous().T
    product = product_with(one, other)
    monkeypatch.setattr(_narrow_product, "_plain_product", lambda: None)
    # The same bits with torch 2.13, but not with torch 2.4.
    torch.testing.assert_close(product, product_with(one, other), atol=2e-5, rtol=1e-5)


def test_a_product_that_torch_has_changed_is_not_used(monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda one, other: one)
    assert _narrow_product._plain_product.__wrapped__() is None
    monkeypatch.delattr(torch.ops.mkldnn, "_linear_pointwise")
    monkeypatch.setattr(type(torch.ops.mkldnn), "__getattr__", _missing)
    assert _narrow_product._plain_product.__wrapped__() is None


def _missing(self, name):
    raise AttributeError(name)


@pytest.fixture
def parts(monkeypatch):
    """Shapes of the products that oneDNN is asked for."""
    asked, product = [], _narrow_product._product

    def counted(one, other):
        asked.append((len(one), len(other)))
        return product(one, other)

    monkeypatch.setattr(_narrow_product, "_product", counted)
    return asked


def random(*sizes, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, 16, generator=generator, dtype=dtype) for n in sizes]


@pytest.mark.parametrize(
    ("sizes", "narrow"),
    [((8, 8), True), ((300, 8), True), ((8, 300), True), ((7, 300), False)],
)
def test_fewer_than_eight_columns_are_left_to_blas(sizes, narrow, parts):
    for one, other in (sizes, sizes[::-1]):
        parts.clear()
        product_with(*random(one, other))
        assert parts == [(one, other)] * narrow


def test_double_precision_and_gradients_are_left_to_blas(parts):
    one, other = random(30, 20, dtype=torch.float64)
    torch.testing.assert_close(product_with(one, other), one @ other.T, rtol=0, atol=0)
    for wanted in (0, 1):
        both = random(30, 20)
        both[wanted].requires_grad_()
        (gradient,) = torch.autograd.grad(product_with(*both).sum(), both[wanted])
        expected = both[1 - wanted].detach().sum(dim=0).expand_as(gradient)
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)
        assert not parts
        with torch.no_grad():
            product_with(*both)
        assert parts == [(30, 20)]
        parts.clear()


def test_a_few_rows_are_handed_over_at_a_time(parts, monkeypatch):
    monkeypatch.setattr(_narrow_product, "_AT_A_TIME", 16 * 10 + 5)  # ten rows
    one, other = random(23, 10)
    product = product_with(one, other)
    assert parts == [(10, 10), (10, 10), (3, 10)]
    torch.testing.assert_close(product, one @ other.T)
    parts.clear()
    product_with(other, one)
    assert parts == [(10, 10), (10, 10), (10, 3)]
    parts.clear()
    product_with(one[:10], other)
    assert parts == [(10, 10)]
    # Into an array that is given, in blocks as well.
    parts.clear()
    out = torch.empty(10, 10)
    assert product_with(one[:10], other, out=out) is out
    assert parts == [(10, 10)]
    torch.testing.assert_close(out, one[:10] @ other.T)
