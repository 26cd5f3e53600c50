"""Large parameters of the proof lie in little memory, and change no verdict."""

import ctypes
from itertools import permutations

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from architectures import mixed_by
from manifold_mixup import ManifoldMixup, find_layers
from manifold_mixup._dry_run.errors import NotTraceable
from manifold_mixup._dry_run.stage import Stage
from manifold_mixup._proof import prepare as prepare_module
from manifold_mixup._proof.factors import Products
from manifold_mixup._proof.gradients import backward
from manifold_mixup._proof.partners import single_pass_partners
from manifold_mixup._proof.prove import prove
from manifold_mixup._proof.redraw import redraw_parameters
from manifold_mixup._proof.thin import LARGE, drop_gradients, large_parameters, pool_of, thin
from manifold_mixup._proof.unmixed import Unmixed
from manifold_mixup._tree import tensors_in
from states import normal

aten = torch.ops.aten
WIDTH = 256


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(8, WIDTH)
        self.branch = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).relu()
        return self.head(h + self.branch(h))


@pytest.fixture
def benches(monkeypatch):
    """Record, for each attempt, whether parameters were thin and how many bytes are used."""
    seen: list[tuple[bool, int]] = []
    calibrate = Unmixed.calibrate

    def recorded(unmixed: Unmixed, *layer: str) -> None:
        stage: Stage = unmixed.bench.stage
        pools = map(pool_of, stage.stand_ins.values())
        memory = {
            made.data_ptr(): made.nbytes if pool is None else pool.nbytes
            for made, pool in zip(stage.stand_ins.values(), pools, strict=True)
        }
        seen.append((unmixed.bench.thin, sum(memory.values())))
        calibrate(unmixed, *layer)

    monkeypatch.setattr(Unmixed, "calibrate", recorded)
    return seen


def prove_one(model: nn.Module, layer: str, x: Tensor):
    return prove(model, [layer], (x,), {}, mixed_by(find_layers(model, x))).layers[0]


def test_the_proof_takes_a_fraction_of_the_memory_of_the_parameters(benches):
    model = Wide()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    proof = prove_one(model, "stem", normal(6, 8))
    assert proof.verdict == "proven"
    assert proof.error <= 1e-12 < 0.01 < proof.difference
    ((was_thin, memory),) = benches
    assert was_thin
    assert memory < sum(p.nbytes for p in model.parameters()) / 8
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_layer_fails_only_with_parameters_that_are_not_thin(benches):
    assert prove_one(Wide(), "branch", normal(6, 8)).verdict == "failed"
    assert [was_thin for was_thin, _ in benches] == [True, False]


def test_what_was_proven_stays_proven_if_there_is_no_memory_for_the_rest(monkeypatch):
    made = prepare_module.copied

    def only_small(tensor: Tensor, dtype: torch.dtype) -> Tensor:
        if tensor.numel() >= WIDTH * WIDTH:
            raise NotTraceable("out of memory")
        return made(tensor, dtype)

    monkeypatch.setattr(prepare_module, "copied", only_small)
    model, x = Wide(), normal(6, 8)
    report = prove(model, ["stem", "branch"], (x,), {}, mixed_by(find_layers(model, x)))
    assert [proof.verdict for proof in report.layers] == ["proven", "skipped"]
    assert "out of memory" in report.layers[1].reason


def views_its_weight(model: Wide) -> None:
    stem = model.forward
    model.forward = lambda x: stem(x) + model.head.weight.view(-1)[0]


def writes_into_its_weight(model: Wide) -> None:
    def clip(module: nn.Module, _: object) -> None:
        with torch.no_grad():
            module.weight.clamp_(-1, 1)

    model.head.register_forward_pre_hook(clip)


def test_code_that_needs_a_contiguous_weight_gets_one(benches):
    model = Wide()
    views_its_weight(model)
    assert prove_one(model, "stem", normal(6, 8)).verdict == "proven"
    assert [was_thin for was_thin, _ in benches] == [True, False]


def test_code_may_write_into_its_weight():
    model = Wide()
    writes_into_its_weight(model)
    assert prove_one(model, "stem", normal(6, 8)).verdict == "proven"
    assert prove_one(model, "branch", normal(6, 8)).verdict == "failed"


def test_code_may_read_a_weight_by_its_address(benches):
    """The memory of all numbers is there."""
    model = Wide()
    plain = model.forward

    def forward(x: Tensor) -> Tensor:
        weight = model.head.weight
        assert len(ctypes.string_at(weight.data_ptr(), weight.nbytes)) == weight.nbytes
        return plain(x)

    run = mixed_by(find_layers(model, normal(6, 8)))
    model.forward = forward
    assert prove(model, ["stem"], (normal(6, 8),), {}, run).layers[0].verdict == "proven"
    assert [was_thin for was_thin, _ in benches] == [True]


class Own(nn.Linear):
    """Code of its own might give the pointer of its weight to a kernel."""


def test_only_large_parameters_of_pytorchs_own_layers_are_thin():
    model = nn.ModuleDict(
        {
            "linear": nn.Linear(WIDTH, WIDTH),
            "small": nn.Linear(8, 8),
            "embedding": nn.Embedding(1000, WIDTH),
            "map": nn.Conv2d(64, 64, 3),
            "own": Own(WIDTH, WIDTH),
            "tied": Own(WIDTH, WIDTH),
            "both": nn.Linear(WIDTH, WIDTH),
            "replaced": nn.Linear(WIDTH, WIDTH),
            "recurrent": nn.LSTM(WIDTH, WIDTH),
            "narrow": nn.Linear(1, 40_000),
            "empty": nn.Embedding(1000, 0),
            "attached": nn.Linear(WIDTH, WIDTH),
        }
    )
    model["both"].weight = model["tied"].weight
    model["replaced"].forward = lambda x: x
    with ManifoldMixup(model, ["attached"], check=False):
        large = large_parameters(model)
    names = {name for name, parameter in model.named_parameters() if id(parameter) in large}
    assert names == {"linear.weight", "embedding.weight", "map.weight", "attached.weight"}


@pytest.mark.parametrize("shape", [(WIDTH, WIDTH), (1000, 64), (64, 64, 3, 3), (64, 32, 3, 5, 5)])
def test_a_thin_parameter_has_few_numbers_at_the_scale_of_all(shape):
    parameter = nn.Parameter(torch.empty(shape))
    (weight,) = thin([parameter], torch.float64).values()
    model = nn.ParameterDict({"weight": weight})
    redraw_parameters(model)
    drawn, pool = model["weight"], pool_of(model["weight"])
    assert drawn.shape == shape
    assert drawn.dtype == torch.float64
    assert len(pool) < parameter.numel() / 4
    assert drawn.untyped_storage().nbytes() >= drawn.nbytes  # in case its address is read
    wanted = (2 / parameter[0].numel()) ** 0.5
    assert float(pool.std()) == pytest.approx(wanted, rel=0.25)
    rows = drawn.flatten(1)
    assert len(rows.unique(dim=0)) == len(rows)
    assert torch.equal(torch.linalg.matrix_rank(rows), torch.tensor(min(rows.shape)))


def test_a_gradient_is_dropped_as_soon_as_it_is_there():
    model = Wide()
    drop_gradients(model)
    model(normal(6, 8)).sum().backward()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_thin_parameters_lie_one_behind_the_other():
    shapes = [(300, 200), (64, 64, 3, 3), (500, 100)]
    given = [nn.Parameter(torch.empty(shape)) for shape in shapes]
    model = nn.ParameterList(thin(given, torch.float32).values())
    redraw_parameters(model)
    pools = [pool_of(parameter) for parameter in model]
    ends = [pool.data_ptr() + pool.nbytes for pool in pools]
    assert ends[:-1] == [pool.data_ptr() for pool in pools[1:]]
    memory = model[0].untyped_storage()
    assert model[2].data_ptr() + model[2].nbytes <= memory.data_ptr() + memory.nbytes()
    assert memory.nbytes() <= sum(pool.nbytes for pool in pools) + max(p.nbytes for p in given)


# Products by factors


def drawn(*shape: int) -> Tensor:
    model = nn.ParameterList(thin([nn.Parameter(torch.empty(shape))], torch.float64).values())
    redraw_parameters(model)
    return model[0]


@pytest.mark.parametrize(
    "shape", [(384, 384), (1536, 384), (384, 1536), (1000, 784), (300, 308), (1000, 64)]
)
def test_a_product_by_factors_is_that_with_the_matrix(shape):
    weight = drawn(*shape)
    by_factors = Products([weight])
    x, gradient, bias = normal(9, shape[1]), normal(9, shape[0]), normal(shape[0])
    x, gradient, bias = x.double(), gradient.double(), bias.double()
    close = {"rtol": 0, "atol": 1e-12}
    with torch.no_grad():
        made = by_factors(aten.addmm.default, (bias, x, weight.t()), {})
        torch.testing.assert_close(made, bias + x @ weight.clone().t(), **close)
        made = by_factors(aten.mm.default, (x, weight.t()), {})
        torch.testing.assert_close(made, x @ weight.clone().t(), **close)
        made = by_factors(aten.mm.default, (gradient, weight), {})  # as in backward
        torch.testing.assert_close(made, gradient @ weight.clone(), **close)


def test_other_operators_and_numbers_that_were_written_are_left_to_the_tensor():
    weight = drawn(WIDTH, WIDTH)
    by_factors, x = Products([weight]), normal(3, WIDTH).double()
    call = (x, weight.detach().t())
    assert by_factors(aten.mm.default, call, {}) is not NotImplemented
    assert by_factors(aten.matmul.default, call, {}) is NotImplemented
    assert by_factors(aten.mm.default, (x, weight.detach()[1:].t()), {}) is NotImplemented
    assert by_factors(aten.addmm.default, (x, *call), {"alpha": 2}) is NotImplemented
    weight.data[3] += 1  # no version of the tensor tells
    assert by_factors(aten.mm.default, call, {}) is NotImplemented


# Gradients


def gradients_of(end: Tensor) -> set[int]:
    """Return the sizes of the tensors that a backward pass computes."""
    made: set[int] = set()

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if func is not aten.t.default:  # a view
                made.update(tensor.numel() for tensor in tensors_in(result))
            return result

    with Sizes():
        backward([end.sum()], [torch.ones((), dtype=end.dtype)])
    return made


class Tokens(nn.Module):
    """A thin embedding, which has no bias, and thin layers with one and without."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(1000, WIDTH)
        self.first = nn.Linear(WIDTH, WIDTH, bias=False)
        self.second = nn.Linear(WIDTH, 2 * WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        return self.second(self.first(self.embed(ids)).tanh())


def thinned(model: nn.Module) -> nn.Module:
    large = [p for p in model.parameters() if p.numel() >= LARGE]
    by_id = thin(large, torch.float64)
    for module in model.modules():
        for name, parameter in module._parameters.items():
            module._parameters[name] = by_id.get(id(parameter), parameter)
    model.double()
    redraw_parameters(model)
    return model


def test_no_gradient_of_a_thin_parameter_is_computed_and_all_before_it_is():
    model, reached = thinned(Tokens()), []
    for layer in (model.embed, model.first, model.second):
        layer.register_forward_hook(lambda _, __, out: out.register_hook(reached.append) and None)
    sizes = gradients_of(model(torch.arange(6)))
    assert len(reached) == 3
    assert max(sizes) <= 6 * 2 * WIDTH
    assert all(p.grad is None for p in model.parameters() if p.numel() >= LARGE)


def test_other_uses_of_a_thin_parameter_have_their_gradient():
    model, reached = thinned(Tokens()), []
    squared = model.second.weight.square()
    squared.register_hook(reached.append)
    backward([squared.sum()], [torch.ones((), dtype=torch.float64)])
    assert len(reached) == 1
    assert model.second.weight.grad is not None


def test_a_reentrant_checkpoint_runs_to_all_leaves():
    model = thinned(Tokens())
    h = model.embed(torch.arange(6))
    out = checkpoint(lambda h: model.second(model.first(h)), h, use_reentrant=True)
    backward([out.sum()], [torch.ones((), dtype=torch.float64)])
    assert model.second.bias.grad is not None


# Fewer passes


@pytest.mark.parametrize("count", [3, 4, 5])
def test_no_reordering_commutes_with_the_partners_and_nobody_is_its_own(count):
    partners = single_pass_partners(count, 0, 1)
    assert not partners.eq(torch.arange(count)).any()
    orders = map(torch.tensor, permutations(range(count)))
    commuting = [order for order in orders if torch.equal(order[partners], partners[order])]
    assert torch.equal(torch.stack(commuting), torch.arange(count)[None])


@pytest.mark.parametrize("order", [[1, 2, 3, 0], [3, 2, 1, 0], [2, 3, 0, 1], [0, 2, 1, 3]])
@pytest.mark.parametrize("layers", [["branch"], ["stem", "branch"]])
def test_a_batch_that_is_reordered_and_restored_is_found(order, layers, benches):
    class Reordered(Wide):
        def forward(self, x: Tensor) -> Tensor:
            order_ = torch.tensor(order)
            h = self.branch(self.stem(x).relu()[order_])
            return self.head(h)[order_.argsort()]

    model, x = Reordered(), normal(4, 8)
    report = prove(model, layers, (x,), {}, mixed_by(find_layers(Wide(), x)))
    verdicts = [proof.verdict for proof in report.layers]
    assert verdicts == ["proven", "failed"][-len(layers) :]
    assert [was_thin for was_thin, _ in benches] == [True, False]
