"""Results are equal if their numbers are, also those that were not computed."""

import pickle
from dataclasses import replace

import pytest

from manifold_mixup.lab.evaluate import Reliability, Scores
from manifold_mixup.lab.runs.result import Epoch, Result

BINS = Reliability((1, 0), (0.25, 0.0), (1.0, 0.0))


def scores():
    return Scores(1.5, float("nan"), 2.0, 3.0, BINS, brier=float("nan"))


def epoch():
    return Epoch(1, 0.5, float("nan"), float("nan"))


@pytest.mark.parametrize("make", [scores, epoch])
def test_numbers_that_were_not_computed_are_equal(make):
    assert make() == make() == pickle.loads(pickle.dumps(make()))
    assert hash(make()) == hash(make())
    assert make() != replace(make(), nll=1.0)


def test_so_are_results(plain):
    def result():
        return Result(plain, 1.0, (epoch(),), scores(), scores(), 1, "a")

    assert result() == result() == pickle.loads(pickle.dumps(result()))
    assert result() != replace(result(), curve=(replace(epoch(), error=2.0),))


def test_values_of_another_kind_are_not():
    assert scores() != epoch()
    assert epoch() != (1, 0.5, float("nan"), float("nan"))
