"""Witches' Brew: training on the poison moves the model as the attacker wants."""

import numpy as np
import torch
from torch.nn import functional

from skvibe._checks import check_integer, check_real
from skvibe.attacks.base import CleanLabelMixin, check_poisoned
from skvibe.attacks.surrogate import SurrogateAttack, check_eps, to_array, to_tensor

_BATCH = 512


class WitchesBrew(CleanLabelMixin, SurrogateAttack):
    """Change rows of the target class so that chosen images flip to it [1]_.

    There is no trigger: the attack aims at the images in `victims`. Noise is added to
    rows of the target class, whose labels stay true, such that the gradient of the
    surrogate's loss on them points along the gradient of its loss on the victims under
    the attacker's label; who trains on these rows learns to misread the victims.

    Parameters
    ----------
    target : label, default=0
        The class the victims are to be taken for, from which the poisoned rows are
        drawn.
    rate : float in [0, 1], default=0.01
        Share of the rows that `rate_of` names.
    rate_of : {"target", "all"}, default="all"
        Whether `rate` is a share of the target class or of the whole set.
    victims : array-like of images, default=None
        The image or images to be misread, of the type and layout of those poisoned
        (a single one may leave out the first axis). Must be given.
    eps : float in [0, 1], default=16/255
        Bound on the change of a pixel, for pixels in [0, 1].
    n_iter : int, default=250
        Steps of Adam on the sign of the gradient.
    n_restarts : int, default=8
        Number of random starts, of which the best is kept.
    lr : float > 0, default=0.1
        Learning rate in units of `eps`; divided by 10 after 3/8, 5/8 and 7/8 of the
        steps.
    surrogate : torch.nn.Module, default=None
        Maps images (n, channels, height, width) in [0, 1] to logits of the classes in
        sorted order; it is copied. None fits a linear one to the pixels.
    layout : {"auto", "NHWC", "NCHW", "NHW"}, default="auto"
        Order of the image axes. Pixels are uint8 in 0..255 or floats in [0, 1].
    random_state : int, RandomState instance or None, default=None
        Seed of the random starts and of the choice of rows.

    Attributes
    ----------
    alignment_ : float in [-1, 1]
        Cosine between the gradient of the poison and that of the victims; NaN if no row
        was poisoned.
    surrogate_ : torch.nn.Module
        The model whose gradients were matched.
    labels_ : ndarray of shape (n_classes,)
        The classes, in the order of its logits.
    image_shape_ : tuple
        Height, width and channels of the images.

    References
    ----------
    .. [1] J. Geiping, L. Fowl, W. R. Huang, W. Czaja, G. Taylor, M. Moeller and T.
       Goldstein, "Witches' Brew: Industrial Scale Data Poisoning via Gradient
       Matching", ICLR 2021, arXiv:2009.02276.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.attacks import WitchesBrew
    >>> X = np.random.default_rng(0).uniform(size=(40, 8, 8))
    >>> y = np.arange(40) % 2
    >>> attack = WitchesBrew(
    ...     target=1, rate=0.1, victims=X[0], n_iter=10, n_restarts=1, random_state=0
    ... )
    >>> data = attack.poison(X[1:], y[1:])
    >>> data, bool((data.y == y[1:]).all())
    (PoisonedData(39 rows, 4 poisoned, 0 cover), True)
    """

    def __init__(
        self,
        *,
        target=0,
        rate=0.01,
        rate_of="all",
        victims=None,
        eps=16 / 255,
        n_iter=250,
        n_restarts=8,
        lr=0.1,
        surrogate=None,
        layout="auto",
        random_state=None,
    ):
        self.target = target
        self.rate = rate
        self.rate_of = rate_of
        self.victims = victims
        self.eps = eps
        self.n_iter = n_iter
        self.n_restarts = n_restarts
        self.lr = lr
        self.surrogate = surrogate
        self.layout = layout
        self.random_state = random_state

    def trigger(self, X):
        """Return a copy: this attack aims at the images `victims` and has no trigger.

        Parameters
        ----------
        X : ndarray of images
            Images.

        Returns
        -------
        ndarray of the shape and type of X
            Copy of the images.
        """
        check_poisoned(self, "image_shape_")
        return np.array(X)

    def _check_parameters(self, y):
        super()._check_parameters(y)
        check_eps(self.eps)
        check_integer("n_iter", self.n_iter, 0)
        check_integer("n_restarts", self.n_restarts, 1)
        check_real("lr", self.lr, 0, closed="()")
        if self.victims is None:
            raise ValueError("victims must hold the images to be misread, got None.")

    def _learn_pattern(self, X, y, rng):
        self.alignment_ = float("nan")
        self._learn_surrogate(X, y)
        victims = np.asarray(self.victims)
        if victims.ndim == X.ndim - 1:
            victims = victims[None]
        if victims.shape[1:] != X.shape[1:] or victims.dtype != X.dtype:
            raise ValueError(
                f"victims hold {victims.dtype} images of shape {victims.shape[1:]}, X "
                f"{X.dtype} ones of shape {X.shape[1:]}: give the same kind."
            )
        images = to_tensor(self._unit(victims), like=self.surrogate_)
        wanted = torch.full((len(images),), self._code(self.target))
        self._wanted_gradient = loss_gradient(
            self.surrogate_, images, wanted.to(images.device)
        )

    def _stamp_train(self, images, labels, rng):
        tensor = to_tensor(images, like=self.surrogate_)
        brewed, self.alignment_ = match_gradient(
            self.surrogate_,
            tensor,
            self._code(self.target),
            self._wanted_gradient,
            rng,
            eps=self.eps,
            n_iter=self.n_iter,
            n_restarts=self.n_restarts,
            lr=self.lr,
        )
        return to_array(brewed, images.dtype)


def loss_gradient(module, images, labels, *, create_graph=False):
    """Gradient of the mean cross-entropy with respect to all parameters, as one vector.

    Parameters
    ----------
    module : torch.nn.Module
        Maps images to logits.
    images : Tensor of shape (n, channels, height, width)
        Images.
    labels : Tensor of int64 of shape (n,)
        Class numbers.
    create_graph : bool, default=False
        Whether the result can itself be differentiated.

    Returns
    -------
    Tensor of shape (n_parameters,)
        The gradient.
    """
    parameters = [weight.requires_grad_() for weight in module.parameters()]
    with torch.enable_grad():
        loss = functional.cross_entropy(module(images), labels)
        gradients = torch.autograd.grad(loss, parameters, create_graph=create_graph)
    return torch.cat([gradient.flatten() for gradient in gradients])


def match_gradient(module, images, code, wanted, rng, *, eps, n_iter, n_restarts, lr):
    """Change images within eps so that their loss gradient points along `wanted`.

    Parameters
    ----------
    module : torch.nn.Module
        Maps images to logits.
    images : Tensor of shape (n, channels, height, width)
        Images in [0, 1].
    code : int
        Their class number.
    wanted : Tensor of shape (n_parameters,)
        The gradient to match.
    rng : RandomState instance
        Random stream of the starts.
    eps : float
        Bound on the change of a pixel.
    n_iter, n_restarts : int
        Steps and random starts.
    lr : float
        Learning rate in units of eps.

    Returns
    -------
    images : Tensor of shape (n, channels, height, width)
        Changed images of the best start.
    alignment : float
        Cosine between their gradient and `wanted`.
    """
    labels = torch.full((len(images),), code, device=images.device)
    best, best_alignment = images, -np.inf
    for _ in range(n_restarts):
        start = rng.uniform(-eps, eps, size=images.shape)
        noise = torch.from_numpy(start).to(images)
        noise = _descend_mismatch(
            module, images, labels, wanted, noise, eps, n_iter, lr
        )
        brewed = (images + noise).clamp(0, 1)
        gradient = loss_gradient(module, brewed, labels)
        alignment = float(functional.cosine_similarity(gradient, wanted, dim=0))
        if alignment > best_alignment:
            best, best_alignment = brewed, alignment
    return best, best_alignment


def _descend_mismatch(module, images, labels, wanted, noise, eps, n_iter, lr):
    noise = noise.requires_grad_()
    optimizer = torch.optim.Adam([noise], lr=lr * eps)
    milestones = [n_iter * k // 8 for k in (3, 5, 7)]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.1)
    for _ in range(n_iter):
        noise.grad = torch.zeros_like(noise)
        for rows in torch.arange(len(images)).split(_BATCH):
            with torch.enable_grad():
                brewed = (images[rows] + noise[rows]).clamp(0, 1)
                gradient = loss_gradient(
                    module, brewed, labels[rows], create_graph=True
                )
                mismatch = 1 - functional.cosine_similarity(gradient, wanted, dim=0)
                (change,) = torch.autograd.grad(mismatch, noise)
            noise.grad += change
        noise.grad.sign_()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            noise.clamp_(-eps, eps)
    return noise.detach()
