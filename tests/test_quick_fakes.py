"""Fake tensors that answer the usual operators by themselves say what real tensors do."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from manifold_mixup._dry_run import quick_fakes
from manifold_mixup._dry_run.quick_fakes import QuickFakes

aten = torch.ops.aten
Calls = list[tuple[Any, tuple[Any, ...]]]


def images(*, channels: int = 4, kind: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Return images of several memory layouts."""
    plain = torch.randn(2, channels, 6, 6, dtype=kind)
    return {
        "plain": plain,
        "channels last": plain.to(memory_format=torch.channels_last),
        "transposed": plain.transpose(1, 3).contiguous().transpose(1, 3),
        "every other": torch.randn(2, channels, 6, 12, dtype=kind)[..., ::2],
        "expanded": plain[:1].expand(2, -1, -1, -1),
    }


def of_one(image: Tensor) -> Calls:
    """Return calls that take one image."""
    weight = torch.randn(3, image.shape[1], 3, 3, dtype=image.dtype)
    last = weight.to(memory_format=torch.channels_last)
    plain = (None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)
    stats = [torch.randn(image.shape[1]) for _ in range(4)]
    moves: Calls = [
        (aten.convolution.default, (image, weight, *plain)),
        (aten.convolution.default, (image, last, *plain)),
        (aten.native_batch_norm.default, (image, *stats, True, 0.1, 1e-5)),
        (aten.native_layer_norm.default, (image, [6, 6], None, None, 1e-5)),
        (aten.view.default, (image, [2, 2, 2, 6, 6])),
        (aten.add_.Tensor, (image.clone(), image)),
        (aten.relu_.default, (image.clone(),)),
        (aten.clone.default, (image,)),
        (aten.detach.default, (image,)),
        (aten.alias.default, (image,)),
        (aten.transpose.int, (image, 1, 2)),
        (aten.permute.default, (image, [0, 2, 3, 1])),
        (aten.slice.Tensor, (image, 1, 1, 3)),
        (aten.select.int, (image, 1, -1)),
        (aten.unsqueeze.default, (image, 1)),
        (aten.squeeze.dim, (image[:, :1], 1)),
        (aten.expand.default, (image[:, :1], [2, 3, 6, 6])),
        (aten.unbind.int, (image, 1)),
        (aten.split.Tensor, (image, 3, 1)),
        (aten.split_with_sizes.default, (image, [1, 3], 1)),
        (aten.constant_pad_nd.default, (image, [1, 0, 2, 1])),
        (aten.avg_pool2d.default, (image, [2, 2])),
        (aten.max_pool2d_with_indices.default, (image, [2, 2])),
        (aten._softmax.default, (image, 1, False)),
        (aten._safe_softmax.default, (image, -1)),
        (aten.roll.default, (image, [1, 2], [2, 3])),
        (aten.mean.dim, (image, [2, 3])),
        (aten.mean.dim, (image, [1], True)),
        (aten.cat.default, ([image, image[:, :1].clone()], 1)),
        (aten.new_empty.default, (image, [3, 4])),
    ]
    unary = [(func, (image,)) for func in quick_fakes._UNARY]
    return moves + unary + [(func, (image.clone(),)) for func in quick_fakes._IN_PLACE]


def of_two(image: Tensor) -> Calls:
    """Return calls that take an image and something else."""
    others = [image.clone(), image[:, :1], image.double(), 2, 0.5, torch.tensor(2.0), image.long()]
    return [(func, (image, other)) for func in quick_fakes._BINARY for other in others]


def of_layers(kind: torch.dtype) -> Calls:
    """Return calls with weights."""
    made = lambda *shape: torch.randn(*shape, dtype=kind)  # noqa: E731
    image, tokens, heads = made(2, 4, 6, 6), made(2, 5, 8), made(2, 2, 5, 4)
    return [
        (aten.convolution.default, (image, made(3, 4, 3, 3), None, [2], [1], [1], False, [0], 1)),
        (aten.convolution.default, (image, made(4, 2, 3, 3), made(4), [1], [0], [1], True, [0], 2)),
        (aten.addmm.default, (made(3), made(6, 4), made(4, 3))),
        (aten.addmm.default, (made(6, 3), made(6, 4), made(4, 3))),
        (aten.addmm.default, (made(1), made(6, 4), made(4, 3))),
        (aten.addmm.default, (made(6, 1), made(6, 4), made(4, 3))),
        (aten.mm.default, (made(6, 4), made(3, 4).t())),
        (aten.bmm.default, (tokens, made(2, 8, 3))),
        (aten.t.default, (made(6, 4),)),
        (aten.view.default, (tokens, [10, -1])),
        (aten._unsafe_view.default, (tokens, [2, 40])),
        (aten._scaled_dot_product_flash_attention_for_cpu.default, (heads, heads, heads)),
        (aten.native_layer_norm.default, (tokens, [8], made(8), made(8), 1e-5)),
        (aten.native_layer_norm.default, (tokens, [5, 8], None, None, 1e-5)),
        (aten.native_layer_norm.default, (tokens.transpose(1, 2), [5], None, None, 1e-5)),
        (aten.native_layer_norm.default, (tokens.expand(2, 5, 8), [8], made(8), None, 1e-5)),
        (aten.native_batch_norm.default, (image, *(made(4) for _ in range(4)), True, 0.1, 1e-5)),
        (aten.native_batch_norm.default, (image, *(made(4) for _ in range(4)), False, 0.1, 1e-5)),
        (aten.native_batch_norm.default, (image, *[None] * 4, True, 0.1, 1e-5)),
        (aten.native_batch_norm.default, (image, *[torch.randn(4)] * 4, True, 0.1, 1e-5)),
        (aten.relu_.default, (image.clone(),)),
        (aten.add_.Tensor, (image.clone(), made(4, 1, 1))),
        (aten.mul_.Tensor, (image.clone(), 2.0)),
    ]


CALLS = [call for image in images().values() for call in of_one(image) + of_two(image)]
CALLS += of_one(images(kind=torch.bfloat16)["plain"]) + of_two(images(kind=torch.float16)["plain"])
CALLS += [(func, (torch.arange(4), torch.arange(4))) for func in quick_fakes._BINARY]
CALLS += [(aten.sigmoid.default, (torch.arange(4),)), (aten.relu.default, (torch.arange(4),))]
CALLS += [(aten.add.Tensor, (torch.randn(4, dtype=torch.cfloat), torch.randn(4)))]
CALLS += of_layers(torch.float32) + of_layers(torch.float64) + of_layers(torch.bfloat16)


def form(tensor: Any) -> Any:
    """Return what the stand-in of a tensor has to agree in."""
    if not isinstance(tensor, Tensor):
        return tensor
    strides = [s for s, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]
    return tensor.shape, strides, tensor.dtype, tensor.device, tensor.storage_offset()


def flat(result: Any) -> list[Any]:
    """Return the items of a result."""
    return list(result) if isinstance(result, list | tuple) else [result]


def memory(result: Any, args: tuple[Any, ...]) -> list[bool]:
    """Return for each item of a result whether it shares the memory of the first argument."""
    held = flat(args[0])[0].untyped_storage()._cdata
    return [isinstance(t, Tensor) and t.untyped_storage()._cdata == held for t in flat(result)]


def faked(mode: FakeTensorMode, value: Any) -> Any:
    """Return the stand-in of a value."""
    if isinstance(value, list):
        return [faked(mode, item) for item in value]
    return mode.from_tensor(value) if isinstance(value, Tensor) else value


def outcome(run: Callable[[], Any], args: tuple[Any, ...]) -> Any:
    """Return the forms of a result and whose memory they share, or that the call failed."""
    try:
        result = run()
    except (RuntimeError, NotImplementedError):
        return "error"
    return [form(item) for item in flat(result)], memory(result, args)


def fake_outcome(mode: FakeTensorMode, func: Any, args: tuple[Any, ...]) -> Any:
    """Return the outcome of a call on stand-ins."""
    given = tuple(faked(mode, value) for value in args)
    with mode:
        return outcome(lambda: func(*given), given)


@pytest.mark.parametrize("number", range(len(CALLS)))
def test_answers_are_those_of_real_tensors_and_so_are_those_remembered(number: int) -> None:
    """Shape, strides, dtype, device and shared memory are the same, the second time too."""
    func, args = CALLS[number]
    mode = QuickFakes(allow_non_fake_inputs=True)
    found, second, third = (fake_outcome(mode, func, args) for _ in range(3))
    assert found == second == third
    if found != outcome(lambda: func(*args), args):  # then it was left to PyTorch, which errs
        errs = [aten.native_batch_norm.default, aten.convolution.default, aten.roll.default]
        if torch.__version__ < (2, 14):  # in 2.10, for one
            errs.append(aten._scaled_dot_product_flash_attention_for_cpu.default)
        assert func in errs
        assert found == fake_outcome(FakeTensorMode(allow_non_fake_inputs=True), func, args)


def test_views_are_remembered_apart_from_where_they_begin() -> None:
    """A view of a part of a tensor begins where that part begins."""
    mode = QuickFakes()
    with mode:
        whole = torch.empty(6, 4)
        parts = [whole[2:4], whole[4:6], whole[2:4]]
        offsets = [part.select(0, 1).select(0, 2).storage_offset() for part in parts]
    assert offsets == [14, 22, 14]


def test_a_result_is_remembered_by_kinds_too() -> None:
    """1, 1.0 and True are equal, but give results of different dtypes."""
    mode = QuickFakes()
    with mode:
        dtypes = [torch.add(torch.empty(2, dtype=torch.int), n).dtype for n in (1, 1.0, True, 1)]
    assert dtypes == [torch.int, torch.float, torch.int, torch.int]


def test_the_value_of_a_factor_changes_nothing() -> None:
    """An operator on each element is remembered whatever number it is given."""
    mode = QuickFakes()
    with mode:
        tensor = torch.empty(2, 1)
        for number in (0.1, 0.2):
            tensor.mul_(number)
    assert len(mode._forms) == 2  # of the tensor itself, and of the product


def test_a_mask_decides_how_many_rows_it_chooses() -> None:
    """What an index by a mask gives is not remembered."""
    mode = QuickFakes()
    with mode:
        rows, mask = torch.empty(6, 4), torch.empty(6, dtype=torch.bool)
        for _ in range(2):
            with pytest.raises(Exception, match="nonzero"):
                rows[mask]


def test_fake_tensors_are_those_of_pytorch() -> None:
    """Made at once, they have the attributes and the keys of those that PyTorch makes."""
    mode = QuickFakes()
    meta = torch.empty(2, 3, device="meta")
    theirs = FakeTensor(mode, meta, torch.device("cpu"))
    for _ in range(2):
        ours = mode._make(mode, meta, torch.device("cpu"))
        assert vars(ours) == vars(theirs)
        assert torch._C._dispatch_keys(ours) == torch._C._dispatch_keys(theirs)
        assert (ours.device, ours.shape) == (theirs.device, theirs.shape)


def test_each_operator_is_tried() -> None:
    """No operator is answered that no call above tries, and the usual calls are answered here."""
    assert {func for func, _ in CALLS} == set(quick_fakes._ANSWERS)


def test_usual_calls_are_answered_without_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network's usual operators never reach PyTorch's own way."""
    asked: list[Any] = []
    theirs = FakeTensorMode.__torch_dispatch__

    def watched(self: Any, func: Any, *rest: Any) -> Any:
        asked.extend([func] if func is not torch.ops.prim.device.default else [])
        return theirs(self, func, *rest)

    monkeypatch.setattr(FakeTensorMode, "__torch_dispatch__", watched)
    mode = QuickFakes()
    calls = of_one(images()["plain"]) + of_layers(torch.float32)[:3]
    for func, args in calls[:1] + calls[2:]:  # without the weight in another memory format
        given = tuple(faked(mode, value) for value in args)
        asked.clear()
        with mode:
            func(*given)
        assert not asked


@pytest.mark.parametrize(
    ("func", "shapes"),
    [
        (aten.mm.default, [(2, 3), (2, 3)]),
        (aten.addmm.default, [(5,), (2, 3), (3, 4)]),
        (aten.add.Tensor, [(2, 3), (2, 4)]),
        (aten.native_layer_norm.default, [(2, 3), [4], None, None, 1e-5]),
        (aten.view.default, [(2, 3), [4]]),
    ],
)
def test_calls_that_fail_still_fail(func: Any, shapes: list[Any]) -> None:
    """What real tensors refuse, stand-ins refuse."""
    args = [torch.ones(item) if isinstance(item, tuple) else item for item in shapes]
    mode = QuickFakes()
    given = [faked(mode, value) for value in args]
    with pytest.raises(Exception, match=r"."):
        func(*args)
    with mode, pytest.raises(Exception, match=r"."):
        func(*given)


def test_a_write_into_a_known_value_makes_it_unknown() -> None:
    """A number that was written over is no longer taken for its old value."""
    mode = QuickFakes(allow_non_fake_inputs=True)
    with mode:
        known = torch.tensor(1.0)
        assert known.item() == 1
        known.add_(torch.ones(()))
        assert isinstance(known, FakeTensor)
        with pytest.raises(Exception, match="_local_scalar_dense"):
            known.item()


def test_tensors_of_another_mode_are_left_to_pytorch() -> None:
    """A stand-in that the user's code made by a mode of its own is refused as always."""
    other = QuickFakes()
    theirs = other.from_tensor(torch.ones(2))
    mode = QuickFakes()
    with mode, pytest.raises(AssertionError, match=r"[Mm]ix"):
        torch.clone(theirs)
