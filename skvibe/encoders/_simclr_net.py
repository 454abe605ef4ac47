"""SimCLR as a skorch net, with checkpoints from which training goes on unchanged."""

import math
import time
import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from skorch import NeuralNet

from skvibe._progress import Progress
from skvibe.encoders._checkpoint import load_checkpoint, save_checkpoint
from skvibe.encoders.contrastive import nt_xent_loss

_WARM_UP = 0.05


class SimCLRModule(torch.nn.Module):
    """Encoder, random views and the head that is discarded after training.

    Parameters
    ----------
    encoder : torch.nn.Module
        Maps images to vectors; trained in place.
    augment : callable
        Random view of a batch.
    example : torch.Tensor
        Two images, from which the size of the features is read.
    projection_size : int
        Size of the head's output.
    seed : int
        Of the head's weights.
    """

    def __init__(self, encoder, augment, example, projection_size, seed):
        super().__init__()
        self.encoder = encoder
        self.augment = augment
        with torch.no_grad():
            features = torch.flatten(encoder.eval()(example), start_dim=1)
        self.n_features_out = size = features.shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = torch.nn.Sequential(
                torch.nn.Linear(size, size),
                torch.nn.ReLU(inplace=True),
                torch.nn.Linear(size, projection_size),
            )
        self.head = head.to(features.device)

    def forward(self, images):
        """Projections of two views of each image."""
        views = torch.cat([self.augment(images), self.augment(images)])
        features = torch.flatten(self.encoder(views), start_dim=1)
        return self.head(features).chunk(2)


class SimCLRNet(NeuralNet):
    """skorch net whose loss is NT-Xent and which needs no targets.

    Every epoch draws its random numbers from a seed of its own, so a checkpoint holds
    no more than weights, the optimiser's state and the losses so far.

    Parameters
    ----------
    *args, **kwargs
        Of `skorch.NeuralNet`.
    temperature, mixed_precision, checkpoint, checkpoint_every
        See `SelfSupervisedEncoder`.
    seed : int
        Of the order of the images and of the random views.
    show_progress : bool
        Print a line for each epoch.
    """

    def __init__(
        self,
        *args,
        temperature=0.5,
        mixed_precision=False,
        checkpoint=None,
        checkpoint_every=10,
        seed=0,
        show_progress=False,
        **kwargs,
    ):
        self.temperature = temperature
        self.mixed_precision = mixed_precision
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.seed = seed
        self.max_epochs: int
        self.show_progress = show_progress
        super().__init__(*args, **kwargs)

    def fit_or_resume(self, images, description):
        """Train for the epochs that the checkpoint, if there is one, has not seen."""
        self.order_ = torch.Generator()
        self.set_params(iterator_train__generator=self.order_)
        self.initialize()
        self.loss_curve_: list[float] = []
        self.seconds_ = 0.0
        self.description_ = description
        n_epochs: int = self.max_epochs
        self._load()
        resumed = len(self.loss_curve_)
        self.n_batches_ = len(images) // self.batch_size
        self.progress_ = Progress("SimCLR", n_epochs, self.show_progress)
        if resumed < n_epochs:
            self.max_epochs = n_epochs - resumed
            self.partial_fit(images)
            self.max_epochs = n_epochs
        made = len(self.loss_curve_) - resumed
        images_made = made * self.n_batches_ * self.batch_size
        self.images_per_second_ = images_made / self.seconds_ if made else math.nan
        if len(self.loss_curve_) < n_epochs:
            warnings.warn(
                f"Pretraining was interrupted after {len(self.loss_curve_)} of "
                f"{n_epochs} epochs: the encoder is usable.",
                ConvergenceWarning,
                stacklevel=3,
            )
        return self

    # -- training loop -----------------------------------------------------------

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        super().on_train_begin(net, X=X, y=y, **kwargs)
        self.all_epochs_ = len(self.loss_curve_) + self.max_epochs

    def on_epoch_begin(self, net, **kwargs):
        super().on_epoch_begin(net, **kwargs)
        self.epoch_start_ = time.perf_counter()
        state = np.random.SeedSequence((self.seed, len(self.loss_curve_)))
        order_seed, view_seed = state.generate_state(2).tolist()
        self.order_.manual_seed(order_seed)
        torch.manual_seed(view_seed)

    def on_batch_begin(self, net, batch=None, training=False, **kwargs):
        super().on_batch_begin(net, batch=batch, training=training, **kwargs)
        batches = len(self.history[-1]["batches"]) - 1
        done = (len(self.loss_curve_) + batches / self.n_batches_) / self.all_epochs_
        for group in self.optimizer_.param_groups:
            group["lr"] = self.lr * learning_rate_share(done)

    def on_epoch_end(self, net, **kwargs):
        super().on_epoch_end(net, **kwargs)
        self.loss_curve_.append(self.history[-1, "train_loss"])
        seconds = time.perf_counter() - self.epoch_start_
        self.seconds_ += seconds
        epoch = len(self.loss_curve_)
        self.progress_.update(
            epoch,
            loss=self.loss_curve_[-1],
            images_per_s=self.n_batches_ * self.batch_size / seconds,
        )
        if epoch % self.checkpoint_every == 0 or epoch == self.all_epochs_:
            self._save()

    def run_single_epoch(self, iterator, training, prefix, step_fn, **fit_params):
        """One pass over the data; losses are read once, not once a batch.

        Reading a loss makes the CPU wait for the GPU.
        """
        if iterator is None:
            return
        losses = []
        for batch in iterator:
            self.notify("on_batch_begin", batch=batch, training=training)
            step = step_fn(batch, **fit_params)
            losses.append(step["loss"].detach())
            self.history.record_batch(prefix + "_batch_size", len(batch[1]))
            self.notify("on_batch_end", batch=batch, training=training, **step)
        losses = torch.stack(losses).tolist()
        for row, loss in zip(self.history[-1]["batches"], losses, strict=True):
            row[prefix + "_loss"] = loss
        self.history.record(prefix + "_loss", float(np.mean(losses)))
        self.history.record(prefix + "_batch_count", len(losses))

    def infer(self, x, **fit_params):
        with torch.autocast(
            torch.device(self.device).type,
            dtype=torch.bfloat16,
            enabled=self.mixed_precision,
        ):
            return super().infer(x, **fit_params)

    def get_loss(self, y_pred, y_true, X=None, training=False):
        """NT-Xent of the two views."""
        return nt_xent_loss(*y_pred, temperature=self.temperature)

    # -- checkpoints -------------------------------------------------------------

    def _save(self):
        if self.checkpoint is None:
            return
        save_checkpoint(
            self.checkpoint,
            self.description_,
            {
                "module": self.module_.state_dict(),
                "optimizer": self.optimizer_.state_dict(),
                "loss_curve": self.loss_curve_,
            },
        )

    def _load(self):
        if self.checkpoint is None:
            return
        state = load_checkpoint(self.checkpoint, self.description_, self.device)
        if state is not None:
            self.module_.load_state_dict(state["module"])
            self.optimizer_.load_state_dict(state["optimizer"])
            self.loss_curve_ = state["loss_curve"]


def learning_rate_share(done):
    """Learning rate, as a share of its peak, when a share of the training is done.

    Rises in a straight line over the first 5 %, then falls along a cosine to 0.

    Examples
    --------
    >>> from skvibe.encoders._simclr_net import learning_rate_share
    >>> [round(learning_rate_share(done), 3) for done in (0.025, 0.05, 0.525, 1.0)]
    [0.5, 1.0, 0.5, 0.0]
    """
    if done < _WARM_UP:
        return max(done, 0.01 * _WARM_UP) / _WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (done - _WARM_UP) / (1 - _WARM_UP)))
