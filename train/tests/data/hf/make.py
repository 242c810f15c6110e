#!/usr/bin/env python3
"""Makes the fixture that holds packscan's models to those of Hugging Face `transformers`.

    python make.py tied              # the head shares the embedding's weight
    python make.py untied --untied   # the head has its own

A folder gets what `save_pretrained` writes of a small random `MambaForCausalLM`, `config.json` and `model.safetensors`, and
`expected.safetensors`, what the model computes. For sequence i of T tokens, run alone:

    input_ids.{i}  i64 (T)
    targets.{i}    i64 (T)     the next token; -100, none, at the last
    logits.{i}     f32 (T, V)
    loss_sum.{i}   f32 (1)     the sum of the cross entropies of the tokens that have a target
    grad.{name}    f32         of the sum of all loss sums, in the shape of the parameter

Needs torch, transformers and safetensors, of any recent version. Runs on the CPU, in f32, without the fused kernels.
"""

import argparse
import math
import os
import sys

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import safetensors
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import MambaConfig, MambaForCausalLM

M, N, EXPAND, K, R, V = 32, 8, 2, 4, 4, 64
D = EXPAND * M
LENGTHS = [17, 1, 40]
NO_TARGET = -100


def config(layers, tied):
    return MambaConfig(
        vocab_size=V,
        hidden_size=M,
        state_size=N,
        num_hidden_layers=layers,
        expand=EXPAND,
        conv_kernel=K,
        time_step_rank=R,
        layer_norm_epsilon=1e-5,
        use_bias=False,
        use_conv_bias=True,
        hidden_act="silu",
        residual_in_fp32=True,
        tie_word_embeddings=tied,
        use_cache=False,
        use_mambapy=False,
    )


def shapes(layers, tied):
    """Every parameter's name and shape: what the other side of the comparison expects."""
    expected = {"backbone.embeddings.weight": (V, M), "backbone.norm_f.weight": (M,)}
    for layer in range(layers):
        block = f"backbone.layers.{layer}."
        expected |= {
            block + "norm.weight": (M,),
            block + "mixer.in_proj.weight": (2 * D, M),
            block + "mixer.conv1d.weight": (D, 1, K),
            block + "mixer.conv1d.bias": (D,),
            block + "mixer.x_proj.weight": (R + 2 * N, D),
            block + "mixer.dt_proj.weight": (D, R),
            block + "mixer.dt_proj.bias": (D,),
            block + "mixer.A_log": (D, N),
            block + "mixer.D": (D,),
            block + "mixer.out_proj.weight": (M, D),
        }
    if not tied:
        expected["lm_head.weight"] = (V, M)
    return expected


def random_value(name, shape, generator):
    """No parameter is left where a mistake about it would not show: norms not at 1, biases not at 0, D not at 1."""

    def uniform(low, high):
        return low + (high - low) * torch.rand(shape, generator=generator)

    if name.endswith("A_log"):
        return torch.log(torch.arange(1, N + 1, dtype=torch.float32)) + uniform(-0.5, 0.5)
    if name.endswith("dt_proj.bias"):
        # The inverse of softplus, of steps from 0.05 to 1.
        step = torch.exp(uniform(math.log(0.05), math.log(1.0)))
        return torch.log(torch.expm1(step))
    if name.endswith((".D", "norm.weight", "norm_f.weight")):
        return uniform(0.4, 1.6)
    if name.endswith(("embeddings.weight", "lm_head.weight")):
        return uniform(-0.4, 0.4)
    if "conv1d" in name:
        return uniform(-0.5, 0.5)
    # Matrices (out, in): outputs of the order of the inputs.
    bound = math.sqrt(3.0 / shape[-1])
    return uniform(-bound, bound)


def build(layers, tied):
    model = MambaForCausalLM(config(layers, tied)).float().eval()
    expected = shapes(layers, tied)
    named = dict(model.named_parameters())
    got = {name: tuple(value.shape) for name, value in named.items()}
    assert got == expected, f"other parameters than expected:\n{sorted(got.items())}\n{sorted(expected.items())}"
    generator = torch.Generator().manual_seed(20_240_805)
    with torch.no_grad():
        for name in sorted(named):
            named[name].copy_(random_value(name, expected[name], generator))
    shared = model.lm_head.weight.data_ptr() == model.backbone.embeddings.weight.data_ptr()
    assert shared == tied, f"the head shares the embedding's weight: {shared}, wanted: {tied}"
    return model, named, generator


def expectations(model, named, generator):
    tensors, total = {}, 0.0
    for i, length in enumerate(LENGTHS):
        ids = torch.randint(0, V, (length,), generator=generator)
        targets = torch.cat([ids[1:], torch.tensor([NO_TARGET])])
        out = model(input_ids=ids[None], use_cache=False)
        logits = getattr(out, "logits", None)
        logits = (out[0] if logits is None else logits)[0]
        assert logits.shape == (length, V) and logits.dtype == torch.float32, (logits.shape, logits.dtype)
        loss = torch.nn.functional.cross_entropy(logits, targets, ignore_index=NO_TARGET, reduction="sum")
        assert bool(torch.isfinite(loss)), loss
        total = total + loss
        tensors |= {
            f"input_ids.{i}": ids,
            f"targets.{i}": targets,
            f"logits.{i}": logits.detach(),
            f"loss_sum.{i}": loss.detach().reshape(1),
        }
    model.zero_grad(set_to_none=True)
    total.backward()
    for name, value in named.items():
        assert value.grad is not None and value.grad.dtype == torch.float32, name
        assert bool(torch.isfinite(value.grad).all()) and float(value.grad.abs().max()) > 0, name
        tensors[f"grad.{name}"] = value.grad
    return {name: value.contiguous().clone() for name, value in tensors.items()}


def check_saved(folder, named, tied):
    saved = load_file(os.path.join(folder, "model.safetensors"))
    for name, value in named.items():
        assert torch.equal(saved[name], value.detach()), f"{name} was not saved as it is"
    extra = set(saved) - set(named)
    assert extra <= ({"lm_head.weight"} if tied else set()), f"more was saved than expected: {extra}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="where the files go; made if it is not there")
    parser.add_argument("--untied", action="store_true", help="the head has its own weight; one block, to keep the files small")
    arguments = parser.parse_args()
    folder, tied = arguments.folder, not arguments.untied

    torch.manual_seed(1)
    torch.set_num_threads(1)
    model, named, generator = build(2 if tied else 1, tied)
    tensors = expectations(model, named, generator)

    os.makedirs(folder, exist_ok=True)
    model.save_pretrained(folder)
    generation = os.path.join(folder, "generation_config.json")
    if os.path.exists(generation):
        os.remove(generation)
    check_saved(folder, named, tied)
    save_file(tensors, os.path.join(folder, "expected.safetensors"))

    print(f"torch {torch.__version__}, transformers {transformers.__version__}, safetensors {safetensors.__version__}")
    for name, value in named.items():
        gradient = float(value.grad.norm())
        print(f"{name:42} {str(tuple(value.shape)):14} |value| {float(value.detach().norm()):9.4f} |gradient| {gradient:9.4f}")
    for i, length in enumerate(LENGTHS):
        largest = float(tensors[f"logits.{i}"].abs().max())
        print(f"sequence {i}: {length} tokens, loss sum {float(tensors[f'loss_sum.{i}']):.4f}, largest logit {largest:.4f}")
    for file in sorted(os.listdir(folder)):
        print(f"{file}: {os.path.getsize(os.path.join(folder, file))} bytes")


if __name__ == "__main__":
    sys.exit(main())
