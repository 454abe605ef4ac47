"""Recalibrated statistics are those of the data; nothing else changes."""

import torch

from skvibe.encoders import recalibrate_batch_norm


def test_statistics_are_averages_over_the_batches():
    torch.manual_seed(0)
    X = 3 + 2 * torch.randn(400, 5)
    norm = torch.nn.BatchNorm1d(5)
    norm(torch.randn(50, 5))  # statistics of something else
    recalibrate_batch_norm(norm, X.split(100))
    torch.testing.assert_close(norm.running_mean, X.mean(0))
    torch.testing.assert_close(norm.running_var, X.var(0), rtol=0.02, atol=0)


def test_modes_momenta_and_weights_stay():
    module = torch.nn.Sequential(
        torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.5)
    )
    module[1].momentum = 0.3
    module.train()
    module[1].eval()
    before = [weight.clone() for weight in module.parameters()]
    state = torch.get_rng_state()
    assert recalibrate_batch_norm(module, [torch.randn(8, 4)]) is module
    assert module.training
    assert not module[1].training
    assert module[1].momentum == 0.3
    for weight, old in zip(module.parameters(), before, strict=True):
        assert torch.equal(weight, old)
    assert not torch.equal(torch.get_rng_state(), state)  # torch.randn above only


def test_dropout_is_off_meanwhile():
    module = torch.nn.Sequential(torch.nn.Dropout(0.9), torch.nn.BatchNorm1d(2))
    recalibrate_batch_norm(module, [torch.tensor([[1.0, 2.0], [3.0, 4.0]])])
    torch.testing.assert_close(module[1].running_mean, torch.tensor([2.0, 3.0]))


def test_modules_without_batch_norm_are_not_run():
    class Refuses(torch.nn.Module):
        def forward(self, X):
            raise AssertionError

    recalibrate_batch_norm(Refuses(), [torch.zeros(2, 2)])
