"""Narcissus: one noise pattern that looks like the target class to a model."""

import torch
from torch.nn import functional

from skvibe._checks import check_integer, check_real
from skvibe.attacks.base import CleanLabelMixin
from skvibe.attacks.surrogate import SurrogateAttack, check_eps, to_array, to_tensor


class Narcissus(CleanLabelMixin, SurrogateAttack):
    """Add one noise pattern that a surrogate takes for the target class [1]_.

    The pattern lowers the surrogate's loss on rows of the target class. Labels stay
    true; at test time the pattern is added with `test_scale` times its strength.

    The VIBE paper has an attack "CLBA" that it does not define; by its place among
    that paper's references this is the likely one.

    Parameters
    ----------
    target : label, default=0
        The attacker's class, from which the poisoned rows are drawn.
    rate : float in [0, 1], default=0.05
        Share of the rows that `rate_of` names (the paper: 0.05 % of the whole set of
        ten classes, which is 0.5 % of the target class).
    rate_of : {"target", "all"}, default="target"
        Whether `rate` is a share of the target class or of the whole set.
    eps : float in [0, 1], default=16/255
        Bound on the pattern, for pixels in [0, 1].
    n_iter : int, default=1000
        Steps of RAdam.
    lr : float > 0, default=0.01
        Learning rate.
    batch_size : int, default=256
        Rows of the target class a step.
    test_scale : float >= 0, default=3.0
        Strength of the pattern at test time.
    surrogate : torch.nn.Module, default=None
        Maps images (n, channels, height, width) in [0, 1] to logits of the classes in
        sorted order; it is copied. None fits a linear one to the pixels. The paper
        trains a network on other public data and the target class.
    layout : {"auto", "NHWC", "NCHW", "NHW"}, default="auto"
        Order of the image axes. Pixels are uint8 in 0..255 or floats in [0, 1].
    random_state : int, RandomState instance or None, default=None
        Seed of the batches and of the choice of rows.

    Attributes
    ----------
    pattern_ : ndarray of shape (height, width, channels)
        The pattern, within `eps`.
    surrogate_ : torch.nn.Module
        The model whose gradients were followed.
    labels_ : ndarray of shape (n_classes,)
        The classes, in the order of its logits.
    image_shape_ : tuple
        Height, width and channels of the images.

    References
    ----------
    .. [1] Y. Zeng, M. Pan, H. A. Just, L. Lyu, M. Qiu and R. Jia, "Narcissus: A
       Practical Clean-Label Backdoor Attack with Limited Information", CCS 2023,
       doi:10.1145/3576915.3616617, arXiv:2204.05255.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.attacks import Narcissus
    >>> X = np.random.default_rng(0).uniform(size=(20, 8, 8))
    >>> y = np.arange(20) % 2
    >>> attack = Narcissus(target=1, rate=0.5, n_iter=20, random_state=0)
    >>> data = attack.poison(X, y)
    >>> data, bool(abs(data.X - X).max() <= 16 / 255 + 1e-6)
    (PoisonedData(20 rows, 5 poisoned, 0 cover), True)
    """

    def __init__(
        self,
        *,
        target=0,
        rate=0.05,
        rate_of="target",
        eps=16 / 255,
        n_iter=1000,
        lr=0.01,
        batch_size=256,
        test_scale=3.0,
        surrogate=None,
        layout="auto",
        random_state=None,
    ):
        self.target = target
        self.rate = rate
        self.rate_of = rate_of
        self.eps = eps
        self.n_iter = n_iter
        self.lr = lr
        self.batch_size = batch_size
        self.test_scale = test_scale
        self.surrogate = surrogate
        self.layout = layout
        self.random_state = random_state

    def _check_parameters(self, y):
        super()._check_parameters(y)
        check_eps(self.eps)
        check_integer("n_iter", self.n_iter, 0)
        check_integer("batch_size", self.batch_size, 1)
        check_real("lr", self.lr, 0, closed="()")
        check_real("test_scale", self.test_scale, 0)

    def _learn_pattern(self, X, y, rng):
        self._learn_surrogate(X, y)
        pattern = imitate_class(
            self.surrogate_,
            to_tensor(self._unit(X[y == self.target]), like=self.surrogate_),
            self._code(self.target),
            rng,
            eps=self.eps,
            n_iter=self.n_iter,
            lr=self.lr,
            batch_size=self.batch_size,
        )
        self.pattern_ = to_array(pattern[None], float)[0]

    def _stamp(self, images):
        return (images + self.test_scale * self.pattern_).astype(images.dtype)

    def _stamp_train(self, images, labels, rng):
        return (images + self.pattern_).astype(images.dtype)


def imitate_class(module, images, code, rng, *, eps, n_iter, lr, batch_size):
    """The additive pattern, within eps, that most raises a class on given images.

    Parameters
    ----------
    module : torch.nn.Module
        Maps images to logits.
    images : Tensor of shape (n, channels, height, width)
        Images of the class, in [0, 1].
    code : int
        Number of the class.
    rng : RandomState instance
        Random stream of the batches.
    eps : float
        Bound on the pattern.
    n_iter : int
        Steps of RAdam.
    lr : float
        Learning rate.
    batch_size : int
        Images a step.

    Returns
    -------
    Tensor of shape (channels, height, width)
        The pattern.
    """
    pattern = torch.zeros_like(images[0], requires_grad=True)
    optimizer = torch.optim.RAdam([pattern], lr=lr)
    n_rows = min(batch_size, len(images))
    labels = torch.full((n_rows,), code, device=images.device)
    with torch.enable_grad():
        for _ in range(n_iter):
            batch = images
            if n_rows < len(images):
                batch = images[rng.choice(len(images), n_rows, replace=False)]
            loss = functional.cross_entropy(module(batch + pattern), labels)
            (pattern.grad,) = torch.autograd.grad(loss, pattern)
            optimizer.step()
            with torch.no_grad():
                pattern.clamp_(-eps, eps)
    return pattern.detach()
