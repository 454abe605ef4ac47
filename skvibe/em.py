"""Expectation maximisation: skorch's training loop with an E-step inside.

The M-step is ordinary mini-batch SGD by skorch, so its callbacks, history and
learning-rate schedules work as always. Every ``e_step_period`` iterations the net
stops to solve the transport problem for the clean labels. The E-step is a method of
the net and not a callback, so no user's callback list can switch it off.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from skorch import NeuralNetClassifier

from skvibe._checkpoint import Checkpoint
from skvibe._normaliser import CLASS_MAJOR_BELOW
from skvibe._progress import Progress
from skvibe._recorded_step import RecordedStep, recorded_step
from skvibe._settled_rows import OutOfReach, take_rows
from skvibe._training_state import capture_training, order_state, resume_training
from skvibe._unsettled_rows import Screen, in_groups
from skvibe.posteriors import (
    clean_log_posterior,
    corrupted_log_bound,
    corrupted_log_posterior,
    corrupted_log_posterior_at,
    cosines_with,
    poison_score_from_log_posterior,
    poisoning_log_rule,
    unit_rows,
)
from skvibe.transport import solve_transport, transport_rows

# What has this many times as many columns as there are classes is large beside a
# number a row and class.
_ROOM = 16
# Numbers worked on together on an accelerator.
_FILLS_ACCELERATOR = 1 << 24
# Numbers of one array among a few that a processor's cache has room for.
_FITS_CACHE = 1 << 16
# Rows worked on together, at least: in cheap operations, and in all.
_FEW_ROWS, _MANY_ROWS = 512, 4096
# POT's Sinkhorn needs thousands of sweeps for more.
_POT_TOL = 1e-3
# Where a larger share of the labels has just changed, potentials go on moving far.
_UNSETTLED = 0.2
# Iterations from one E-step to the next: at least, and so many E-steps at least in all.
_SHORTEST_PERIOD = 20
_FEWEST_E_STEPS = 20


def usual_e_step_period(n_rows, batch_size, max_iter):
    """SGD iterations between E-steps where nothing else is asked for.

    An E-step looks at every row, an iteration at a batch of them. One E-step in each
    pass over the rows keeps its share of the time level as they grow in number.

    Parameters
    ----------
    n_rows : int
        Rows trained on.
    batch_size : int
        Rows of a mini-batch.
    max_iter : int
        Iterations in all.

    Returns
    -------
    int
        The iterations of an epoch, but not so many that ``max_iter`` has room for
        fewer than 20 E-steps, and never fewer than 20 iterations.

    Examples
    --------
    >>> from skvibe.em import usual_e_step_period
    >>> [usual_e_step_period(n, 1024, 1000) for n in (2_000, 40_000, 1_000_000)]
    [20, 40, 50]
    """
    epoch = -(-n_rows // batch_size)
    return max(_SHORTEST_PERIOD, min(epoch, max_iter // _FEWEST_E_STEPS))


class VIBEModule(torch.nn.Module):
    """Clean and corrupted prototypes, the prior, and an encoder if one is trained.

    Parameters
    ----------
    prototypes : torch.Tensor of shape (n_classes, n_features)
        Start of the clean prototypes mu (any length; only directions matter).
    corrupted : torch.Tensor of shape (n_classes, n_features)
        Start of the corrupted prototypes eta.
    log_prior : torch.Tensor of shape (n_classes,) or None
        Fixed prior; None learns it as ``softmax(prior_temperature * theta)``.
    theta : torch.Tensor of shape (n_classes,) or None
        Start of the learned prior's logits.
    kappa, prior_temperature : float
        See `VIBEClassifier`.
    encoder : torch.nn.Module or None
        Maps inputs to feature vectors and is trained with the prototypes, together
        with eta. None: inputs are unit feature vectors, and eta stays fixed.
    augment : callable or None
        Random view of a batch of inputs, in the M-step only.
    """

    def __init__(
        self,
        prototypes,
        corrupted,
        log_prior,
        theta=None,
        kappa=20.0,
        prior_temperature=0.02,
        encoder=None,
        augment=None,
    ):
        super().__init__()
        self.encoder = encoder
        self.augment = augment
        self.prototypes = torch.nn.Parameter(prototypes.clone())
        self.corrupted = torch.nn.Parameter(
            corrupted.clone(), requires_grad=encoder is not None
        )
        self.theta = None if theta is None else torch.nn.Parameter(theta.clone())
        self.register_buffer("fixed_log_prior", log_prior)
        self.kappa = kappa
        self.prior_temperature = prior_temperature

    def log_prior(self):
        """Log of the class prior pi, shape (n_classes,)."""
        if self.theta is None:
            return self.fixed_log_prior
        return torch.log_softmax(self.prior_temperature * self.theta, dim=0)

    def features(self, X):
        """Unit feature vectors of a batch of inputs."""
        if self.encoder is None:
            return X
        X = X.float()  # images are kept as small as they are, batches are not
        # The E-step runs in evaluation mode and sees every row as it is.
        if self.training and self.augment is not None:
            X = self.augment(X)
        return unit_rows(torch.flatten(self.encoder(X), start_dim=1))

    def forward(self, X, idx=None):
        """Clean log-posterior, cosines with mu, unit mu, unit features."""
        features = self.features(X)
        prototypes = unit_rows(self.prototypes)
        cosines = cosines_with(prototypes, features)
        return self.log_clean(cosines), cosines, prototypes, features

    def log_clean(self, cosines):
        """Clean log-posterior of rows with these cosines with mu."""
        return clean_log_posterior(cosines, self.log_prior(), self.kappa)


@dataclass
class EMState:
    """What the E-steps know; lives as long as the training does.

    ``labels`` and ``responsibilities`` are indexed by original row number. ``order``
    and ``losses`` are of the epoch under way: the state of the generator before it
    drew the order of the batches, and the losses of the batches made. ``corrupted``
    (of unit length) and ``given_cosines`` are kept where they never change, and
    ``recorded`` as long as the training runs.
    """

    X: torch.Tensor | np.ndarray
    given: torch.Tensor
    checkpoint: Checkpoint
    iteration: int = 0
    calm_e_steps: int = 0
    finished: bool = False
    converged: bool = False
    labels: Any = None
    responsibilities: Any = None
    potentials: Any = None
    lower_bounds: list = field(default_factory=list)
    label_changes: list = field(default_factory=list)
    order: torch.Tensor | None = None
    losses: list = field(default_factory=list)
    corrupted: torch.Tensor | None = None
    given_cosines: torch.Tensor | None = None
    recorded: RecordedStep | bool | None = None

    def interrupt(self):
        """Somebody ended the fit: whatever is known, it is not final."""
        self.finished = self.converged = False


class VIBENet(NeuralNetClassifier):
    """skorch net whose loss is the expected complete-data log-likelihood.

    Train it with ``fit({"X": rows, "idx": row_numbers}, y)``; after that it predicts
    from rows alone, as any skorch classifier does.

    Parameters
    ----------
    *args, **kwargs
        Of `skorch.NeuralNetClassifier`.
    lam, nu, corrupted_posterior, pseudo_labels, solver : see `VIBEClassifier`
    first_e_step, max_iter, e_step_period, tol : see `VIBEClassifier`
    chunk_size : int, default=None
        Rows that an E-step works on together. None means as many as the device works on
        best; an encoder that is trained is given 4,096.
    em_verbose : int, default=0
        1 prints a line for each E-step.
    """

    def __init__(
        self,
        *args,
        lam=25.0,
        nu=20.0,
        corrupted_posterior="full",
        pseudo_labels="hard",
        solver="torch",
        max_iter=1000,
        e_step_period=20,
        first_e_step="joint",
        em_tol=1e-3,
        chunk_size=None,
        em_verbose=0,
        **kwargs,
    ):
        self.lam = lam
        self.nu = nu
        self.corrupted_posterior = corrupted_posterior
        self.pseudo_labels = pseudo_labels
        self.solver = solver
        self.max_iter = max_iter
        self.e_step_period = e_step_period
        self.first_e_step = first_e_step
        self.em_tol = em_tol
        self.chunk_size = chunk_size
        self.em_verbose = em_verbose
        super().__init__(*args, **kwargs)

    # -- training loop -----------------------------------------------------------

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        super().on_train_begin(net, X=X, y=y, **kwargs)
        # Rows may be memory-mapped; what is known of them is on the device.
        self.em_ = EMState(
            X=X["X"],
            given=torch.as_tensor(y).to(self.device),
            checkpoint=getattr(self, "_checkpoint", None) or Checkpoint([]),
        )
        self._progress = Progress("EM", self.max_iter, enabled=self.em_verbose > 0)

    def on_train_end(self, net, X=None, y=None, **kwargs):
        if self.em_.recorded:
            # The recording lives as long as its gradients do.
            self.optimizer_.zero_grad()
        self.em_.recorded = None
        super().on_train_end(net, X=X, y=y, **kwargs)

    def on_epoch_begin(self, net, **kwargs):
        # skorch's own way to end training early; raised here, not at the end of the
        # last epoch, so that every callback has seen that epoch whole.
        if self.em_.finished:
            raise KeyboardInterrupt
        super().on_epoch_begin(net, **kwargs)

    def run_single_epoch(self, iterator, training, prefix, step_fn, **fit_params):
        """One pass over the data; losses are read once, not once a batch.

        Reading a loss makes the CPU wait for the GPU, so it is put off to the end of
        the epoch.
        """
        if iterator is None:
            return
        batches = self._begin_epoch(iterator) if training else iterator
        losses = self.em_.losses if training else []
        for batch in batches:
            if training and self.em_.checkpoint.is_due(self.em_.iteration):
                self.em_.checkpoint.keep(capture_training(self))
            if training and self._e_step_is_due():
                self.e_step()
            if training and self.em_.finished:
                if not losses:
                    # An epoch without a batch is none: scores of it do not exist.
                    self.history.pop()
                    raise KeyboardInterrupt
                break
            self.notify("on_batch_begin", batch=batch, training=training)
            step = step_fn(batch, **fit_params)
            losses.append(step["loss"].detach())
            self.history.record_batch(prefix + "_batch_size", len(batch[1]))
            self.notify("on_batch_end", batch=batch, training=training, **step)
            self.em_.iteration += training
        if losses:
            self._record_losses(prefix, torch.stack(losses).tolist())
        self.history.record(prefix + "_batch_count", len(losses))

    def train_step_single(self, batch, **fit_params):
        recorded = None if fit_params else recorded_step(self, batch)
        if recorded is not None:
            return recorded.play(batch)
        return super().train_step_single(batch, **fit_params)

    def _begin_epoch(self, iterator):
        """Batches of an epoch of training, or those that a resumed one has left."""
        resumed = self.em_.checkpoint.begin_training()
        if resumed is not None:
            return resume_training(self, resumed, iterator)
        self.em_.order, self.em_.losses = order_state(iterator), []
        return iterator

    def _record_losses(self, prefix, losses):
        rows = [
            row
            for row in self.history[-1]["batches"]
            if prefix + "_batch_size" in row and prefix + "_loss" not in row
        ]
        for row, loss in zip(rows, losses, strict=True):
            row[prefix + "_loss"] = loss

    def _e_step_is_due(self):
        if self.em_.iteration >= self.max_iter:
            self.em_.finished = True
            return False
        return self.em_.iteration % self.e_step_period == 0

    def get_loss(self, y_pred, y_true, X=None, training=False):
        """Minus the expected complete-data log-likelihood of a batch (M-step)."""
        log_clean, cosines, prototypes, features = y_pred
        given, idx = y_true.to(log_clean.device), X["idx"]
        corrupted = self._corrupted()
        table = prototypes @ corrupted.T
        given_cosines = self._given_cosines(corrupted, features, idx)
        if self.pseudo_labels == "hard":
            clean = self.em_.labels[idx]
            log_corrupted = self._log_corrupted_at(
                cosines, given_cosines, table, given, clean
            )
            own = log_clean.gather(1, clean[:, None])[:, 0]
            return -(own + log_corrupted).mean()
        log_corrupted = self._log_corrupted(cosines, given_cosines, table, given)
        expected = self.em_.responsibilities[idx] * (log_clean + log_corrupted)
        return -expected.sum(dim=1).mean()

    def _corrupted(self):
        """Corrupted prototypes of unit length."""
        module, state = self.module_, self.em_
        if module.encoder is not None:
            return unit_rows(module.corrupted)
        if state.corrupted is None:
            state.corrupted = unit_rows(module.corrupted)
        return state.corrupted

    def _given_cosines(self, corrupted, features, idx):
        """``v . eta`` of a batch, which only the full corrupted posterior asks for."""
        if self.corrupted_posterior == "approximate":
            return None
        fixed = self._fixed_cosines(corrupted)
        if fixed is None:
            return cosines_with(corrupted, features)
        return take_rows(fixed, idx)

    # -- E-step ------------------------------------------------------------------

    @torch.no_grad()
    def e_step(self):
        """Solve the transport problem for the clean labels of all rows."""
        state = self.em_
        log_p, result = None, self._solve_unsettled()
        if result is None:
            # The paper takes the corrupted posterior constant at the very first E-step;
            # where classes overlap most labels then change at once, and never come
            # back.
            with_corrupted = state.labels is not None or self.first_e_step == "joint"
            log_p = self.log_joint(with_corrupted)
            result = self._solve(log_p)
        self._update_state(log_p, result)
        self._progress.update(
            state.iteration,
            elbo=state.lower_bounds[-1],
            labels_changed=state.label_changes[-1],
        )
        tasks = getattr(self, "_tasks", None)
        if tasks is not None:
            tasks.step("E-step")

    def _prior(self):
        prior = self.module_.log_prior().double().exp()
        return prior / prior.sum()

    def _solve_unsettled(self):
        """The same problem by way of the rows whose label may change.

        None where the potentials would have to move too far from the last E-step's, or
        all joint probabilities are needed.
        """
        state = self.em_
        usual = self.pseudo_labels == "hard" and self.solver == "torch"
        # On an accelerator the solver puts rows aside by its own kernels.
        on_host = state.given.device.type == "cpu"
        is_calm = state.labels is not None and state.label_changes[-1] <= _UNSETTLED
        if not (usual and on_host and is_calm):
            return None
        rows = self.unsettled_rows()
        if not len(rows.places):
            return None
        try:
            result = self._solve(rows.log_p, rows.aside)
        except OutOfReach:
            return None
        return replace(
            result, labels=state.labels.index_copy(0, rows.places, result.labels)
        )

    def _solve(self, log_p, aside=None):
        """Transport problem of one E-step, started at the last one's solution."""
        if not torch.isfinite(self.module_.prototypes).all():
            raise ValueError(
                "Training diverged: the prototypes are no longer finite. Lower lr "
                f"(got {self.lr!r})."
            )
        return solve_transport(
            log_p,
            self._prior(),
            lam=self.lam,
            tol=_POT_TOL if self.solver == "pot" else None,
            solver=self.solver,
            init=self.em_.potentials,
            aside=aside,
        )

    def _update_state(self, log_p, result):
        state = self.em_
        changed = 1.0
        if state.labels is not None:
            changed = (result.labels != state.labels).double().mean().item()
        state.calm_e_steps = state.calm_e_steps + 1 if changed <= self.em_tol else 0
        # Two calm E-steps in a row: one may be calm by chance.
        if state.calm_e_steps >= 2:
            state.finished = state.converged = True
        state.labels, state.potentials = result.labels, result.potentials
        state.lower_bounds.append(result.value)
        state.label_changes.append(changed)
        if self.pseudo_labels == "soft":
            state.responsibilities = self._responsibilities(log_p, result.potentials)

    def _responsibilities(self, log_p, potentials):
        """``q(l | x_i, y_i)``, written over ``log_p``: no second array of its size."""
        for block in log_p.split(self._chunk()):
            block.copy_(transport_rows(block, potentials, lam=self.lam))
        return log_p

    @torch.no_grad()
    def log_joint(self, with_corrupted):
        """``ln p(y_i | l, x_i) p(l | x_i)`` of all rows, shape (n_rows, n_classes).

        Without the corrupted posterior: ``ln p(l | x_i)``.
        """
        log_p = self._new_matrix(len(self.module_.prototypes))
        for block, found in self._joint_blocks(with_corrupted):
            log_p[block] = found
        return log_p

    @torch.no_grad()
    def poison_scores(self):
        """Poison scores of all rows by the clean posterior, in single precision."""
        given = self.em_.given
        scores = torch.empty(len(given), device=given.device)
        for block, log_clean in self._joint_blocks(with_corrupted=False):
            scores[block] = poison_score_from_log_posterior(log_clean, given[block])
        return scores

    @torch.no_grad()
    def unsettled_rows(self):
        """What `log_joint` says of the rows whose clean label may change.

        Returns
        -------
        UnsettledRows
            With sums over the other rows.
        """
        table = self._table()
        screen = Screen(self.lam, self.em_.potentials)
        blocks = self._unsettled_blocks(screen, table)
        for places, given, *known in in_groups(blocks, _MANY_ROWS):
            log_clean, cosines, given_cosines = known
            log_clean += self._log_corrupted(cosines, given_cosines, table, given)
            screen.keep(places, log_clean)
        return screen.finish()

    def _unsettled_blocks(self, screen, table):
        """Row numbers, given labels and what is known of the rows left, by blocks."""
        state, size = self.em_, self._chunk(_FEW_ROWS)
        for block, cosines, given_cosines in self._cosine_blocks(True, size):
            given, labels = state.given[block], state.labels[block]
            log_clean = self.module_.log_clean(cosines)
            own = log_clean.gather(1, labels[:, None])[:, 0]
            own += self._log_corrupted_at(cosines, given_cosines, table, given, labels)
            bound = self._log_corrupted_bound(cosines, given_cosines, table, given)
            left = screen.pick(own, bound.add_(log_clean), labels)
            known = (log_clean, cosines, given_cosines)
            yield (
                left + block.start,
                given[left],
                *(None if rows is None else take_rows(rows, left) for rows in known),
            )

    def _joint_blocks(self, with_corrupted):
        """Blocks of rows, as slices, and what `log_joint` says of them."""
        given, table = self.em_.given, self._table()
        for block, cosines, given_cosines in self._cosine_blocks(with_corrupted):
            found = self.module_.log_clean(cosines)
            if with_corrupted:
                found += self._log_corrupted(
                    cosines, given_cosines, table, given[block]
                )
            yield block, found

    def _table(self):
        """``mu . eta`` of all pairs of classes, shape (n_classes, n_classes)."""
        return unit_rows(self.module_.prototypes) @ self._corrupted().T

    def _cosine_blocks(self, with_corrupted, size=None):
        """Blocks of rows, as slices, with ``v . mu`` and, if asked for, ``v . eta``."""
        state, module = self.em_, self.module_
        was_training = module.training
        module.eval()
        prototypes, corrupted = unit_rows(module.prototypes), self._corrupted()
        n_classes, fixed = len(prototypes), None
        needs_given = with_corrupted and self.corrupted_posterior == "full"
        if needs_given:
            fixed = self._fixed_cosines(corrupted)
            if fixed is None:
                prototypes = torch.cat([prototypes, corrupted])
        size = self._chunk() if size is None else size
        for start in range(0, len(state.X), size):
            block = slice(start, start + size)
            rows = state.X[block]
            if isinstance(rows, np.ndarray):
                rows = torch.from_numpy(np.array(rows)).to(state.given.device)
            products = cosines_with(prototypes, module.features(rows), n_classes)
            cosines, given_cosines = products[:, :n_classes], None
            if needs_given:
                given_cosines = products[:, n_classes:]
            if fixed is not None:
                given_cosines = fixed[block]
            yield block, cosines, given_cosines
        module.train(was_training)

    @torch.no_grad()
    def _fixed_cosines(self, corrupted):
        """``v . eta`` of all rows where it never changes and takes little room."""
        state, n_classes = self.em_, len(corrupted)
        if self.module_.encoder is not None or (_ROOM * n_classes > state.X[0].numel()):
            return None
        if state.given_cosines is None:
            state.given_cosines = self._new_matrix(n_classes)
            size = self._chunk()
            for start in range(0, len(state.X), size):
                block = slice(start, start + size)
                rows = self.module_.features(torch.as_tensor(state.X[block]))
                state.given_cosines[block] = cosines_with(corrupted, rows)
        return state.given_cosines

    def _chunk(self, least=_MANY_ROWS):
        """Rows worked on together; frozen features take no room of their own."""
        state, module = self.em_, self.module_
        if self.chunk_size is not None:
            return self.chunk_size
        if module.encoder is not None:
            return _MANY_ROWS
        n_classes, n_features = module.prototypes.shape
        if state.given.device.type == "cpu":
            return max(least, _FITS_CACHE // n_classes)
        return max(least, _FILLS_ACCELERATOR // max(n_classes, n_features))

    def _new_matrix(self, n_classes):
        """Room for a number a row and class, stored as the E-step reads it fastest."""
        shape, device = (len(self.em_.X), n_classes), self.em_.given.device
        # Soft responsibilities are read row by row in the M-step.
        if self.pseudo_labels == "hard" and n_classes < CLASS_MAJOR_BELOW:
            return torch.empty(shape[::-1], dtype=torch.float32, device=device).T
        return torch.empty(shape, dtype=torch.float32, device=device)

    @torch.no_grad()
    def final_e_step(self):
        """One more E-step, so that what is published agrees with the fitted model.

        Returns
        -------
        responsibilities : ndarray of shape (n_rows, n_classes)
            ``q(l | x_i, y_i)``; their argmax are the clean labels.
        """
        log_p = self.log_joint(with_corrupted=True)
        result = self._solve(log_p)
        # It may be begun a second time, after an interruption.
        if hasattr(self, "_progress"):
            del self._progress
        return self._responsibilities(log_p, result.potentials).cpu().numpy()

    # -- likelihoods -------------------------------------------------------------

    def _log_corrupted(self, cosines, given_cosines, table, given):
        if self.corrupted_posterior == "approximate":
            return poisoning_log_rule(table, self.nu)[:, given].T
        return corrupted_log_posterior(cosines, given_cosines, table, given, self.nu)

    def _log_corrupted_bound(self, cosines, given_cosines, table, given):
        if self.corrupted_posterior == "approximate":
            return self._log_corrupted(cosines, given_cosines, table, given)
        return corrupted_log_bound(cosines, given_cosines, table, given, self.nu)

    def _log_corrupted_at(self, cosines, given_cosines, table, given, clean):
        if self.corrupted_posterior == "approximate":
            return poisoning_log_rule(table, self.nu)[clean, given]
        return corrupted_log_posterior_at(
            cosines, given_cosines, table, given, clean, self.nu
        )
