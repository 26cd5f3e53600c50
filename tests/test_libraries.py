"""A sample of the sweep over other libraries: what is chosen in their models is proven."""

import pytest

from libraries import cases, examine

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
