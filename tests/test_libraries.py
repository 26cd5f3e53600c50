"""A sample of the sweep over other libraries: what is chosen in their models is proven."""

import re

import pytest

from libraries import SECOND, TABLE, at_sensible_depth, cases, examine
from sweep.impossible import IMPOSSIBLE

SAMPLE = ["transformers/albert, padded", "transformers/hubert"]
MORE = [
    "transformers/bert, padded",
    "transformers/gpt2, padded left",
    "transformers/llama, padded",
    "transformers/informer",
    "torchvision/lraspp_mobilenet_v3_large",
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [*SAMPLE, *(pytest.param(name, marks=pytest.mark.thorough) for name in MORE)]
)
@pytest.mark.filterwarnings("ignore")
def test_the_layers_that_are_chosen_are_proven(name):
    (build,) = [build for found, build in cases([]) if found == name]
    result = examine(name, build)
    assert result.good, result
    agreeing, tried = result.agree.split("/")
    assert agreeing == tried, result


def test_the_committed_table_reaches_nine_models_of_ten_and_explains_the_others():
    first, _, second = TABLE.read_text().partition(SECOND)
    rows = [line for line in first.splitlines() if line.startswith("| ")][2:]
    without = [line.split(" | ") for line in second.splitlines() if line.startswith("| ")][2:]
    good = [row for row in rows if " | proven | " in row and at_sensible_depth(row)]
    assert f"In {len(good)} of\nthem" in first
    assert len(good) >= 0.9 * len(rows) > 180
    names = {row.split(" | ")[0][2:] for row in set(rows) - set(good)}
    assert {cells[0][2:] for cells in without} == names == set(IMPOSSIBLE)
    for _, tensor, where, by_hand, why in without:
        assert tensor
        assert re.fullmatch(r"`[\w.]+`:\d+: `.+`", where)
        assert "failed" in by_hand or "inconclusive" in by_hand or by_hand == "cannot be tried"
        assert why
