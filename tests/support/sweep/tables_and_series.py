"""Models of tables, fields, spikes, sound, molecules and series: many small libraries."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

Built = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


class Classifier(nn.Module):
    """A body, the mean of its states, and a head."""

    def __init__(self, body: nn.Module, width: int):
        super().__init__()
        self.body = body
        self.head = nn.Linear(width, 5)

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the logits."""
        states = self.body(*args, **kwargs)
        states = states[0] if isinstance(states, tuple) else states
        return self.head(states.mean(1))


# Tables: four numbers and two categories

NUMBERS = _random(4, 4)
CATEGORIES = torch.tensor([[0, 1], [2, 3], [1, 0], [2, 4]])
SIZES = [3, 5]
TABLE = torch.cat([NUMBERS, CATEGORIES], 1)
COLUMNS = {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4, "f": 5}

WIDEDEEP: list[tuple[str, dict[str, Any]]] = [
    ("TabMlp", {"cat_embed_input": [("e", 3, 4), ("f", 5, 4)], "mlp_hidden_dims": [32, 32, 16]}),
    ("TabResnet", {"cat_embed_input": [("e", 3, 4), ("f", 5, 4)], "blocks_dims": [32, 32, 32]}),
    ("SAINT", {"cat_embed_input": [("e", 3), ("f", 5)], "input_dim": 16, "n_heads": 2}),
    (
        "FTTransformer",
        {"cat_embed_input": [("e", 3), ("f", 5)], "input_dim": 16, "n_heads": 2, "n_blocks": 3},
    ),
    ("TabNet", {"cat_embed_input": [("e", 3, 4), ("f", 5, 4)], "ghost_bn": False}),
]


def _ft_transformer() -> Built:
    from rtdl_revisiting_models import FTTransformer

    model = FTTransformer(
        n_cont_features=4,
        cat_cardinalities=SIZES,
        d_out=5,
        n_blocks=3,
        d_block=32,
        attention_n_heads=4,
        attention_dropout=0.2,
        ffn_d_hidden=None,
        ffn_d_hidden_multiplier=1.5,
        ffn_dropout=0.1,
        residual_dropout=0.0,
    )
    return model, (NUMBERS, CATEGORIES), {}


def _tabm(with_categories: bool) -> Built:
    from tabm import TabM

    model = TabM.make(
        n_num_features=4,
        cat_cardinalities=SIZES if with_categories else None,
        d_out=5,
        k=4,
        n_blocks=3,
        d_block=32,
    )
    return model, (NUMBERS, CATEGORIES) if with_categories else (NUMBERS,), {}


def _tabnet(with_categories: bool, ghost: int) -> Built:
    from pytorch_tabnet.tab_network import TabNet

    table = TABLE if with_categories else NUMBERS
    model = TabNet(
        table.shape[1],
        5,
        cat_idxs=[4, 5] if with_categories else [],
        cat_dims=SIZES if with_categories else [],
        cat_emb_dim=[2, 2] if with_categories else [],
        virtual_batch_size=ghost,
        group_attention_matrix=torch.eye(table.shape[1]),
    )
    return model, (table,), {}


def _widedeep(name: str, configuration: dict[str, Any]) -> Built:
    from pytorch_widedeep import models

    body = getattr(models, name)(COLUMNS, continuous_cols=list("abcd"), **configuration)
    return models.WideDeep(deeptabular=body, pred_dim=5), ({"deeptabular": TABLE},), {}


def _deepfm() -> Built:
    from deepctr_torch.inputs import DenseFeat, SparseFeat
    from deepctr_torch.models import DeepFM

    columns = [
        *(DenseFeat(name, 1) for name in "abcd"),
        SparseFeat("e", 3, embedding_dim=4),
        SparseFeat("f", 5, embedding_dim=4),
    ]
    return DeepFM(columns, columns, dnn_hidden_units=(32, 32, 16), init_std=0.1), (TABLE,), {}


# Fields


def _fno() -> Built:
    from neuralop.models import FNO

    return (
        FNO((4, 4), in_channels=2, out_channels=1, hidden_channels=8),
        (_random(4, 2, 16, 16),),
        {},
    )


def _uno() -> Built:
    from neuralop.models import UNO

    model = UNO(
        in_channels=2,
        out_channels=1,
        hidden_channels=8,
        lifting_channels=16,
        projection_channels=16,
        n_layers=4,
        uno_out_channels=[8, 16, 16, 8],
        uno_n_modes=[[4, 4]] * 4,
        uno_scalings=[[1.0, 1.0], [0.5, 0.5], [1.0, 1.0], [2.0, 2.0]],
        channel_mlp_skip="linear",
    )
    return model, (_random(4, 2, 16, 16),), {}


class Derivative(nn.Module):
    """The right side of an ordinary differential equation."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 8))

    def forward(self, time: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """Return the derivative."""
        return self.layers(state)


class Solved(nn.Module):
    """An ordinary differential equation between two layers."""

    def __init__(self, solve: Callable[..., torch.Tensor]):
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.derivative = Derivative()
        self.head = nn.Linear(8, 5)
        self.solve = solve

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits at the last time."""
        times = torch.linspace(0, 1, 3)
        return self.head(self.solve(self.derivative, self.stem(x), times)[-1])


def _ode(solver: str, method: str) -> Built:
    import torchdiffeq

    solve = functools.partial(getattr(torchdiffeq, solver), method=method)
    return Solved(solve), (_random(4, 6),), {}


def _tensor_product() -> Built:
    from e3nn import o3
    from e3nn.nn import Gate

    class Equivariant(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = o3.Linear("4x0e+4x1o", "8x0e+4x0e+4x1o")
            self.gate = Gate("8x0e", [F.silu], "4x0e", [torch.sigmoid], "4x1o")
            self.product = o3.FullyConnectedTensorProduct("8x0e+4x1o", "8x0e+4x1o", "8x0e+4x1o")
            self.head = o3.Linear("8x0e+4x1o", "5x0e")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.gate(self.a(x))
            return self.head(self.product(x, x))

    return Equivariant(), (_random(4, 16),), {}


def _hyperbolic() -> Built:
    from hypll import nn as hyperbolic
    from hypll.manifolds.poincare_ball import Curvature, PoincareBall
    from hypll.tensors import TangentTensor

    class Hyperbolic(nn.Module):
        def __init__(self):
            super().__init__()
            self.ball = PoincareBall(Curvature())
            self.fc1 = hyperbolic.HLinear(6, 16, manifold=self.ball)
            self.relu = hyperbolic.HReLU(manifold=self.ball)
            self.fc2 = hyperbolic.HLinear(16, 5, manifold=self.ball)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.ball.expmap(TangentTensor(x, man_dim=1, manifold=self.ball))
            return self.fc2(self.relu(self.fc1(x))).tensor

    return Hyperbolic(), (0.3 * _random(4, 6),), {}


# Gaussian processes


def _features() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))


def _exact_process() -> Built:
    import gpytorch

    x, y = _random(4, 6), _random(4)

    class Process(gpytorch.models.ExactGP):
        def __init__(self):
            super().__init__(x, y, gpytorch.likelihoods.GaussianLikelihood())
            self.f = _features()
            self.mean = gpytorch.means.ConstantMean()
            self.covariance = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())

        def forward(self, x: torch.Tensor) -> Any:
            x = self.f(x)
            covariance = self.covariance(x)
            return gpytorch.distributions.MultivariateNormal(self.mean(x), covariance)

    return Process(), (x,), {}


def _variational_process(with_gpytorch: bool) -> Built:
    import gpytorch
    from gpytorch.variational import CholeskyVariationalDistribution, VariationalStrategy

    class Process(gpytorch.models.ApproximateGP):
        def __init__(self):
            distribution = CholeskyVariationalDistribution(6)
            super().__init__(VariationalStrategy(self, torch.randn(6, 2), distribution))
            self.mean = gpytorch.means.ConstantMean()
            self.covariance = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())

        def forward(self, x: torch.Tensor) -> Any:
            covariance = self.covariance(x)
            return gpytorch.distributions.MultivariateNormal(self.mean(x), covariance)

    class Deep(gpytorch.Module if with_gpytorch else nn.Module):
        def __init__(self):
            super().__init__()
            self.f = _features()
            self.process = Process()

        def forward(self, x: torch.Tensor) -> Any:
            return self.process(self.f(x)).mean

    return Deep(), (_random(4, 6),), {}


# Spikes


def _leaky() -> Built:
    import snntorch

    class Spiking(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Linear(6, 16)
            self.fc1, self.lif1 = nn.Linear(16, 16), snntorch.Leaky(0.9, threshold=0.2)
            self.fc2, self.lif2 = nn.Linear(16, 5), snntorch.Leaky(0.9, threshold=0.2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first, second = self.lif1.init_leaky(), self.lif2.init_leaky()
            current, potentials = self.stem(x), []
            for _ in range(5):
                spikes, first = self.lif1(self.fc1(current), first)
                _, second = self.lif2(self.fc2(spikes), second)
                potentials.append(second)
            return torch.stack(potentials).mean(0)

    return Spiking(), (2 * _random(4, 6),), {}


def _leaky_with_state() -> Built:
    import snntorch
    from snntorch import utils

    class Spiking(nn.Module):
        def __init__(self):
            super().__init__()
            usual = {"beta": 0.9, "threshold": 0.2, "init_hidden": True}
            self.net = nn.Sequential(
                nn.Linear(6, 16),
                snntorch.Leaky(**usual),
                nn.Linear(16, 5),
                snntorch.Leaky(**usual, output=True),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            utils.reset(self.net)
            return torch.stack([self.net(x)[1] for _ in range(5)]).mean(0)

    return Spiking(), (2 * _random(4, 6),), {}


def _leaky_in_time() -> Built:
    import snntorch

    class Spiking(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Linear(6, 16)
            self.lif, self.head = snntorch.Leaky(0.9, threshold=0.2), nn.Linear(16, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            state, spikes = self.lif.init_leaky(), []
            for current in self.stem(x):
                spike, state = self.lif(current, state)
                spikes.append(spike)
            return self.head(torch.stack(spikes))

    return Spiking(), (2 * _random(7, 4, 6),), {}


def _spiking_images(time_first: bool) -> Built:
    from spikingjelly.activation_based import functional, layer, neuron, surrogate

    usual = {"v_threshold": 0.2, "surrogate_function": surrogate.ATan()}

    class Spiking(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(
                layer.Conv2d(2, 8, 3, padding=1, bias=False),
                layer.BatchNorm2d(8),
                neuron.LIFNode(**usual),
                layer.MaxPool2d(2),
                layer.Conv2d(8, 8, 3, padding=1, bias=False),
                layer.BatchNorm2d(8),
                neuron.LIFNode(**usual),
                layer.Flatten(),
                layer.Linear(8 * 4 * 4, 5),
            )
            functional.set_step_mode(self.net, "m")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            functional.reset_net(self.net)
            if time_first:
                return self.net(x)
            return self.net(x.expand(7, *x.shape)).mean(0)

    return Spiking(), (_random(7, 4, 2, 8, 8) if time_first else _random(4, 2, 8, 8),), {}


def _norse() -> Built:
    from norse.torch import LIFCell, LIFParameters, SequentialState

    usual = LIFParameters(v_th=torch.tensor(0.1))

    class Spiking(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = SequentialState(
                nn.Linear(6, 16), LIFCell(usual), nn.Linear(16, 5), LIFCell(usual)
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            state, potentials = None, []
            for _ in range(8):
                _, state = self.net(x, state)
                potentials.append(state[-1].v)
            return torch.stack(potentials).mean(0)

    return Spiking(), (4 * _random(4, 6),), {}


# Sound

LENGTHS = torch.tensor([16, 9, 5, 12])


class Full(nn.Module):
    """Tells a body that all examples are equally long."""

    def __init__(self, body: nn.Module, *, rest: int = 0):
        super().__init__()
        self.body, self.rest = body, rest

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the states."""
        return self.body(x, torch.full((len(x),), x.shape[1] - self.rest))[0]


class Masked(nn.Module):
    """Computes the lengths that a body needs from a mask."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the states."""
        return self.body(x, mask.sum(1))[0]


MASK = (torch.arange(16) < LENGTHS[:, None]).long()


def _torchaudio_conformer(given: torch.Tensor | None) -> Built:
    from torchaudio.models import Conformer

    body = Conformer(16, num_heads=2, ffn_dim=32, num_layers=3, depthwise_conv_kernel_size=3)
    x = _random(4, 16, 16)
    if given is None:
        return Classifier(Full(body), 16), (x,), {}
    if given is MASK:
        return Classifier(Masked(body), 16), (), {"x": x, "mask": MASK}
    return Classifier(body, 16), (x, given), {}


def _torchaudio_emformer(memory: int) -> Built:
    from torchaudio.models import Emformer

    body = Emformer(16, 2, 32, 3, 4, right_context_length=2, max_memory_size=memory)
    return Classifier(Full(body, rest=2), 16), (_random(4, 18, 16),), {}


def _torchaudio_wav2vec2() -> Built:
    from torchaudio.models import wav2vec2_model

    model = wav2vec2_model(
        extractor_mode="layer_norm",
        extractor_conv_layer_config=[(16, 10, 5), (16, 3, 2)],
        extractor_conv_bias=False,
        encoder_embed_dim=32,
        encoder_projection_dropout=0.1,
        encoder_pos_conv_kernel=8,
        encoder_pos_conv_groups=2,
        encoder_num_layers=3,
        encoder_num_heads=2,
        encoder_attention_dropout=0.1,
        encoder_ff_interm_features=64,
        encoder_ff_interm_dropout=0.1,
        encoder_dropout=0.1,
        encoder_layer_norm_first=True,
        encoder_layer_drop=0.0,
        aux_num_out=5,
    )
    return model, (_random(4, 1600),), {}


def _ecapa(with_lengths: bool) -> Built:
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

    body = ECAPA_TDNN(
        16,
        channels=[32, 32, 32, 32, 96],
        attention_channels=16,
        se_channels=16,
        res2net_scale=4,
        lin_neurons=24,
    )
    lengths = {"lengths": LENGTHS / 16} if with_lengths else {}
    return Classifier(body, 24), (_random(4, 16, 16),), lengths


def _speechbrain_conformer() -> Built:
    from speechbrain.lobes.models.transformer.Conformer import ConformerEncoder
    from speechbrain.nnet.attention import RelPosEncXL

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.positions = RelPosEncXL(32)
            self.encoder = ConformerEncoder(3, d_model=32, d_ffn=64, nhead=2, kernel_size=3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.encoder(x, pos_embs=self.positions(x))[0]

    return Classifier(Encoder(), 32), (_random(4, 16, 32),), {}


# Graphs: four rings of three to six nodes

NODES = [3, 4, 6, 5]
BATCH = torch.arange(4).repeat_interleave(torch.tensor(NODES))


def _edges() -> torch.Tensor:
    first, edges = 0, []
    for count in NODES:
        ring = torch.arange(count)
        edges.append(first + torch.stack([ring, (ring + 1) % count]))
        first += count
    forward = torch.cat(edges, 1)
    return torch.cat([forward, forward.flip(0)], 1)


def _pooled_graphs(as_object: bool) -> Built:
    from torch_geometric.data import Batch, Data
    from torch_geometric.nn import GCN, global_mean_pool

    class Graphs(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = GCN(6, 16, num_layers=3), nn.Linear(16, 5)

        def forward(self, x: Any, edge_index: Any = None, batch: Any = None) -> torch.Tensor:
            if as_object:
                x, edge_index, batch = x.x, x.edge_index, x.batch
            return self.head(global_mean_pool(self.body(x, edge_index), batch))

    x, edges = _random(len(BATCH), 6), _edges()
    if not as_object:
        return Graphs(), (x, edges, BATCH), {}
    graphs = []
    for index in range(4):
        nodes = torch.nonzero(BATCH.eq(index))[:, 0]
        own = edges[:, BATCH[edges[0]].eq(index)] - nodes[0]
        graphs.append(Data(x=x[nodes], edge_index=own))
    return Graphs(), (Batch.from_data_list(graphs),), {}


def _pooled_by_a_module() -> Built:
    from torch_geometric.nn import GIN, SumAggregation

    class Graphs(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.pool = GIN(6, 16, num_layers=3, norm="batch_norm"), SumAggregation()
            self.head = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 5))

        def forward(
            self, x: torch.Tensor, edge_index: torch.Tensor, batch: torch.Tensor
        ) -> torch.Tensor:
            return self.head(self.pool(self.body(x, edge_index), batch))

    return Graphs(), (_random(len(BATCH), 6), _edges(), BATCH), {}


def _classified_nodes() -> Built:
    from torch_geometric.nn import GCNConv

    class Nodes(nn.Module):
        def __init__(self):
            super().__init__()
            self.c1, self.c2, self.c3 = GCNConv(6, 16), GCNConv(16, 16), GCNConv(16, 5)

        def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
            x = self.c1(x, edge_index).relu()
            return self.c3(self.c2(x, edge_index).relu(), edge_index)

    return Nodes(), (_random(len(BATCH), 6), _edges()), {}


def _set_transformer() -> Built:
    from torch_geometric.nn.aggr import SetTransformerAggregation

    class Sets(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Linear(6, 16)
            self.pool = SetTransformerAggregation(16, heads=2)
            self.head = nn.Linear(16, 5)

        def forward(self, x: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
            return self.head(self.pool(self.stem(x), batch))

    return Sets(), (_random(len(BATCH), 6), BATCH), {}


def _molecules() -> Built:
    from chemprop import models
    from chemprop import nn as parts
    from chemprop.data import BatchMolGraph
    from chemprop.featurizers import SimpleMoleculeMolGraphFeaturizer
    from rdkit import Chem

    featurize = SimpleMoleculeMolGraphFeaturizer()
    molecules = [Chem.MolFromSmiles(text) for text in ("CCO", "c1ccccc1", "CC(=O)N", "CCN(C)C")]
    model = models.MPNN(
        parts.BondMessagePassing(d_h=16),
        parts.MeanAggregation(),
        parts.RegressionFFN(input_dim=16, hidden_dim=16, n_layers=2),
    )
    return model, (BatchMolGraph([featurize(molecule) for molecule in molecules]),), {}


# Series: three channels, 64 steps

SERIES = _random(4, 3, 64)

# Module, class, arguments
TSAI: list[tuple[str, str, dict[str, Any]]] = [
    ("InceptionTime", "InceptionTime", {"nf": 8}),
    ("ResNet", "ResNet", {}),
    ("XceptionTime", "XceptionTime", {"nf": 4, "adaptive_size": 10}),
    ("OmniScaleCNN", "OmniScaleCNN", {"seq_len": 64, "layers": [128, 1024]}),
    ("TST", "TST", {"seq_len": 64, "d_model": 32, "n_heads": 4, "d_ff": 64}),
    ("TSiTPlus", "TSiTPlus", {"seq_len": 64, "d_model": 32, "n_heads": 4, "depth": 3}),
    (
        "MINIROCKET_Pytorch",
        "MiniRocket",
        {"seq_len": 64, "num_features": 504, "random_state": 0},
    ),
    (
        "TSPerceiver",
        "TSPerceiver",
        {"seq_len": 64, "n_latents": 16, "d_latent": 32, "n_layers": 3, "self_n_heads": 4},
    ),
    ("gMLP", "gMLP", {"seq_len": 64, "d_model": 32, "d_ffn": 64, "depth": 3}),
    ("MultiRocketPlus", "MultiRocketPlus", {"seq_len": 64, "num_features": 2688}),
    ("ConvTranPlus", "ConvTranPlus", {"seq_len": 64, "d_model": 16, "dim_ff": 32}),
    ("HydraPlus", "HydraPlus", {"seq_len": 64, "g": 8, "device": "cpu"}),
]


def _tsai(module: str, name: str, configuration: dict[str, Any]) -> Built:
    import importlib

    model = getattr(importlib.import_module(f"tsai.models.{module}"), name)(3, 5, **configuration)
    if "Rocket" in name:
        model.train()(SERIES)  # its thresholds are set at the first batch
    if "Rocket" in name or "Hydra" in name:
        model.head[-1].reset_parameters()  # the weights are zero
    return model, (SERIES,), {}


OTHERS: list[tuple[str, Callable[[], Built]]] = [
    ("rtdl/FTTransformer", _ft_transformer),
    ("tabm/TabM", functools.partial(_tabm, False)),
    ("tabm/TabM with categories", functools.partial(_tabm, True)),
    ("pytorch-tabnet/TabNet", functools.partial(_tabnet, False, 128)),
    ("pytorch-tabnet/TabNet with categories", functools.partial(_tabnet, True, 128)),
    ("pytorch-tabnet/TabNet with ghost batches", functools.partial(_tabnet, False, 2)),
    ("deepctr/DeepFM", _deepfm),
    ("neuraloperator/FNO", _fno),
    ("neuraloperator/UNO", _uno),
    ("torchdiffeq/dopri5", functools.partial(_ode, "odeint", "dopri5")),
    ("torchdiffeq/adjoint dopri5", functools.partial(_ode, "odeint_adjoint", "dopri5")),
    ("torchdiffeq/rk4", functools.partial(_ode, "odeint", "rk4")),
    ("torchdiffeq/adjoint rk4", functools.partial(_ode, "odeint_adjoint", "rk4")),
    ("e3nn/tensor product", _tensor_product),
    ("hypll/HLinear", _hyperbolic),
    ("gpytorch/exact deep kernel", _exact_process),
    ("gpytorch/variational deep kernel", functools.partial(_variational_process, False)),
    ("gpytorch/deep kernel in gpytorch.Module", functools.partial(_variational_process, True)),
    ("snntorch/Leaky", _leaky),
    ("snntorch/Leaky with hidden state", _leaky_with_state),
    ("snntorch/Leaky, time first", _leaky_in_time),
    ("spikingjelly/LIFNode", functools.partial(_spiking_images, False)),
    ("spikingjelly/LIFNode, time first", functools.partial(_spiking_images, True)),
    ("norse/LIFCell", _norse),
    ("torchaudio/Conformer", functools.partial(_torchaudio_conformer, None)),
    ("torchaudio/Conformer, padded", functools.partial(_torchaudio_conformer, MASK)),
    ("torchaudio/Conformer with lengths", functools.partial(_torchaudio_conformer, LENGTHS)),
    ("torchaudio/Emformer", functools.partial(_torchaudio_emformer, 0)),
    ("torchaudio/Emformer with memory", functools.partial(_torchaudio_emformer, 2)),
    ("torchaudio/wav2vec2", _torchaudio_wav2vec2),
    ("speechbrain/ECAPA_TDNN", functools.partial(_ecapa, False)),
    ("speechbrain/ECAPA_TDNN with lengths", functools.partial(_ecapa, True)),
    ("speechbrain/Conformer", _speechbrain_conformer),
    ("torch-geometric/GCN of tensors", functools.partial(_pooled_graphs, False)),
    ("torch-geometric/GCN of a batch", functools.partial(_pooled_graphs, True)),
    ("torch-geometric/GIN, pooled by a module", _pooled_by_a_module),
    ("torch-geometric/GCN of nodes", _classified_nodes),
    ("torch-geometric/SetTransformerAggregation", _set_transformer),
    ("chemprop/MPNN", _molecules),
]


def cases() -> Iterator[tuple[str, Callable[[], Built]]]:
    """Yield names, and functions that build a model and a batch."""
    yield from OTHERS
    for name, configuration in WIDEDEEP:
        yield f"pytorch-widedeep/{name}", functools.partial(_widedeep, name, configuration)
    for module, name, configuration in TSAI:
        yield f"tsai/{name}", functools.partial(_tsai, module, name, configuration)
