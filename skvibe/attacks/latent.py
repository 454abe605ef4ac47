"""The attack made against VIBE: a trigger that moves features to the target class."""

import torch

from skvibe._checks import check_integer, check_real
from skvibe.attacks.surrogate import (
    SurrogateAttack,
    check_eps,
    copy_module,
    to_array,
    to_tensor,
)

_BATCH = 1024
# The paper divides the learning rate by ten this often.
_STEP_SIZE = 40


class AdaptiveTrigger(SurrogateAttack):
    """A pattern that brings features near the mean of the target class [1]_.

    The attacker knows the feature extractor g and minimises, over one pattern t for all
    images with ``|t| <= eps``, the mean distance of ``g(x + blend * t)`` to the mean
    feature of the target class (eq. 37-38). Poisoned rows get the target's label.

    The paper states the bound 32/255 and the blending ratio 0.5 but not how they go
    together; here the pattern times the ratio is added to the image.

    Parameters
    ----------
    target : label, default=0
        The attacker's class.
    rate : float in [0, 1], default=0.1
        Share of the *whole* training set that is poisoned, drawn from the other
        classes.
    eps : float in [0, 1], default=32/255
        Bound on the pattern, for pixels in [0, 1].
    blend : float in (0, 1], default=0.5
        What the pattern is multiplied by before it is added.
    n_iter : int, default=100
        Steps of stochastic gradient descent.
    lr : float > 0, default=0.1
        Learning rate; divided by 10 every 40 steps.
    surrogate : torch.nn.Module, default=None
        The extractor g: maps images (n, channels, height, width) in [0, 1] to features
        of any shape; it is copied. None fits a linear model to the pixels and takes its
        logits for features.
    layout : {"auto", "NHWC", "NCHW", "NHW"}, default="auto"
        Order of the image axes. Pixels are uint8 in 0..255 or floats in [0, 1].
    random_state : int, RandomState instance or None, default=None
        Seed of the batches and of the choice of rows.

    Attributes
    ----------
    pattern_ : ndarray of shape (height, width, channels)
        What is added to the pixels, within ``blend * eps``.
    distances_ : list of float
        The mean distance at each step.
    surrogate_ : torch.nn.Module
        The extractor used.
    image_shape_ : tuple
        Height, width and channels of the images.

    References
    ----------
    .. [1] I. Sabolić, M. Grcić and S. Šegvić, "Seal Your Backdoor with Variational
       Defense", ICCV 2025, section I.3, eq. 37-38.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.attacks import AdaptiveTrigger
    >>> X = np.random.default_rng(0).uniform(size=(20, 8, 8))
    >>> y = np.arange(20) % 2
    >>> attack = AdaptiveTrigger(target=1, rate=0.2, random_state=0)
    >>> attack.poison(X, y)
    PoisonedData(20 rows, 4 poisoned, 0 cover)
    >>> attack.distances_[-1] < attack.distances_[0]
    True
    """

    def __init__(
        self,
        *,
        target=0,
        rate=0.1,
        eps=32 / 255,
        blend=0.5,
        n_iter=100,
        lr=0.1,
        surrogate=None,
        layout="auto",
        random_state=None,
    ):
        self.target = target
        self.rate = rate
        self.eps = eps
        self.blend = blend
        self.n_iter = n_iter
        self.lr = lr
        self.surrogate = surrogate
        self.layout = layout
        self.random_state = random_state

    def _check_parameters(self, y):
        super()._check_parameters(y)
        check_eps(self.eps)
        check_real("blend", self.blend, 0, 1, closed="(]")
        check_integer("n_iter", self.n_iter, 0)
        check_real("lr", self.lr, 0, closed="()")

    def _learn_pattern(self, X, y, rng):
        if self.surrogate is None:
            self._learn_surrogate(X, y)
        else:
            self.surrogate_ = copy_module("surrogate", self.surrogate)
        images = to_tensor(self._unit(X), like=self.surrogate_)
        of_target = torch.from_numpy(y == self.target)
        pattern, self.distances_ = pull_to_centroid(
            self.surrogate_,
            images[~of_target],
            class_centroid(self.surrogate_, images[of_target]),
            rng,
            eps=self.eps,
            blend=self.blend,
            n_iter=self.n_iter,
            lr=self.lr,
        )
        self.pattern_ = to_array(pattern[None], float)[0]

    def _stamp(self, images):
        return (images + self.pattern_).astype(images.dtype)


def class_centroid(module, images):
    """Mean feature of some images, batch by batch.

    Parameters
    ----------
    module : torch.nn.Module
        The extractor.
    images : Tensor of shape (n, channels, height, width)
        Images.

    Returns
    -------
    Tensor of shape (n_features,)
        The mean.
    """
    with torch.no_grad():
        total = sum(
            module(batch).flatten(1).sum(dim=0) for batch in images.split(_BATCH)
        )
    return total / len(images)


def pull_to_centroid(module, images, centroid, rng, *, eps, blend, n_iter, lr):
    """The additive pattern that brings features closest to a centroid (eq. 37-38).

    Parameters
    ----------
    module : torch.nn.Module
        The extractor.
    images : Tensor of shape (n, channels, height, width)
        Images of the other classes, in [0, 1].
    centroid : Tensor of shape (n_features,)
        Mean feature of the target class.
    rng : RandomState instance
        Random stream of the batches.
    eps, blend : float
        The pattern is at most eps, and is added `blend` times.
    n_iter : int
        Steps.
    lr : float
        Learning rate at the first step.

    Returns
    -------
    pattern : Tensor of shape (channels, height, width)
        `blend` times the pattern found.
    distances : list of float
        Mean distance at each step.
    """
    pattern = torch.zeros_like(images[0], requires_grad=True)
    optimizer = torch.optim.SGD([pattern], lr=lr)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, _STEP_SIZE, gamma=0.1)
    distances = []
    with torch.enable_grad():
        for _ in range(n_iter):
            batch = images
            if len(images) > _BATCH:
                batch = images[rng.choice(len(images), _BATCH, replace=False)]
            features = module((batch + blend * pattern).clamp(0, 1)).flatten(1)
            loss = torch.linalg.vector_norm(features - centroid, dim=1).mean()
            (pattern.grad,) = torch.autograd.grad(loss, pattern)
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                pattern.clamp_(-eps, eps)
            distances.append(loss.item())
    return blend * pattern.detach(), distances
