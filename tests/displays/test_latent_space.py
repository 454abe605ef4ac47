import io

import numpy as np
import pytest

from skvibe.displays import LatentSpaceDisplay


def test_prototypes_and_suspects_are_drawn(fitted, assert_legible):
    display = LatentSpaceDisplay.from_estimator(fitted.vibe, fitted.X, fitted.y)
    assert display.prototypes.shape == display.corrupted_prototypes.shape == (3, 2)
    assert np.array_equal(display.suspect, fitted.y != fitted.true)
    legend = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert legend == [
        "a",
        "b",
        "c",
        "suspect row",
        "clean prototype",
        "corrupted prototype",
    ]
    assert_legible(display)


def test_prototypes_lie_among_the_rows_of_their_class(fitted):
    display = LatentSpaceDisplay.from_estimator(fitted.vibe, fitted.X, fitted.y)
    means = np.array(
        [
            display.coordinates[(fitted.true == label) & ~display.suspect].mean(axis=0)
            for label in "abc"
        ]
    )
    apart = np.linalg.norm(display.prototypes[:, None] - means, axis=2)
    assert apart.argmin(axis=1).tolist() == [0, 1, 2]
    reach = np.linalg.norm(display.coordinates, axis=1).max()
    assert np.linalg.norm(display.prototypes, axis=1).max() <= reach


def test_given_coordinates(fitted):
    display = LatentSpaceDisplay.from_estimator(
        fitted.vibe, fitted.X, fitted.y, projection=fitted.X[:, :2]
    )
    assert np.array_equal(display.coordinates, fitted.X[:, :2])


def test_a_part_of_many_rows_is_drawn_and_said(assert_legible):
    rng = np.random.default_rng(0)
    points, y = rng.normal(size=(50_000, 2)), rng.integers(0, 12, 50_000)
    display = LatentSpaceDisplay.from_predictions(
        points, y, poison_scores=rng.random(50_000) ** 8, max_points=2000
    )
    assert len(display.coordinates) == 2000
    said = [text.get_text() for text in display.ax_.texts]
    assert "2,000 of 50,000 rows drawn, random_state=0" in said
    assert_legible(display)
    buffer = io.BytesIO()
    display.figure_.savefig(buffer, format="svg")
    assert buffer.tell() < 1_000_000


@pytest.mark.parametrize("n_classes", [2, 20, 100])
def test_many_classes_with_long_names(n_classes, assert_legible):
    rng = np.random.default_rng(0)
    names = np.array([f"a long name of a class {i:03}" for i in range(n_classes)])
    centres = rng.normal(size=(n_classes, 2))
    display = LatentSpaceDisplay.from_predictions(
        centres, names, prototypes=centres, corrupted_prototypes=centres + 0.1
    )
    assert_legible(display)


def test_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(n_samples, 2\)"):
        LatentSpaceDisplay.from_predictions(np.zeros((3, 3)), [0, 1, 2])
