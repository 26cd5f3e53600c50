"""Models of images and videos: segmentation, torchvision, vit-pytorch, transformers and more."""

import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

Built = tuple[torch.nn.Module, tuple[Any, ...], dict[str, Any]]


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


# Models of one image or video: name, where it is, options, shape of an example

RESNET18 = {"encoder_name": "resnet18", "encoder_weights": None, "classes": 3}
SMALL_VIT = {
    **RESNET18,
    "encoder_name": "tu-vit_tiny_patch16_224.augreg_in21k",
    "dynamic_img_size": True,
}
FIVE = {"num_classes": 5}
SEGMENTER = {**FIVE, "weights": None, "weights_backbone": None}
PATCHES = {**FIVE, "image_size": 32, "patch_size": 8, "dim": 32, "heads": 2, "mlp_dim": 64}
DEEP = {**PATCHES, "depth": 3, "dim_head": 16}
MONAI = {"spatial_dims": 3, "in_channels": 1, "out_channels": 3}
STEPS = {"channels": (8, 16, 32), "strides": (2, 2)}

SMP: list[tuple[str, str, dict[str, Any], tuple[int, ...]]] = [
    ("Unet", "Unet", RESNET18, (3, 64, 64)),
    ("UnetPlusPlus", "UnetPlusPlus", RESNET18, (3, 64, 64)),
    ("MAnet", "MAnet", RESNET18, (3, 64, 64)),
    ("Linknet", "Linknet", RESNET18, (3, 64, 64)),
    ("FPN", "FPN", RESNET18, (3, 64, 64)),
    ("PSPNet", "PSPNet", RESNET18, (3, 64, 64)),
    ("PAN", "PAN", RESNET18, (3, 128, 128)),
    ("DeepLabV3", "DeepLabV3", RESNET18, (3, 64, 64)),
    ("DeepLabV3Plus", "DeepLabV3Plus", RESNET18, (3, 64, 64)),
    ("UPerNet", "UPerNet", RESNET18, (3, 64, 64)),
    ("Segformer", "Segformer", RESNET18, (3, 64, 64)),
    ("DPT", "DPT", SMALL_VIT, (3, 64, 64)),
]

VIDEO_AND_SEGMENTATION: list[tuple[str, str, dict[str, Any], tuple[int, ...]]] = [
    ("r3d_18", "video.r3d_18", FIVE, (3, 4, 32, 32)),
    ("r2plus1d_18", "video.r2plus1d_18", FIVE, (3, 4, 32, 32)),
    ("swin3d_t", "video.swin3d_t", FIVE, (3, 4, 64, 64)),
    ("fcn_resnet50", "segmentation.fcn_resnet50", SEGMENTER, (3, 64, 64)),
    (
        "fcn_resnet50, aux",
        "segmentation.fcn_resnet50",
        {**SEGMENTER, "aux_loss": True},
        (3, 64, 64),
    ),
    ("deeplabv3_resnet50", "segmentation.deeplabv3_resnet50", SEGMENTER, (3, 64, 64)),
    (
        "deeplabv3_resnet50, aux",
        "segmentation.deeplabv3_resnet50",
        {**SEGMENTER, "aux_loss": True},
        (3, 64, 64),
    ),
    ("lraspp_mobilenet_v3_large", "segmentation.lraspp_mobilenet_v3_large", SEGMENTER, (3, 64, 64)),
]

VIT_PYTORCH: list[tuple[str, str, dict[str, Any], tuple[int, ...]]] = [
    ("ViT", "vit.ViT", DEEP, (3, 32, 32)),
    ("SimpleViT", "simple_vit.SimpleViT", DEEP, (3, 32, 32)),
    ("DeepViT", "deepvit.DeepViT", DEEP, (3, 32, 32)),
    ("CaiT", "cait.CaiT", {**DEEP, "cls_depth": 2, "layer_dropout": 0.05}, (3, 32, 32)),
    ("PiT", "pit.PiT", {**DEEP, "depth": (2, 2)}, (3, 32, 32)),
    (
        "T2T",
        "t2t.T2TViT",
        {
            **FIVE,
            "image_size": 32,
            "dim": 32,
            "depth": 3,
            "heads": 2,
            "mlp_dim": 64,
            "t2t_layers": ((7, 4), (3, 2)),
        },
        (3, 32, 32),
    ),
    (
        "CvT",
        "cvt.CvT",
        {
            **FIVE,
            "s1_emb_dim": 16,
            "s2_emb_dim": 32,
            "s3_emb_dim": 32,
            "s2_heads": 2,
            "s3_heads": 2,
            "s3_depth": 2,
        },
        (3, 64, 64),
    ),
    (
        "CCT",
        "cct.CCT",
        {
            **FIVE,
            "img_size": 32,
            "embedding_dim": 32,
            "num_layers": 3,
            "num_heads": 2,
            "mlp_ratio": 2.0,
            "positional_embedding": "learnable",
        },
        (3, 32, 32),
    ),
    (
        "CrossViT",
        "cross_vit.CrossViT",
        {
            **FIVE,
            "image_size": 32,
            "depth": 2,
            "sm_dim": 16,
            "sm_patch_size": 4,
            "sm_enc_depth": 1,
            "sm_enc_heads": 2,
            "sm_enc_mlp_dim": 32,
            "sm_enc_dim_head": 8,
            "lg_dim": 32,
            "lg_patch_size": 8,
            "lg_enc_depth": 2,
            "lg_enc_heads": 2,
            "lg_enc_mlp_dim": 64,
            "lg_enc_dim_head": 16,
            "cross_attn_depth": 1,
            "cross_attn_heads": 2,
            "cross_attn_dim_head": 16,
        },
        (3, 32, 32),
    ),
    (
        "LeViT",
        "levit.LeViT",
        {
            **FIVE,
            "image_size": 64,
            "stages": 2,
            "dim": (16, 32),
            "depth": 2,
            "heads": (2, 2),
            "mlp_mult": 2,
        },
        (3, 64, 64),
    ),
    (
        "NesT",
        "nest.NesT",
        {
            **FIVE,
            "image_size": 32,
            "patch_size": 4,
            "dim": 16,
            "heads": 2,
            "num_hierarchies": 2,
            "block_repeats": (1, 2),
            "dim_head": 8,
        },
        (3, 32, 32),
    ),
    (
        "MaxViT",
        "max_vit.MaxViT",
        {**FIVE, "dim_conv_stem": 16, "dim": 16, "dim_head": 8, "depth": (1, 2), "window_size": 4},
        (3, 32, 32),
    ),
    (
        "MobileViT",
        "mobile_vit.MobileViT",
        {
            **FIVE,
            "image_size": (64, 64),
            "dims": [16, 24, 32],
            "channels": [8, 8, 16, 16, 16, 16, 24, 24, 32, 32, 32],
            "depths": (1, 1, 1),
        },
        (3, 64, 64),
    ),
    ("XCiT", "xcit.XCiT", {**DEEP, "cls_depth": 2}, (3, 32, 32)),
    ("ParallelViT", "parallel_vit.ViT", DEEP, (3, 32, 32)),
    (
        "AdaptiveTokenSampling",
        "ats_vit.ViT",
        {**DEEP, "max_tokens_per_depth": (12, 8, 4)},
        (3, 32, 32),
    ),
    (
        "PatchMerger",
        "vit_with_patch_merger.ViT",
        {**DEEP, "patch_merge_layer": 1, "patch_merge_num_tokens": 4},
        (3, 32, 32),
    ),
    ("SPT_LSA", "vit_for_small_dataset.ViT", DEEP, (3, 32, 32)),
    (
        "ScalableViT",
        "scalable_vit.ScalableViT",
        {
            **FIVE,
            "dim": 16,
            "depth": (1, 2),
            "heads": (2, 2),
            "reduction_factor": (2, 1),
            "window_size": (4, None),
            "iwsa_dim_key": 8,
            "iwsa_dim_value": 8,
            "ssa_dim_key": 8,
            "ssa_dim_value": 8,
        },
        (3, 32, 32),
    ),
    (
        "TwinsSVT",
        "twins_svt.TwinsSVT",
        {
            **FIVE,
            **{f"s{stage}_{what}": 2 for stage in (2, 3, 4) for what in ("global_k", "patch_size")},
            **{f"s{stage}_emb_dim": 16 for stage in (1, 2, 3, 4)},
            **{f"s{stage}_local_patch_size": 2 for stage in (1, 2, 3, 4)},
            "s3_depth": 2,
            "s4_depth": 1,
        },
        (3, 64, 64),
    ),
    (
        "LookViT",
        "look_vit.LookViT",
        {
            **FIVE,
            "image_size": 32,
            "dim": 32,
            "depth": 2,
            "patch_size": 16,
            "heads": 2,
            "dim_head": 16,
            "highres_patch_size": 8,
            "patch_conv_kernel_size": 3,
            "cross_attn_heads": 2,
            "cross_attn_dim_head": 16,
        },
        (3, 32, 32),
    ),
    ("Jumbo", "jumbo_vit.JumboViT", {**DEEP, "jumbo_cls_k": 2}, (3, 32, 32)),
    ("RegisterViT", "simple_vit_with_register_tokens.SimpleViT", DEEP, (3, 32, 32)),
    *(
        (
            f"ViViT, {variant}",
            "vivit.ViViT",
            {
                **FIVE,
                "image_size": 32,
                "image_patch_size": 8,
                "frames": 4,
                "frame_patch_size": 2,
                "dim": 32,
                "spatial_depth": 2,
                "temporal_depth": 2,
                "heads": 2,
                "mlp_dim": 64,
                "dim_head": 16,
                "variant": variant,
            },
            (3, 4, 32, 32),
        )
        for variant in ("factorized_encoder", "factorized_self_attention")
    ),
]

MONAI_NETS: list[tuple[str, str, dict[str, Any], tuple[int, ...]]] = [
    ("UNet", "UNet", {**MONAI, **STEPS, "num_res_units": 1}, (1, 16, 16, 16)),
    ("AttentionUnet", "AttentionUnet", {**MONAI, **STEPS}, (1, 16, 16, 16)),
    (
        "DynUNet, supervised deep",
        "DynUNet",
        {
            **MONAI,
            "kernel_size": [3, 3, 3],
            "strides": [1, 2, 2],
            "upsample_kernel_size": [2, 2],
            "filters": [8, 16, 32],
            "deep_supervision": True,
        },
        (1, 16, 16, 16),
    ),
    (
        "ViT",
        "ViT",
        {
            "in_channels": 1,
            "img_size": (16, 16, 16),
            "patch_size": (8, 8, 8),
            "hidden_size": 32,
            "mlp_dim": 64,
            "num_layers": 3,
            "num_heads": 2,
            "classification": True,
        },
        (1, 16, 16, 16),
    ),
    (
        "DenseNet",
        "DenseNet",
        {**MONAI, "init_features": 8, "growth_rate": 4, "block_config": (2, 2)},
        (1, 16, 16, 16),
    ),
    (
        "SegResNet",
        "SegResNet",
        {**MONAI, "blocks_down": (1, 2, 2), "blocks_up": (1, 1)},
        (1,) + (16,) * 3,
    ),
    ("HighResNet", "HighResNet", MONAI, (1, 16, 16, 16)),
    (
        "SwinUNETR",
        "SwinUNETR",
        {
            **MONAI,
            "spatial_dims": 2,
            "depths": (1, 1, 1, 1),
            "num_heads": (1, 2, 2, 2),
            "window_size": 2,
            "feature_size": 12,
        },
        (1, 64, 64),
    ),
]

OTHERS: list[tuple[str, str, dict[str, Any], tuple[int, ...]]] = [
    (
        "open_clip/VisionTransformer",
        "open_clip.transformer.VisionTransformer",
        {
            "image_size": 32,
            "patch_size": 8,
            "width": 32,
            "layers": 3,
            "heads": 2,
            "mlp_ratio": 2.0,
            "output_dim": 16,
        },
        (3, 32, 32),
    ),
    (
        "torchxrayvision/DenseNet",
        "torchxrayvision.models.DenseNet",
        {
            "growth_rate": 4,
            "block_config": (2, 2, 2, 2),
            "num_init_features": 8,
            "num_classes": 5,
        },
        (1, 64, 64),
    ),
    (
        "torchxrayvision/DenseNet121",
        "torchxrayvision.models.DenseNet",
        {"num_classes": 5},
        (1, 64, 64),
    ),
]

LIBRARIES = {
    "smp": ("segmentation_models_pytorch", SMP),
    "torchvision": ("torchvision.models", VIDEO_AND_SEGMENTATION),
    "vit_pytorch": ("vit_pytorch", VIT_PYTORCH),
    "monai": ("monai.networks.nets", MONAI_NETS),
}


def _build(path: str, options: dict[str, Any], shape: tuple[int, ...]) -> Built:
    module, _, name = path.rpartition(".")
    model = getattr(importlib.import_module(module), name)(**options)
    return model, (_random(4, *shape),), {}


def _s3d() -> Built:
    from torchvision.models.video import s3d

    model = s3d(num_classes=5)
    model.avgpool = torch.nn.AdaptiveAvgPool3d(1)  # its own needs large videos, 15 s a pass
    return model, (_random(4, 3, 8, 64, 64),), {}


def _dynamic_unet() -> Built:
    from fastai.vision.learner import create_body
    from fastai.vision.models.unet import DynamicUnet
    from torchvision.models import resnet18

    model = DynamicUnet(create_body(resnet18(), pretrained=False), 5, (64, 64))
    return model, (_random(2, 3, 64, 64),), {}


# torchgeo


def _croma() -> Built:
    from torchgeo.models import CROMA

    model = CROMA(encoder_dim=64, encoder_depth=4, patch_size=8, image_size=32)
    return model, (), {"x_sar": _random(4, 2, 32, 32), "x_optical": _random(4, 12, 32, 32)}


def _dofa() -> Built:
    from torchgeo.models import DOFA

    model = DOFA(img_size=32, patch_size=8, embed_dim=32, depth=4, num_heads=2, num_classes=5)
    return model, (_random(4, 3, 32, 32), [0.665, 0.56, 0.49]), {}


def _fc_siam_diff() -> Built:
    from torchgeo.models import FCSiamDiff

    model = FCSiamDiff("resnet18", encoder_weights=None, in_channels=3, classes=2)
    return model, (_random(2, 2, 3, 64, 64),), {}


# diffusers and open_clip

DIFFUSION = {
    "sample_size": 16,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 8,
}
STEP = torch.tensor([1, 20, 300, 900])


def _unet() -> Built:
    from diffusers import UNet2DModel

    model = UNet2DModel(
        **DIFFUSION,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    return model, (_random(4, 3, 16, 16), STEP), {}


def _conditional_unet() -> Built:
    from diffusers import UNet2DConditionModel

    model = UNet2DConditionModel(
        **DIFFUSION,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
    )
    return model, (_random(4, 4, 16, 16), STEP, _random(4, 5, 16)), {}


def _open_clip() -> Built:
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    images = CLIPVisionCfg(layers=2, width=32, head_width=16, patch_size=8, image_size=32)
    text = CLIPTextCfg(context_length=8, vocab_size=50, width=32, heads=2, layers=2)
    return CLIP(16, images, text), (IMAGE, IDS), {}


# transformers: name, class, configuration, batch

IMAGE = _random(4, 3, 32, 32)
VIDEO = _random(4, 4, 3, 32, 32)
IDS = torch.randint(3, 50, (4, 8), generator=torch.Generator().manual_seed(0))
IDS[:, -1] = 49  # the end, by which CLIP reads the text

USUAL = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "num_labels": 5,
}
SWIN = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 2],
    "window_size": 4,
    "num_labels": 5,
}
SEGFORMER = {
    "num_encoder_blocks": 3,
    "depths": [2, 1, 1],
    "sr_ratios": [4, 2, 1],
    "hidden_sizes": [16, 16, 32],
    "patch_sizes": [7, 3, 3],
    "strides": [4, 2, 2],
    "num_attention_heads": [1, 2, 2],
    "mlp_ratios": [2, 2, 2],
    "decoder_hidden_size": 32,
    "num_labels": 5,
}
STAGES = {"hidden_sizes": [16, 16, 32], "depths": [2, 1, 1], "num_labels": 5}
RESNETS = {**STAGES, "embedding_size": 16, "layer_type": "basic"}
PERCEIVER = {
    "num_latents": 8,
    "d_latents": 32,
    "num_blocks": 2,
    "num_self_attends_per_block": 2,
    "num_self_attention_heads": 2,
    "num_cross_attention_heads": 1,
    "image_size": 32,
    "num_labels": 5,
}
DETR = {
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "backbone": None,
    "num_queries": 5,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "num_labels": 5,
}
MASK2FORMER = {
    "feature_size": 32,
    "mask_feature_size": 32,
    "hidden_dim": 32,
    "encoder_feedforward_dim": 64,
    "dim_feedforward": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "num_attention_heads": 2,
    "num_queries": 5,
    "num_labels": 5,
}
TEXT = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "bos_token_id": 0,
    "eos_token_id": 49,
    "pad_token_id": 1,
}
CLIP = {"vision_config": USUAL, "text_config": TEXT, "projection_dim": 16}

TRANSFORMERS: list[tuple[str, str, dict[str, Any], torch.Tensor]] = [
    ("vit", "ViTForImageClassification", USUAL, IMAGE),
    (
        "vit, all states",
        "ViTForImageClassification",
        {**USUAL, "output_hidden_states": True},
        IMAGE,
    ),
    ("swinv2", "Swinv2ForImageClassification", SWIN, IMAGE),
    ("segformer", "SegformerForImageClassification", SEGFORMER, IMAGE),
    ("segformer, segmentation", "SegformerForSemanticSegmentation", SEGFORMER, IMAGE),
    ("convnextv2", "ConvNextV2ForImageClassification", {**STAGES, "num_stages": 3}, IMAGE),
    ("dinov2", "Dinov2ForImageClassification", USUAL, IMAGE),
    ("clip, images", "CLIPForImageClassification", CLIP, IMAGE),
    (
        "videomae",
        "VideoMAEForVideoClassification",
        {**USUAL, "num_frames": 4, "tubelet_size": 2},
        VIDEO,
    ),
    ("timesformer", "TimesformerForVideoClassification", {**USUAL, "num_frames": 4}, VIDEO),
    (
        "perceiver, pixels",
        "PerceiverForImageClassificationLearned",
        PERCEIVER,
        IMAGE,
    ),
    (
        "perceiver, convolution",
        "PerceiverForImageClassificationConvProcessing",
        {**PERCEIVER, "image_size": 224},
        _random(4, 3, 224, 224),
    ),
]


def _transformers(name: str, config: dict[str, Any], images: torch.Tensor) -> Built:
    import transformers

    kind = getattr(transformers, name)
    return kind(kind.config_class(**config)), (), {"pixel_values": images}


def _clip() -> Built:
    model, _, images = _transformers("CLIPModel", CLIP, IMAGE)
    return model, (), {"input_ids": IDS, **images}


def _detr() -> Built:
    import transformers

    backbone = transformers.ResNetConfig(**RESNETS, out_features=["stage3"])
    config = {**DETR, "backbone_config": backbone}
    return _transformers("DetrForObjectDetection", config, _random(4, 3, 64, 64))


def _mask2former() -> Built:
    import transformers

    names = ["stage1", "stage2", "stage3", "stage4"]
    sizes = {**SWIN, "depths": [1, 1, 1, 1], "num_heads": [2, 2, 2, 2], "out_features": names}
    backbone = transformers.SwinConfig(**sizes)
    config = {**MASK2FORMER, "backbone_config": backbone}
    return _transformers("Mask2FormerForUniversalSegmentation", config, _random(4, 3, 64, 64))


def cases() -> Iterator[tuple[str, Callable[[], Built]]]:
    """Yield names, and functions that build a model and a batch."""
    for library, (package, rows) in LIBRARIES.items():
        for name, path, *rest in rows:
            yield f"{library}/{name}", functools.partial(_build, f"{package}.{path}", *rest)
    yield "torchvision/s3d", _s3d
    for name, *rest in OTHERS:
        yield name, functools.partial(_build, *rest)
    yield "fastai/DynamicUnet", _dynamic_unet
    yield "torchgeo/CROMA", _croma
    yield "torchgeo/DOFA", _dofa
    yield "torchgeo/FCSiamDiff", _fc_siam_diff
    yield "open_clip/CLIP", _open_clip
    yield "diffusers/UNet2DModel", _unet
    yield "diffusers/UNet2DConditionModel", _conditional_unet
    for name, *rest in TRANSFORMERS:
        yield f"transformers/{name}", functools.partial(_transformers, *rest)
    yield "transformers/clip", _clip
    yield "transformers/detr", _detr
    yield "transformers/mask2former", _mask2former
