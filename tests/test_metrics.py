import numpy as np
import pytest

from skvibe.metrics import attack_success_rate, wanted_labels


def test_rows_of_the_target_class_do_not_count():
    assert attack_success_rate([0, 0, 1, 2], [0, 0, 0, 2], target=0) == 0.5


def test_one_target_for_each_row():
    assert attack_success_rate([0, 1, 1], [1, 2, 1], target=[1, 2, 0]) == 2 / 3


def test_all_to_all_wants_the_next_class():
    np.testing.assert_array_equal(wanted_labels([2, 0, 1], "all"), [0, 1, 2])
    wanted = wanted_labels(["b", "a"], "all", labels=["a", "b", "c"])
    assert wanted.tolist() == ["c", "b"]


def test_a_target_of_another_label_type_is_not_cut():
    assert wanted_labels(["a", "b"], "longer").tolist() == ["longer"] * 2


def test_nothing_to_attack_is_an_error():
    with pytest.raises(ValueError, match="target"):
        attack_success_rate([1, 1], [1, 0], target=1)


def test_lengths_and_unknown_labels_are_errors():
    with pytest.raises(ValueError, match="inconsistent"):
        attack_success_rate([1, 2], [1], target=0)
    with pytest.raises(ValueError, match="one label for each row"):
        attack_success_rate([1, 2], [1, 0], target=[0, 1, 2])
    with pytest.raises(ValueError, match="labels"):
        wanted_labels([1, 5], "all", labels=[0, 1])
