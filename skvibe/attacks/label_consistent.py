"""Label-consistent attack: make the class hard to see, then offer a trigger."""

import numpy as np
import torch
from torch.nn import functional

from skvibe._checks import check_integer, check_real
from skvibe.attacks.base import CleanLabelMixin
from skvibe.attacks.patch import paste
from skvibe.attacks.surrogate import (
    SurrogateAttack,
    check_eps,
    to_array,
    to_tensor,
)

_BATCH = 512


class LabelConsistent(CleanLabelMixin, SurrogateAttack):
    """Adversarial noise plus a check in each corner, on rows of the target class [1]_.

    The noise lowers the surrogate's belief in the true class, so that the victim leans
    on the corners instead. Labels stay true; test rows get the corners only.

    Parameters
    ----------
    target : label, default=0
        The attacker's class, from which the poisoned rows are drawn.
    rate : float in [0, 1], default=0.25
        Share of the rows that `rate_of` names.
    rate_of : {"target", "all"}, default="target"
        Whether `rate` is a share of the target class or of the whole set.
    eps : float in [0, 1], default=16/255
        Bound on the change of a pixel by the noise, for pixels in [0, 1].
    step : float > 0, default=1.5/255
        Step of the projected gradient ascent.
    n_iter : int, default=30
        Number of steps.
    size : int, default=3
        Side of the check in each corner.
    surrogate : torch.nn.Module, default=None
        Maps images (n, channels, height, width) in [0, 1] to logits of the classes in
        sorted order; it is copied. None fits a linear one to the pixels. The paper's
        surrogates are networks, best those trained against adversarial noise.
    layout : {"auto", "NHWC", "NCHW", "NHW"}, default="auto"
        Order of the image axes. Pixels are uint8 in 0..255 or floats in [0, 1].
    random_state : int, RandomState instance or None, default=None
        Seed of the choice of rows.

    Attributes
    ----------
    pattern_ : ndarray of shape (size, size, channels)
        The check.
    surrogate_ : torch.nn.Module
        The model whose gradients were followed.
    labels_ : ndarray of shape (n_classes,)
        The classes, in the order of its logits.
    image_shape_ : tuple
        Height, width and channels of the images.

    References
    ----------
    .. [1] A. Turner, D. Tsipras and A. Madry, "Label-Consistent Backdoor Attacks",
       2019, arXiv:1912.02771.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.attacks import LabelConsistent
    >>> X = np.random.default_rng(0).uniform(size=(20, 8, 8))
    >>> y = np.arange(20) % 2
    >>> data = LabelConsistent(target=1, rate=0.5, random_state=0).poison(X, y)
    >>> data, bool((data.y == y).all())
    (PoisonedData(20 rows, 5 poisoned, 0 cover), True)
    """

    def __init__(
        self,
        *,
        target=0,
        rate=0.25,
        rate_of="target",
        eps=16 / 255,
        step=1.5 / 255,
        n_iter=30,
        size=3,
        surrogate=None,
        layout="auto",
        random_state=None,
    ):
        self.target = target
        self.rate = rate
        self.rate_of = rate_of
        self.eps = eps
        self.step = step
        self.n_iter = n_iter
        self.size = size
        self.surrogate = surrogate
        self.layout = layout
        self.random_state = random_state

    def _check_parameters(self, y):
        super()._check_parameters(y)
        check_eps(self.eps)
        check_real("step", self.step, 0, closed="()")
        check_integer("n_iter", self.n_iter, 0)

    def _learn_pattern(self, X, y, rng):
        height, width, channels = self.image_shape_
        size = check_integer("size", self.size, 1, max(1, min(height, width) // 2))
        check = (np.indices((size, size)).sum(axis=0) + 1) % 2
        self.pattern_ = np.repeat(check[..., None], channels, axis=-1).astype(float)
        down, right = height - size, width - size
        self.corners_ = [(0, 0), (0, right), (down, 0), (down, right)]
        self._learn_surrogate(X, y)

    def _stamp(self, images):
        for corner in self.corners_:
            images = paste(images, self.pattern_, corner)
        return images

    def _stamp_train(self, images, labels, rng):
        code = self._code(self.target)
        noisy = [
            ascend_loss(
                self.surrogate_,
                images[start : start + _BATCH],
                code,
                eps=self.eps,
                step=self.step,
                n_iter=self.n_iter,
            )
            for start in range(0, len(images), _BATCH)
        ]
        return self._stamp(np.concatenate(noisy))


def ascend_loss(module, images, code, *, eps, step, n_iter):
    """Projected gradient ascent on the cross-entropy of one class, in the L-inf ball.

    Parameters
    ----------
    module : torch.nn.Module
        Maps (n, channels, height, width) images to logits.
    images : ndarray of shape (n, height, width, channels)
        Images in [0, 1].
    code : int
        Number of the class that is made less likely.
    eps : float
        Bound on the change of a pixel.
    step : float
        Step along the sign of the gradient.
    n_iter : int
        Number of steps; the first starts at the images.

    Returns
    -------
    ndarray of shape (n, height, width, channels)
        Changed images in [0, 1].
    """
    start = to_tensor(images, like=module)
    labels = torch.full((len(images),), code, device=start.device)
    low, high = (start - eps).clamp(min=0), (start + eps).clamp(max=1)
    current = start
    with torch.enable_grad():
        for _ in range(n_iter):
            current = current.detach().requires_grad_()
            loss = functional.cross_entropy(module(current), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, current)
            current = torch.clamp(current + step * gradient.sign(), low, high)
    return to_array(current, images.dtype)
