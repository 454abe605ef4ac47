"""Pretraining of an encoder on images alone, labels unseen."""

import copy

import numpy as np
import torch
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from skvibe._checks import check_integer, check_real
from skvibe._device import resolve_device
from skvibe._rows import take_rows
from skvibe._saving import SaveMixin
from skvibe.encoders._checkpoint import describe_images, describe_parameter
from skvibe.encoders._half import use_bfloat16
from skvibe.encoders._image_batches import ImageBatches
from skvibe.encoders._image_checks import count_channels, validate_images
from skvibe.encoders._simclr_net import SimCLRModule, SimCLRNet
from skvibe.encoders.augment import SimCLRAugmentation
from skvibe.encoders.batch_norm import recalibrate_batch_norm
from skvibe.encoders.make import make_encoder


class SelfSupervisedEncoder(
    SaveMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator
):
    """Encoder trained by SimCLR [1]_ on images whose labels are not to be trusted.

    Two random views of an image are drawn together and away from all others, so the
    features follow what images look like and nothing that was written into the labels.
    ``y`` is never read.

    Parameters
    ----------
    encoder : {"small", "resnet18", "vgg11"} or torch.nn.Module, default="small"
        Maps images to vectors. A module is copied, never changed; one by name gets
        weights drawn from `random_state`.
    augment : torch.nn.Module or callable, default=None
        Random view of a batch, on the device. None: `SimCLRAugmentation`, without
        mirroring and colours for images of one channel.
    max_epochs : int, default=200
        Passes over the images.
    batch_size : int, default=256
        Images a batch; every image is contrasted with all others of its batch.
    lr : float, default=1e-3
        Learning rate of AdamW at its peak: up for the first 5 % of the iterations,
        then down along a cosine.
    temperature : float, default=0.5
        Of the loss, > 0.
    projection_size : int, default=128
        Size of the space in which views are compared; it is discarded afterwards.
    mixed_precision : {"auto"} or bool, default="auto"
        bfloat16 where it helps. "auto": on GPUs that have it.
    recalibrate : bool, default=True
        Set batch norm's running statistics to those of the images as they are when
        training is over.
    checkpoint : str or path, default=None
        File in which the state is kept. A `fit` with the same images and parameters
        goes on from it and ends as if it had never been interrupted, bit for bit.
    checkpoint_every : int, default=10
        Epochs from one checkpoint to the next.
    device : str or torch.device, default="auto"
        "auto" takes CUDA where there is one.
    net_params : dict, default=None
        More parameters of the inner `skorch.NeuralNet`, such as
        ``{"callbacks": [...], "optimizer__weight_decay": 1e-3}``.
    random_state : int, RandomState instance or None, default=None
        Weights of an encoder by name, order of the images and random views.
    verbose : int, default=0
        1 prints loss, images a second and time left after each epoch.

    Attributes
    ----------
    encoder_ : torch.nn.Module
        The trained encoder, in evaluation mode; for
        ``VIBEClassifier(encoder=ssl.encoder_, train_encoder=True)``.
    loss_curve_ : ndarray of shape (max_epochs,)
        Mean loss of each epoch.
    images_per_second_ : float
        Throughput of the last `fit` (an image counts once, though two views are made);
        NaN if a finished checkpoint left nothing to do.
    n_features_in_ : int
        Length of the images' second axis (scikit-learn's convention).
    history_ : skorch.history.History
        Losses by epoch and batch.

    References
    ----------
    .. [1] T. Chen, S. Kornblith, M. Norouzi and G. Hinton, "A Simple Framework for
       Contrastive Learning of Visual Representations", ICML 2020, arXiv:2002.05709.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skvibe.encoders import SelfSupervisedEncoder, SmallConvNet
    >>> images = load_digits().images[:200] / 16
    >>> ssl = SelfSupervisedEncoder(
    ...     SmallConvNet(in_channels=1, width=8), max_epochs=2, batch_size=100,
    ...     random_state=0,
    ... )
    >>> ssl.fit_transform(images).shape
    (200, 32)
    """

    def __init__(
        self,
        encoder="small",
        *,
        augment=None,
        max_epochs=200,
        batch_size=256,
        lr=1e-3,
        temperature=0.5,
        projection_size=128,
        mixed_precision="auto",
        recalibrate=True,
        checkpoint=None,
        checkpoint_every=10,
        device="auto",
        net_params=None,
        random_state=None,
        verbose=0,
    ):
        self.encoder = encoder
        self.augment = augment
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.lr = lr
        self.temperature = temperature
        self.projection_size = projection_size
        self.mixed_precision = mixed_precision
        self.recalibrate = recalibrate
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.device = device
        self.net_params = net_params
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X, y=None):
        """Train the encoder.

        Parameters
        ----------
        X : array-like of shape (n_samples, height, width[, channels]) or \
(n_samples, channels, height, width)
            Images, uint8 or float; may be memory-mapped. Rows that are NaN everywhere
            (removed by a filter) are left out.
        y : ignored
            Labels are never read.

        Returns
        -------
        self
            Fitted transformer.

        Raises
        ------
        ValueError
            If X does not hold images, holds other NaN or infinity, or a parameter is
            out of range.
        """
        self._check_params()
        device = resolve_device(self.device)
        images = validate_images(self, X, fitting=True)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        net = self._build_net(images, device, seed)
        with _keep_random_state(device):
            net.fit_or_resume(images, self._describe(images, seed))
            encoder = net.module_.encoder
            if self.recalibrate:
                recalibrate_batch_norm(encoder, self._batches(images, device))
        _check_finite_training(net.loss_curve_, encoder)
        self.encoder_ = encoder.eval()
        self.loss_curve_ = np.array(net.loss_curve_)
        self.images_per_second_ = net.images_per_second_
        self.history_ = net.history
        self._n_features_out = net.module_.n_features_out
        return self

    def transform(self, X):
        """Features of images, in evaluation mode and without augmentation.

        Parameters
        ----------
        X : array-like of images, as in `fit`
            NaN is not accepted.

        Returns
        -------
        ndarray of float32 of shape (n_samples, n_features_out)
            Feature vectors, of any length.
        """
        check_is_fitted(self)
        images = validate_images(self, X, fitting=False)
        if isinstance(self.device, str) and self.device == "auto":
            self.encoder_.to(resolve_device("auto"))
        device = next(self.encoder_.parameters(), torch.empty(0)).device
        with torch.no_grad():
            blocks = [
                torch.flatten(self.encoder_(batch), start_dim=1).float().cpu()
                for batch in self._batches(images, device)
            ]
        features = torch.cat(blocks).numpy()
        if not np.isfinite(features).all():
            raise ValueError(
                "The features of some images are not finite: check their scale, which "
                "should be that of the images given to fit."
            )
        return features

    def _check_params(self):
        named = isinstance(self.encoder, (str, torch.nn.Module))
        if not named:
            raise TypeError(
                "encoder must be 'small', 'resnet18', 'vgg11' or a torch.nn.Module, "
                f"got {type(self.encoder).__name__}."
            )
        if self.augment is not None and not callable(self.augment):
            raise TypeError(
                "augment must be None, a torch.nn.Module or a callable on batches of "
                f"images, got {type(self.augment).__name__}."
            )
        if self.net_params is not None and not isinstance(self.net_params, dict):
            raise TypeError(
                "net_params must be a dict of parameters of skorch.NeuralNet or None, "
                f"got {type(self.net_params).__name__}."
            )
        check_integer("max_epochs", self.max_epochs, 1)
        check_integer("batch_size", self.batch_size, 2)
        check_integer("projection_size", self.projection_size, 1)
        check_integer("checkpoint_every", self.checkpoint_every, 1)
        check_real("lr", self.lr, 0, closed="()")
        check_real("temperature", self.temperature, 0, closed="()")
        if self.mixed_precision not in ("auto", True, False):
            raise ValueError(
                "mixed_precision must be 'auto', True or False; got "
                f"{self.mixed_precision!r}."
            )

    def _build_net(self, images, device, seed):
        channels = count_channels(images)
        by_name = {"in_channels": channels} if isinstance(self.encoder, str) else {}
        encoder = make_encoder(self.encoder, random_state=seed, **by_name)
        batch_size = min(self.batch_size, len(images))
        params = {
            "batch_size": batch_size,
            "max_epochs": self.max_epochs,
            "criterion": torch.nn.CrossEntropyLoss,
            "optimizer": torch.optim.AdamW,
            "optimizer__weight_decay": 1e-4,
            "lr": self.lr,
            "iterator_train": ImageBatches,
            "iterator_train__shuffle": True,
            "iterator_train__drop_last": True,
            "iterator_train__device": device,
            "train_split": None,
            "verbose": 0,
        }
        params.update(copy.deepcopy(self.net_params or {}))
        module = SimCLRModule(
            # The layout that convolutions are fastest in, on CPUs and GPUs.
            encoder.to(device, memory_format=torch.channels_last),
            self._augmentation(channels),
            take_rows(images, torch.arange(2), device),
            self.projection_size,
            seed,
        )
        return SimCLRNet(
            module,
            **params,
            device=device,
            temperature=float(self.temperature),
            mixed_precision=use_bfloat16(self.mixed_precision, device),
            checkpoint=self.checkpoint,
            checkpoint_every=self.checkpoint_every,
            seed=seed,
            show_progress=self.verbose > 0,
        )

    def _augmentation(self, channels):
        if self.augment is not None:
            return copy.deepcopy(self.augment)
        return SimCLRAugmentation(channels, flip=channels == 3)

    def _batches(self, images, device):
        """All images in their order, batch by batch."""
        for rows in torch.arange(len(images)).split(self.batch_size):
            yield take_rows(images, rows, device)

    def _describe(self, images, seed):
        """What a checkpoint belongs to."""
        names = ["encoder", "augment", "max_epochs", "batch_size", "lr", "temperature"]
        names += ["projection_size", "mixed_precision"]
        settings = {name: describe_parameter(getattr(self, name)) for name in names}
        settings["net_params"] = repr(sorted(self.net_params or {}))
        return {**settings, "X": describe_images(images), "random_state": str(seed)}

    def __getstate__(self):
        state = super().__getstate__().copy()
        if "encoder_" in state:
            # Weights pickled on a GPU would not load without one.
            state["encoder_"] = copy.deepcopy(state["encoder_"]).cpu()
        return state

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.sparse = False
        tags.transformer_tags.preserves_dtype = []
        return tags


def _check_finite_training(losses, encoder):
    """Raise if training diverged, rather than keep an encoder that returns NaN."""
    finite = all(torch.isfinite(w).all() for w in encoder.state_dict().values())
    if not (np.isfinite(losses).all() and finite):
        raise ValueError(
            "Training diverged: the loss or the encoder's weights are no longer "
            "finite. Lower lr, raise temperature, or scale the images to [0, 1]."
        )


def _keep_random_state(device):
    """What is drawn inside is seeded there; torch's own state is put back after."""
    on_gpu = device.type == "cuda"
    return torch.random.fork_rng(
        devices=range(torch.cuda.device_count()) if on_gpu else []
    )
