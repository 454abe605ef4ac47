"""The normaliser of the full corrupted posterior: the one sum of N x K x K terms.

    log Z_il = log sum_y exp(s_il (a_ly + b_iy)),  s_il = nu / |mu_l + v_i|,

with ``a = mu eta'`` (K x K) and ``b = v eta'`` (N x K). Were s the same for all pairs,
the sum would be one matrix product, ``exp(s b) exp(s a)'``. It differs from pair to
pair, but within a narrow interval, and Z is a smooth function of s: J products, at the
Chebyshev nodes of that interval, give Z everywhere in it by interpolation. Pairs with s
outside it are summed term by term.
"""

import math

import numpy as np
import torch

from skvibe._narrow_product import product_with

# exp(-40) is a normal float32 number, and sums of thousands of exp(40) are finite.
IN_RANGE = 40.0
# Fewer classes are summed faster than interpolated.
INTERPOLATE_FROM = 32
# Largest exponent range of a product of two factors: exp(-60) is far from subnormal.
MAX_RANGE = 60.0
# Bound on the relative error of Z, about the rounding of an exponent of 10 in float32.
TOLERANCE = 1e-6
MAX_NODES = 12
# As in a sweep: over a handful of classes, rows along the last axis are far faster.
CLASS_MAJOR_BELOW = 64
# Shares of the pairs that may be left outside the interval, at either end.
TRIMS = (0.0, 0.002, 0.005, 0.01, 0.02)
SAMPLE = 4096  # pairs that the interval is chosen from
CPU_BLOCK = 1 << 17
ACCELERATOR_BLOCK = 1 << 22
LOWEST_EXPONENT = -80.0
# exp2 is several times faster than exp on processors.
NATS = math.log(2.0)


def log_normaliser(scale, table, given_cosines, nu):
    """Log of the sum over y, for every pair of row and clean label.

    Parameters
    ----------
    scale : torch.Tensor of shape (n_rows, n_classes)
        ``s_il``, positive.
    table : torch.Tensor of shape (n_classes, n_classes)
        ``a_ly``.
    given_cosines : torch.Tensor of shape (n_rows, n_classes)
        ``b_iy``.
    nu : float
        Bound on every ``|s_il (a_ly + b_iy)|``.

    Returns
    -------
    torch.Tensor of shape (n_rows, n_classes)
        In single precision within `TOLERANCE` and rounding of the exact sum; in
        double precision, and where a gradient is wanted, the sum is made term by term.
    """
    inputs = (scale, table, given_cosines)
    wants_grad = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    if wants_grad:
        return _sum_differentiable(scale, table, given_cosines, nu)
    interval = None
    if scale.dtype is torch.float32 and scale.shape[1] >= INTERPOLATE_FROM:
        interval = choose_interval(scale, table, given_cosines)
    out = torch.empty_like(scale)
    size = CPU_BLOCK if scale.device.type == "cpu" else ACCELERATOR_BLOCK
    size = max(1, size // scale.shape[1])
    for s, b, block in zip(
        scale.split(size), given_cosines.split(size), out.split(size), strict=True
    ):
        if interval is None:
            _sum(s, table, b, nu, block)
            continue
        low, high, n_nodes = interval
        _interpolate(s, table, b, low, high, n_nodes, block)
        outside = (s < low) | (s > high)
        row, l = torch.nonzero(outside, as_tuple=True)
        block[row, l] = _sum_pairs(s[row, l], table[l], b[row], nu)
    return out


def choose_interval(scale, table, given_cosines):
    """The cheapest interval of s and number of nodes, or None if terms cost less.

    Returns
    -------
    tuple (low, high, n_nodes) or None
    """
    n_classes = scale.shape[1]
    if scale.numel() == 0:
        return None
    flat = scale.flatten()
    step = -(-len(flat) // SAMPLE)
    # An odd step, so that no class is left out of the sample.
    sample = flat[:: step + 1 - step % 2].sort().values.double().cpu().numpy()
    spread = _spread(table) + _spread(given_cosines)
    # Costs were measured, in nanoseconds a pair.
    term = 0.43 if n_classes < CLASS_MAJOR_BELOW else 0.69
    best, best_cost = None, term * n_classes
    for below in TRIMS:
        for above in TRIMS:
            low, high = np.quantile(sample, [below, 1 - above])
            if not (low > 0 and high * spread <= MAX_RANGE):
                continue
            low, high = 0.999 * low, 1.001 * high
            n_nodes = nodes_needed(low, high, n_classes)
            cost = 2.0 + n_nodes * (2.3 + 0.008 * n_classes)
            cost += 1.9 * (below + above) * n_classes
            if n_nodes <= MAX_NODES and cost < best_cost:
                best, best_cost = (float(low), float(high), n_nodes), cost
    return best


def nodes_needed(low, high, n_classes):
    """Fewest nodes whose `error_bound` is within `TOLERANCE`."""
    for n_nodes in range(3, MAX_NODES + 1):
        if error_bound(low, high, n_classes, n_nodes) <= TOLERANCE:
            return n_nodes
    return MAX_NODES + 1


def error_bound(low, high, n_classes, n_nodes):
    """Bound on the relative error of the interpolated sum.

    Let z be the exponents' slopes and zr the slope that is divided out, which is the
    mean of z at some s' in the interval, with weights w. By Jensen the sum, divided
    by its value at s', is at least 1. A term below zr by t has a weight of at most
    exp(-s' t), and none is above by more than log(K) / s'. With Chebyshev's error of an
    exponential, (x / 2)^J 2 / J! for x = t (high - low) / 2, times its maximum, both
    kinds can be summed; neither depends on nu.
    """
    ratio = 0.5 * (high - low) / low
    x = ratio * math.log(n_classes)
    constant = math.log(2) * (1 - n_nodes) - math.lgamma(n_nodes + 1)
    above = math.exp(constant + n_nodes * math.log(x) + 2 * x) if x > 0 else 0.0
    # K exp(-t) (ratio t)^J is largest at t = J.
    below = 0.0
    if ratio > 0:
        log_term = n_nodes * (math.log(ratio * n_nodes) - 1)
        below = n_classes * math.exp(constant + log_term)
    return above + below


def _spread(logits):
    """Largest difference within a row."""
    return float((logits.amax(dim=1) - logits.amin(dim=1)).max())


def _interpolate(scale, table, given_cosines, low, high, n_nodes, out):
    """log Z for s in [low, high]; s outside is taken to the nearer end."""
    top_table = table.amax(dim=1, keepdim=True)
    top_given = given_cosines.amax(dim=1, keepdim=True)
    a, b = table - top_table, given_cosines - top_given
    middle, half = 0.5 * (low + high), 0.5 * (high - low)
    angles = (np.arange(n_nodes) + 0.5) * np.pi / n_nodes
    nodes = np.cos(angles)
    sums = scale.new_empty((n_nodes, *scale.shape))
    for node, at_node in zip(nodes, sums, strict=True):
        s = float(middle + half * node) / NATS
        product_with((b * s).exp2_(), (a * s).exp2_(), out=at_node)
    # Divided by exp(slope * s), the sums are nearly constant in s.
    slope = (sums[0] / sums[-1]).log_().div_(float(nodes[0] - nodes[-1]))
    for j in range(n_nodes // 2):  # the nodes lie symmetric about zero
        factor = (slope * (float(nodes[j]) / NATS)).exp2_()
        sums[j].div_(factor)
        sums[-1 - j].mul_(factor)
    to_coefficients = np.cos(np.outer(np.arange(n_nodes), angles)) * (2 / n_nodes)
    to_coefficients[0] *= 0.5
    matrix = torch.from_numpy(to_coefficients).to(sums)
    coefficients = (matrix @ sums.flatten(1)).view_as(sums)
    x = ((scale - middle) / half).clamp_(-1.0, 1.0)
    # Clenshaw's recurrence.
    one, two = torch.zeros_like(x), torch.zeros_like(x)
    for c in reversed(coefficients[1:].unbind(0)):
        one, two = torch.addcmul(c - two, x, one, value=2.0), one
    torch.addcmul(coefficients[0] - two, x, one, out=out)
    out.log_().addcmul_(slope, x).addcmul_(scale, top_table.T + top_given)


def _sum_pairs(scale, table, given_cosines, nu):
    """log Z of single pairs, a row of terms each."""
    logits = (table + given_cosines).mul_(scale[:, None] / NATS)
    if nu <= IN_RANGE:
        return logits.exp2_().sum(dim=1).log_()
    top = logits.amax(dim=1, keepdim=True)
    # Where they underflow, exponentials may be tens of times slower.
    logits.sub_(top).clamp_(min=LOWEST_EXPONENT / NATS).exp2_()
    return logits.sum(dim=1).log_().add_(top[:, 0], alpha=NATS)


def _sum(scale, table, given_cosines, nu, out):
    """log Z term by term; one y at a time, so that no array has K^2 columns."""
    if scale.shape[1] < CLASS_MAJOR_BELOW:
        scale, given_cosines = scale.T.contiguous(), given_cosines.T.contiguous()
        total, a, b = torch.empty_like(scale), table.T[:, :, None], given_cosines
    else:
        total, a, b = out, table.T, given_cosines.T[:, :, None]
    scale = scale / NATS
    term = torch.empty_like(scale)

    def logits(y):
        return torch.add(a[y], b[y], out=term).mul_(scale)

    # Logits lie in [-nu, nu]: for a small nu every exponential is in range as it is,
    # for a large one the largest logit must be found first.
    if nu <= IN_RANGE:
        torch.exp2(logits(0), out=total)
        for y in range(1, len(a)):
            total.add_(logits(y).exp2_())
        total.log_()
    else:
        top = logits(0).clone()
        for y in range(1, len(a)):
            torch.maximum(top, logits(y), out=top)
        total.zero_()
        for y in range(len(a)):
            logits(y).sub_(top).clamp_(min=LOWEST_EXPONENT / NATS)
            total.add_(term.exp2_())
        total.log_().add_(top, alpha=NATS)
    if total is not out:
        out.copy_(total.T)


def _sum_differentiable(scale, table, given_cosines, nu):
    """As ``_sum``, for torch's differentiation."""

    def logits(y):
        return (table[:, y] + given_cosines[:, y : y + 1]) * scale

    shift = torch.zeros_like(scale)
    if nu > IN_RANGE:
        with torch.no_grad():
            shift = logits(0)
            for y in range(1, table.shape[1]):
                shift = torch.maximum(shift, logits(y))
    total = torch.zeros_like(scale)
    for y in range(table.shape[1]):
        total = total + torch.exp(logits(y) - shift)
    return shift + torch.log(total)
