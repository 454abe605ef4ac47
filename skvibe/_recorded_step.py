"""SGD iterations on an NVIDIA GPU, recorded once and played again.

An iteration on frozen features is some sixty operations, each of which is over in a
few microseconds; it takes the host many times as long to ask for them one by one. A
CUDA graph asks for all of them at once. They are the same operations on the same
numbers, so the result is the same too.
"""

import logging

import torch

logger = logging.getLogger("skvibe")

# Before recording, libraries set up what they work with. After it, and whenever labels
# have changed, so many results are compared with those of operations made one by one.
_REHEARSALS = 2
_TRIALS, _TRIALS_AGAIN = 2, 1
_TOLERANCE = 1e-4
# Others may hold on to what a recorded iteration overwrites.
_OWN_CALLBACKS = {"epoch_timer", "train_loss", "valid_loss", "valid_acc", "print_log"}


def _is_on_a_gpu(net):
    return net.em_.given.device.type == "cuda" and torch.version.cuda is not None


def can_record(net):
    """Whether all iterations of a net do the same, on a GPU."""
    return (
        _is_on_a_gpu(net)
        and net.module_.encoder is None
        and net.pseudo_labels == "hard"
        and not net.compile
        and {name for name, _ in net.callbacks_} <= _OWN_CALLBACKS
    )


class RecordedStep:
    """Forward and backward of one batch, for others of its size.

    Parameters
    ----------
    net : VIBENet
        In training; it has made an E-step.
    batch : tuple
        ``({"X": rows, "idx": row_numbers}, y)``.
    """

    def __init__(self, net, batch):
        inputs, given = batch
        self.net = net
        self.inputs = {name: torch.clone(values) for name, values in inputs.items()}
        self.given = given.clone()
        self.learned = [p for p in net.module_.parameters() if p.requires_grad]
        self.labels, self.known = net.em_.labels.clone(), net.em_.labels
        self.n_trials = _TRIALS
        self.graph = torch.cuda.CUDAGraph()
        net.em_.labels = self.labels  # whose place in memory is recorded
        try:
            self._record()
        finally:
            net.em_.labels = self.known

    def _record(self):
        current = torch.cuda.current_stream(self.given.device)
        aside = torch.cuda.Stream(self.given.device)
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            for _ in range(_REHEARSALS):
                self._run()
            self.graph.capture_begin(capture_error_mode="thread_local")
            try:
                self.loss, self.y_pred, self.gradients = self._run()
            finally:
                self.graph.capture_end()
        current.wait_stream(aside)

    def _run(self):
        y_pred = self.net.infer(self.inputs)
        loss = self.net.get_loss(y_pred, self.given, X=self.inputs, training=True)
        gradients = torch.autograd.grad(loss, self.learned)
        return loss.detach(), tuple(found.detach() for found in y_pred), gradients

    def play(self, batch):
        """What skorch's ``train_step_single`` does and returns."""
        inputs, given = batch
        for name, values in inputs.items():
            self.inputs[name].copy_(values)
        self.given.copy_(given)
        if self.net.em_.labels is not self.known:
            self.known = self.net.em_.labels
            self.labels.copy_(self.known)
            self.n_trials = max(self.n_trials, _TRIALS_AGAIN)
        self.graph.replay()
        loss, y_pred, gradients = self.loss.clone(), self.y_pred, self.gradients
        if self.n_trials:
            self.n_trials -= 1
            loss, y_pred, gradients = self._compared(loss, y_pred, gradients)
        for parameter, gradient in zip(self.learned, gradients, strict=True):
            parameter.grad = gradient
        return {"loss": loss, "y_pred": y_pred}

    def _compared(self, *found):
        """What was found, or what should have been; then nothing is played again."""
        expected = self._run()
        pairs = zip((found[0], *found[2]), (expected[0], *expected[2]), strict=True)
        if all(_is_close(*pair) for pair in pairs):
            return found
        logger.warning(
            "SGD iterations recorded as a CUDA graph give other results than the same "
            "operations one by one: they are not recorded."
        )
        self.net.em_.recorded = False
        return expected


def _is_close(found, expected):
    largest = expected.abs().max()
    return bool((found - expected).abs().max() <= _TOLERANCE * largest)


def recorded_step(net, batch):
    """The step of a whole batch, or None where it cannot be recorded.

    Recorded at the first of them, and kept in the net's state as long as it trains.
    """
    state = net.em_
    if len(batch[1]) != net.batch_size:  # the last of an epoch
        return None
    if state.recorded is None:
        state.recorded = can_record(net) and _recorded(net, batch)
    return state.recorded or None


def _recorded(net, batch):
    try:
        return RecordedStep(net, batch)
    except RuntimeError as error:  # whatever CUDA raises: one by one does as well
        logger.info("SGD iterations are not recorded: %s", error)
        return False
