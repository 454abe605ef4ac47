"""SimCLR's loss."""

import torch


def nt_xent_loss(first, second, *, temperature=0.5):
    """Normalised temperature-scaled cross entropy of two views of each row [1]_.

    A row's two views attract each other and repel all views of all other rows, in
    cosine similarity.

    Parameters
    ----------
    first, second : torch.Tensor of shape (n_rows, n_features)
        Projections of the two views, of any length; at least two rows.
    temperature : float > 0, default=0.5
        Cosines are divided by it.

    Returns
    -------
    torch.Tensor
        Mean over all ``2 * n_rows`` views, a number.

    Notes
    -----
    One matrix of shape (2 n_rows, 2 n_rows) is made. The loss is written out here, and
    not taken from pytorch-metric-learning, because that one compares every positive
    pair with every negative pair: memory grows with the cube of the batch.

    References
    ----------
    .. [1] T. Chen, S. Kornblith, M. Norouzi and G. Hinton, "A Simple Framework for
       Contrastive Learning of Visual Representations", ICML 2020, equation (1),
       arXiv:2002.05709.

    Examples
    --------
    >>> import torch
    >>> from skvibe.encoders import nt_xent_loss
    >>> views = torch.eye(2)
    >>> nt_xent_loss(views, views, temperature=1.0)
    tensor(0.5514)
    """
    views = torch.nn.functional.normalize(torch.cat([first, second]).float(), dim=1)
    logits = views @ views.T / temperature
    logits.fill_diagonal_(-torch.inf)
    n_rows = len(first)
    other = torch.arange(2 * n_rows, device=views.device).roll(n_rows)
    return torch.nn.functional.cross_entropy(logits, other)
