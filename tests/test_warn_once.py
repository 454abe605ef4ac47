import warnings

import pytest

from skvibe._warn_once import warn_once


def given(n, text):
    for _ in range(n):
        warn_once(text)


def test_the_default_filter_gives_a_text_once_even_if_filters_change():
    shown = []
    with warnings.catch_warnings():
        warnings.resetwarnings()
        warnings.showwarning = lambda message, *_: shown.append(str(message))
        for text in ("first of these", "second", "first of these"):
            with warnings.catch_warnings():
                warnings.simplefilter("default")
            given(2, text)
    assert shown == ["first of these", "second"]


def test_always_and_error_are_obeyed():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        given(3, "third")
    assert len(caught) == 3
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="third"):
            warn_once("third")
        warnings.filterwarnings("ignore", message="thi")
        warn_once("third")
