"""Progress: printed only where asked for, with the time left, and logged."""

import logging

import numpy as np
import pytest

from skvibe import OffManifoldFilter, _progress
from skvibe._progress import Progress, tell
from skvibe.communities import find_communities
from skvibe.knn import find_neighbors, neighbor_edges


class Clock:
    """A clock that the test sets."""

    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(_progress, "time", clock)
    return clock


def test_time_left_follows_from_the_share_done(clock, capsys):
    progress = Progress("job", 4, enabled=True)
    clock.now += 10
    progress.update(1, loss=0.25)
    assert capsys.readouterr().out == "[job] 1/4  loss=0.25  30 s left  (10.0 s)\n"


def test_unknown_total_has_no_time_left(clock, capsys):
    progress = Progress("job", None, enabled=True)
    clock.now += 10
    progress.update(3)
    assert capsys.readouterr().out == "[job] 3  (10.0 s)\n"


def test_lines_come_no_oftener_than_asked_for(clock, capsys):
    progress = Progress("job", 10, enabled=True, every=2.0)
    for done in range(1, 11):
        clock.now += 0.5
        progress.update(done)
    told = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert told == ["4/10", "8/10", "10/10"]


def test_a_short_job_says_nothing(clock, capsys):
    progress = Progress("job", 2, enabled=True, every=2.0)
    progress.update(1)
    progress.update(2)
    assert capsys.readouterr().out == ""


def test_log_records_whether_printed_or_not(caplog, capsys):
    with caplog.at_level(logging.DEBUG, logger="skvibe"):
        Progress("job", 2).update(1)
        tell("job", "found it", enabled=False, level=logging.INFO)
    assert [record.levelname for record in caplog.records] == ["DEBUG", "INFO"]
    assert caplog.records[1].getMessage() == "[job] found it"
    assert capsys.readouterr().out == ""


def test_quiet_and_silent_by_default(capsys, caplog):
    X = np.random.default_rng(0).normal(size=(150, 4))
    OffManifoldFilter(random_state=0).fit(X, np.arange(150) % 3)
    assert capsys.readouterr() == ("", "")
    assert [record for record in caplog.records if record.levelno > 20] == []


def test_every_long_stage_of_the_filter_tells(monkeypatch, capsys):
    monkeypatch.setattr("skvibe.knn.Progress", eager)
    monkeypatch.setattr("skvibe.communities.Progress", eager)
    X = np.random.default_rng(0).normal(size=(150, 4))
    neighbors = find_neighbors(X, 10, verbose=1)
    find_communities(neighbor_edges(neighbors), 150, 3, random_state=0, verbose=1)
    told = capsys.readouterr().out
    assert "[neighbours] 150/150" in told
    assert "[Leiden, runs] 1  resolution=1  communities=" in told


def eager(*args, every, **kwargs):
    """Progress without waiting."""
    return Progress(*args, **kwargs)


def test_verbose_does_not_change_the_graph():
    X = np.random.default_rng(0).normal(size=(300, 4))
    np.testing.assert_array_equal(
        find_neighbors(X, 5), find_neighbors(X, 5, verbose=1, n_jobs=2)
    )
