import numpy as np
import pytest

from skvibe.attacks import AdaptiveBlend, AdaptivePatch
from skvibe.attacks.adaptive import draw_tiles
from skvibe.attacks.patch import paste

X = np.random.default_rng(0).uniform(0.3, 0.7, size=(200, 16, 20, 3))
Y = np.arange(200) % 4


def test_each_row_gets_one_faint_patch_in_equal_shares():
    attack = AdaptivePatch(rate=0.08, cover_rate=0.12, random_state=0)
    data = attack.poison(X, Y)
    for mask in (data.mask, data.cover_mask):
        counts = np.zeros(4, dtype=int)
        for row in np.flatnonzero(mask):
            match = [
                np.allclose(
                    data.X[row],
                    paste(X[[row]], attack.patterns_[i], attack.corners_[i], alpha=a)[
                        0
                    ],
                )
                for i, a in enumerate((0.5, 0.2, 0.5, 0.3))
            ]
            assert sum(match) == 1
            counts += match
        assert (counts == mask.sum() // 4).all()


def test_cover_keeps_its_label_and_is_not_poison():
    for attack in (AdaptivePatch, AdaptiveBlend):
        data = attack(rate=0.05, cover_rate=0.1, random_state=0).poison(X, Y)
        assert (data.mask.sum(), data.cover_mask.sum()) == (10, 20)
        np.testing.assert_array_equal(data.y[data.cover_mask], Y[data.cover_mask])


def test_test_time_patches_are_opaque():
    attack = AdaptivePatch(random_state=0)
    attack.poison(X, Y)
    size = attack.patterns_.shape[1]
    triggered = attack.trigger(X)
    assert np.allclose(triggered[:, :size, :size], attack.patterns_[0])
    assert np.allclose(triggered[:, -size:, :size], attack.patterns_[2])
    np.testing.assert_array_equal(triggered[:, :, size:], X[:, :, size:])


def test_half_of_the_tiles_and_others_for_each_row():
    kept = draw_tiles(50, (16, 20), np.random.RandomState(0))
    np.testing.assert_array_equal(kept.sum(axis=(1, 2)), 160)
    assert len(np.unique(kept.reshape(50, -1), axis=0)) > 40
    tiles = kept.reshape(50, 4, 4, 4, 5)
    assert (tiles.all(axis=(2, 4)) | ~tiles.any(axis=(2, 4))).all()


def test_blend_is_weaker_in_training():
    attack = AdaptiveBlend(rate=0.05, random_state=0)
    data = attack.poison(X, Y)
    in_training = np.abs(data.X[data.mask] - X[data.mask])
    at_test = np.abs(attack.trigger(X[data.mask]) - X[data.mask])
    touched = in_training > 0
    np.testing.assert_allclose(in_training[touched] / at_test[touched], 0.75)


@pytest.mark.parametrize(
    ("attack", "name"),
    [
        (AdaptivePatch(size=9), "size"),
        (AdaptivePatch(cover_rate=1.0), "cover_rate"),
        (AdaptiveBlend(alpha=2), "alpha"),
        (AdaptiveBlend(alpha_test=-1), "alpha_test"),
        (AdaptiveBlend(pattern="kitty"), "pattern"),
    ],
)
def test_bad_parameters_are_named(attack, name):
    with pytest.raises(ValueError, match=name):
        attack.poison(X, Y)
