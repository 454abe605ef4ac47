"""The attacker's own model: a differentiable stand-in for the victim's."""

import copy

import numpy as np
import torch
from torch.nn import functional

from skvibe._checks import check_real
from skvibe.attacks.images import ImageAttack


class SurrogateAttack(ImageAttack):
    """An image attack that follows the gradients of a surrogate model."""

    def _learn_surrogate(self, X, y):
        """Set ``surrogate_``, a private copy in evaluation mode, and ``labels_``."""
        self.labels_, codes = np.unique(y, return_inverse=True)
        if self.surrogate is None:
            images = to_tensor(self._unit(X))
            self.surrogate_ = fit_linear_surrogate(images, codes, len(self.labels_))
        else:
            self.surrogate_ = copy_module("surrogate", self.surrogate)
            check_logits(self.surrogate_, self._unit(X[:1]), len(self.labels_))

    def _code(self, label):
        return int(np.flatnonzero(self.labels_ == label)[0])


def fit_linear_surrogate(images, codes, n_classes, *, alpha=1e-3, max_iter=100):
    """Fit softmax regression on pixels, by L-BFGS from zero weights.

    Nothing here is random, and no global random state is read.

    Parameters
    ----------
    images : Tensor of shape (n, channels, height, width)
        Images in [0, 1].
    codes : array-like of int of shape (n,)
        Class numbers.
    n_classes : int
        Number of classes.
    alpha : float, default=1e-3
        Weight of half the squared norm of the coefficients.
    max_iter : int, default=100
        Iterations of L-BFGS at most.

    Returns
    -------
    torch.nn.Sequential
        A flattening and a linear layer, in evaluation mode.

    Examples
    --------
    >>> import torch
    >>> from skvibe.attacks.surrogate import fit_linear_surrogate
    >>> images = torch.linspace(0, 1, 20).reshape(20, 1, 1, 1)
    >>> model = fit_linear_surrogate(images, [0] * 10 + [1] * 10, 2)
    >>> int((model(images).argmax(dim=1)).sum())
    10
    """
    X = images.flatten(1).float()
    centre = X.mean(dim=0)
    target = torch.as_tensor(np.asarray(codes), dtype=torch.int64)
    weight = torch.zeros(n_classes, X.shape[1], requires_grad=True)
    bias = torch.zeros(n_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=max_iter, line_search_fn="strong_wolfe"
    )
    centred = X - centre

    def closure():
        optimizer.zero_grad()
        logits = centred @ weight.T + bias
        loss = functional.cross_entropy(logits, target)
        loss = loss + alpha / 2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    linear = torch.nn.utils.skip_init(torch.nn.Linear, X.shape[1], n_classes)
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.copy_(bias - weight @ centre)
    return torch.nn.Sequential(torch.nn.Flatten(), linear).eval()


def copy_module(name, module):
    """A copy in evaluation mode, so that the user's module stays as it is."""
    if not isinstance(module, torch.nn.Module):
        raise TypeError(
            f"{name} must be a torch.nn.Module that takes (n, channels, height, width) "
            f"images in [0, 1], or None; got {type(module).__name__}."
        )
    return copy.deepcopy(module).eval()


def check_logits(module, images, n_classes):
    """Raise unless the module gives one logit a class."""
    with torch.no_grad():
        shape = tuple(module(to_tensor(images, like=module)).shape)
    if shape != (len(images), n_classes):
        raise ValueError(
            f"surrogate gives an output of shape {shape} for {len(images)} image and "
            f"{n_classes} classes: it must give (n, {n_classes}) logits, with the "
            "classes in sorted order."
        )


def to_tensor(images, like=None):
    """NHWC array to an NCHW float32 tensor, on the device of the module ``like``."""
    tensor = torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, 1))).float()
    weight = None if like is None else next(like.parameters(), None)
    return tensor if weight is None else tensor.to(weight.device)


def to_array(tensor, dtype):
    """NCHW tensor to an NHWC array."""
    return np.moveaxis(tensor.detach().cpu().numpy(), 1, -1).astype(dtype)


def check_eps(value):
    """A bound on the change of a pixel, for pixels in [0, 1]."""
    return check_real("eps", value, 0, 1)
