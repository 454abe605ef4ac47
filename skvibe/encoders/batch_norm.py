"""Running statistics of batch norm, taken anew from the images as they are."""

import torch

_NORMS = (
    torch.nn.BatchNorm1d,
    torch.nn.BatchNorm2d,
    torch.nn.BatchNorm3d,
    torch.nn.SyncBatchNorm,
)


@torch.no_grad()
def recalibrate_batch_norm(module, batches):
    """Set batch norm's running mean and variance to averages over given batches.

    In training they follow augmented images; an encoder that is used on images as they
    are (features, E-steps) wants the statistics of those.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place; weights and modes stay as they are. Without batch norm
        nothing happens.
    batches : iterable of torch.Tensor
        Inputs of the module, on its device.

    Returns
    -------
    torch.nn.Module
        The same module.

    Examples
    --------
    >>> import torch
    >>> from skvibe.encoders import recalibrate_batch_norm
    >>> norm = torch.nn.BatchNorm1d(1)
    >>> recalibrate_batch_norm(norm, [torch.tensor([[1.0], [3.0]])]).running_mean
    tensor([2.])
    """
    norms = [
        part
        for part in module.modules()
        if isinstance(part, _NORMS) and part.track_running_stats
    ]
    if not norms:
        return module
    modes = [(part, part.training) for part in module.modules()]
    momenta = [norm.momentum for norm in norms]
    module.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
        norm.train()
    for batch in batches:
        module(batch)
    for part, training in modes:
        part.training = training
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return module
