"""Modules that run several times: one run is a layer, or all runs together are."""

import copy
import functools
import itertools
import pickle
import re

import pytest
import torch
import torch._dynamo
from torch import nn
from torch.utils.checkpoint import checkpoint

from manifold_mixup import ManifoldMixup, MixPlan, find_layers
from manifold_mixup._layers import unwrap
from shared import ROWS, SHARED, Fused, Looped, Siamese, Unrolled

pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.usefixtures("fresh_compiler"),
]

PERM = torch.tensor([3, 5, 1, 0, 2, 4])
LAMS = {"one λ": torch.tensor(0.3), "λ per example": torch.linspace(0.1, 0.9, ROWS)}
CASES = [(kind, layer) for kind in SHARED for layer in kind.layers]
THOROUGH = pytest.mark.thorough
# One run among several, the last one, all of them, and one that carries other states.
SOME = [(Looped, "block@1"), (Fused, "encoder@*"), (Siamese, "encoder.0@*"), (Unrolled, "cell@2")]


def cases(every, quick):
    """Return all cases, of which those that are not quick repeat others."""
    return [pytest.param(*one, marks=() if one in quick else THOROUGH) for one in every]


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def compare(kind, layer, lam="one λ", *, run=None, built=None):
    """Compare output and gradients under a plan with those of the pass by hand."""
    oracle = kind()
    model, args = kind() if built is None else built, oracle.example()
    plan = MixPlan(layer, LAMS[lam], PERM)
    expected = oracle.by_hand(plan, *args)
    weights = torch.linspace(1, 2, expected.numel()).sin().view_as(expected)
    (expected * weights).sum().backward()
    mixup = ManifoldMixup(model, [layer], example=args)
    for _ in range(2):  # compiled code is traced in the first pass only
        model.zero_grad()
        with mixup.using(plan):
            output = (run or model)(*args)
            mixup.target(None, output)
            (output * weights).sum().backward()
        torch.testing.assert_close(output, expected)
        torch.testing.assert_close(gradients(unwrap(model)), gradients(oracle))


@pytest.mark.parametrize(
    ("kind", "layer", "lam"),
    cases(
        [(*case, lam) for case in CASES for lam in LAMS],
        [*((*case, "one λ") for case in CASES), *((*case, "λ per example") for case in SOME)],
    ),
)
def test_outputs_and_gradients_are_those_of_the_pass_by_hand(kind, layer, lam):
    compare(kind, layer, lam)


@pytest.mark.parametrize("kind", SHARED)
def test_every_layer_is_a_cut_and_proven(kind):
    model, args = kind(), kind.example()
    rows = {row.name: row for row in find_layers(model, *args)}
    assert all(rows[layer].cut for layer in kind.layers)
    assert ManifoldMixup(model, kind.layers, example=args).verify(*args).ok


# In checkpoints, each of which recomputes one run, two or all


@pytest.mark.parametrize(
    ("together", "use_reentrant", "layer"),
    cases(
        itertools.product([1, 2, 4], [False, True], Looped.layers),
        [
            *((together, False, layer) for together in (1, 2, 4) for layer in Looped.layers[::2]),
            *((together, True, layer) for together in (1, 2, 4) for layer in Looped.layers[1::2]),
        ],
    ),
)
def test_a_recomputation_mixes_the_same_run(together, use_reentrant, layer):
    made = functools.partial(Looped, together, use_reentrant)
    compare(made, layer)


@pytest.mark.parametrize("layer", Looped.layers)
def test_a_recomputation_of_the_whole_model_mixes_the_same_run(layer):
    model = Looped()
    compare(Looped, layer, built=model, run=lambda x: checkpoint(model, x, use_reentrant=False))


def test_in_nested_checkpoints_runs_cannot_be_told_apart():
    model = Looped(1)
    with ManifoldMixup(model, ["block@1"], example=Looped.example()) as mixup:
        with pytest.raises(RuntimeError, match="in nested checkpoints it cannot be told"):
            checkpoint(model, *Looped.example(), use_reentrant=False)
        mixup.target(None, model(*Looped.example()))  # the model still trains


# Compiled


@pytest.mark.parametrize(("kind", "layer"), cases(CASES, SOME))
def test_compiled_code_mixes_the_same_run(kind, layer):
    compiled = torch.compile(kind(), backend="aot_eager", fullgraph=True)
    compare(kind, layer, built=compiled)


@pytest.mark.parametrize(
    ("layer", "together"),
    cases(
        itertools.product(("block@0", "block@2", "block@3"), (1, 2, 4)),
        [("block@2", 1), ("block@3", 2), ("block@0", 4)],
    ),
)
def test_a_compiled_recomputation_mixes_the_same_run(together, layer):
    made = functools.partial(Looped, together)
    compare(made, layer, built=torch.compile(made(), backend="aot_eager", fullgraph=True))


@pytest.mark.parametrize("layer", cases([(run,) for run in Looped.layers], [("block@2",)]))
def test_a_compiled_block_mixes_the_same_run(layer):
    model = Looped()
    model.block.compile(backend="aot_eager")
    compare(Looped, layer, built=model)


@pytest.mark.parametrize("layer", [pytest.param("block@1", marks=THOROUGH), "block@2"])
def test_graph_breaks_between_runs_change_nothing(layer):
    class Halves(Looped):
        def several(self, x):
            for run in range(4):
                if run == 2:
                    torch._dynamo.graph_break()
                x = self.block(x.sin()).cos()
            return x

    compare(Looped, layer, built=torch.compile(Halves(), backend="aot_eager"))


def test_runs_in_several_graphs_with_checkpoints_are_an_error():
    class Halves(Looped):
        def forward(self, x):
            x = checkpoint(self.several, self.stem(x), use_reentrant=False)
            torch._dynamo.graph_break()
            return self.head(checkpoint(self.several, x, use_reentrant=False))

    model = torch.compile(Halves(2), backend="eager")
    mixup = ManifoldMixup(model, ["block@1"], example=Looped.example())
    with pytest.raises(RuntimeError, match="compiled graph contains 2"):
        mixup.target(None, model(*Looped.example()))


def test_compiled_runs_need_a_check():
    model = torch.compile(Looped(), backend="eager", fullgraph=True)
    ManifoldMixup(model, ["block@1"], check=False)
    with pytest.raises(RuntimeError, match="number of runs is not known"):
        model(*Looped.example())


# Names


@pytest.mark.parametrize(
    ("kind", "given", "layers"),
    [
        (Looped, "block@2", ("block@2",)),
        (Looped, ["block@3", "block@1"], ("block@1", "block@3")),
        (Looped, "block@*", Looped.layers),
        (Looped, "bl*@*", Looped.layers),
        (Siamese, "encoder@*", ("encoder@*",)),
        (Siamese, "encoder.*@*", ("encoder.0@*", "encoder.1@*", "encoder.2@*")),
        (Unrolled, "cell@*", ("cell@0", "cell@1", "cell@2", "cell@3")),
    ],
)
def test_names_of_runs_resolve_to_what_can_be_mixed(kind, given, layers):
    mixup = ManifoldMixup(kind(), given, example=kind.example())
    assert mixup.layers == layers


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("block", "it ran 4 times in one forward pass. Name one, such as 'block@0', or 'block@*'"),
        (
            "block@4",
            "'block' ran 4 times in this forward pass, as 'block@0' to 'block@3', with outputs of "
            "shape (6, 8). Name one of them.",
        ),
        ("stem@0", "'stem' ran once in this forward pass. Name 'stem'"),
        ("stem@*", "'stem' ran once in this forward pass. Name 'stem'"),
    ],
)
def test_a_name_that_is_no_run_is_refused_with_the_way_out(name, reason):
    with pytest.raises(ValueError, match=re.escape(reason)):
        ManifoldMixup(Looped(), [name], example=Looped.example())
    model = Looped()
    if name != "stem@*":
        ManifoldMixup(model, [name])
        with pytest.raises(ValueError, match=re.escape(reason)):
            model(*Looped.example())


def test_every_run_needs_an_example():
    with pytest.raises(ValueError, match=r"Pass example=x, or name single runs, such as 'block@0'"):
        ManifoldMixup(Looped(), ["block@*"])


def test_a_module_named_like_a_run_is_told_apart():
    model = nn.Sequential()
    model.add_module("a@1", nn.Linear(4, 4))
    model.add_module("b", nn.Linear(4, 3))
    with pytest.raises(ValueError, match="'a@1' of Sequential cannot be told apart from a run"):
        ManifoldMixup(model, ["a@1"])
    model.add_module("c", nn.Linear(3, 2))
    assert find_layers(model, torch.ones(2, 4)).default == ("input", "b")


def test_a_module_that_runs_inside_itself_has_no_runs():
    class Tree(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.depth = nn.Linear(4, 4), 0

        def forward(self, x):
            self.depth += 1
            x = self.fc(x) if self.depth == 3 else self(x).sin()
            self.depth -= 1
            return x

    model = nn.Sequential(Tree(), nn.Linear(4, 3))
    rows = {row.name: row for row in find_layers(model, torch.ones(2, 4))}
    assert set(rows) == {"0.fc", "0", "1"}
    assert rows["0"].reason == (
        "it ran 3 times in one forward pass. Name a layer that contains all runs"
    )


# Rows


def test_a_row_says_which_run_it_is():
    rows = {row.name: row for row in find_layers(Looped(), *Looped.example())}
    assert [(rows[name].run, rows[name].runs) for name in Looped.layers] == [
        (0, 4),
        (1, 4),
        (2, 4),
        (3, 4),
    ]
    assert (rows["block"].run, rows["block"].runs, rows["block"].cut) == (None, 4, False)
    assert (rows["stem"].run, rows["stem"].runs) == (None, 1)
    depths = [rows[name].depth for name in Looped.layers]
    assert depths == pytest.approx([(32 + 64 * n) / (32 + 4 * 64 + 24) for n in range(1, 5)])


def test_the_depth_of_all_runs_is_the_work_before_any_of_them():
    rows = {row.name: row for row in find_layers(Siamese(), *Siamese.example())}
    assert rows["encoder.0@*"].depth == pytest.approx(2 * 32 / (2 * 96 + 24))
    assert rows["encoder@*"].depth == pytest.approx(2 * 96 / (2 * 96 + 24))


def test_runs_are_chosen_automatically():
    assert find_layers(Looped(), *Looped.example()).default == ("input", "block@0", "block@1")
    assert find_layers(Siamese(), *Siamese.example()).default == ("encoder.1@*", "encoder.2@*")


def test_blocks_that_run_once_are_chosen_before_runs_at_an_outer_level():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.positions = nn.Linear(8, 8)
            self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

        def forward(self, x):
            for block in self.blocks:
                x = block(self.positions(x).tanh())
            return x

    table = find_layers(Positions(), torch.ones(2, 8))
    assert {"positions@0", "positions@1"} <= {row.name for row in table.cuts}
    assert table.default == ("input", "blocks.0", "blocks.1")


def test_a_long_loop_lists_its_runs_only_if_one_is_named():
    class Long(Unrolled):
        def forward(self, x):
            return super().forward(x.repeat(1, 5, 1))

    model, (x,) = Long(), Unrolled.example()
    names = [row.name for row in find_layers(model, x)]
    assert names == ["embed@*", "embed", "cell", "head"]
    mixup = ManifoldMixup(model, ["cell@7"], example=x)
    assert mixup.verify(x).ok


def test_outputs_that_the_model_returns_of_every_run_refuse_a_single_one():
    class Tagger(Unrolled):
        def forward(self, x):
            states, state = [], x.new_zeros(len(x), 6)
            for step in x.unbind(1):
                state = self.cell(self.embed(step), state)
                states.append(self.head(state))
            return torch.stack(states, 1)

    rows = {row.name: row for row in find_layers(Tagger(), *Unrolled.example())}
    assert not rows["cell@1"].cut
    assert rows["embed@*"].cut
    assert rows["head@*"].cut
    # The state of a run was computed from that of the run before, so it would be mixed twice.
    assert "cell@*" not in rows


# Other numbers of runs than when the model was checked


class Varied(Looped):
    """A loop whose length the caller sets."""

    length = 4

    def several(self, x):
        for _ in range(self.length):
            x = self.block(x.sin()).cos()
        return x


def test_a_run_that_does_not_happen_is_skipped():
    model, (x,) = Varied(), Looped.example()
    mixup = ManifoldMixup(model, ["block@3"], example=x)
    model.length = 2
    output = model(x)
    assert (mixup.plan, mixup.skipped) == (None, 1)
    mixup.remove()
    torch.testing.assert_close(output, model(x))


def test_all_runs_together_must_be_as_many_as_were_checked():
    class More(Siamese):
        def forward(self, *inputs):
            return self.head(sum(self.encoder(x).abs() for x in inputs))

    model, (x, y) = More(), Siamese.example()
    ManifoldMixup(model, ["encoder@*"], example=(x, y))
    with pytest.raises(RuntimeError, match=r"'encoder' ran 3 times .* but 2 times when"):
        model(x, y, x)


def test_without_a_check_a_run_is_found_by_its_number():
    model, oracle, args = Looped(), Looped(), Looped.example()
    mixup = ManifoldMixup(model, ["block@2"], check=False, seed=0)
    output = model(*args)
    mixup.target(None, output)
    torch.testing.assert_close(output, oracle.by_hand(mixup.plan, *args))


def test_a_copied_and_a_pickled_model_has_no_hooks_left():
    model = Looped()
    ManifoldMixup(model, ["block@2"], example=Looped.example())
    (x,) = Looped.example()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(other(x), Looped()(x))
