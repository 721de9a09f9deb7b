"""Checks that PEFT reads adapter folders as meant: one module `classifier`, a linear layer.

A tiny model with such a layer is built from the shapes in adapter_model.safetensors, PEFT loads the
folder into it, and three things are compared, in float64:
    its delta weight        to s B A, with s = alpha / r (alpha / sqrt(r) with use_rslora);
    its bias                to the trained bias of the file, if there is one, bit by bit;
    its output for inputs   to W0 x + bias + s B A x.
A tensor of the file that PEFT leaves out is a mismatch too. Exit 1 on any mismatch.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file

PREFIX = "base_model.model.classifier."
A, B, BIAS = (PREFIX + name for name in ("lora_A.weight", "lora_B.weight", "base_layer.bias"))

# PEFT multiplies in float32: sums of at most a few hundred products, 2^-24 of rounding each.
TOLERANCE = 1e-6


class Head(torch.nn.Module):
    """The module that the adapter belongs to."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.classifier = torch.nn.Linear(inputs, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(x)


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, relative to the expected tensor's Frobenius norm (1 if that is zero)."""
    norm = expected.norm().item()
    return (found.double() - expected).abs().max().item() / (norm or 1.0)


def check(folder: Path) -> bool:
    config = json.loads((folder / "adapter_config.json").read_text())
    file = load_file(folder / "adapter_model.safetensors")
    if missing := {A, B} - file.keys():
        print(f"{folder}: MISMATCH: no tensor {', '.join(sorted(missing))}")
        return False
    a, b = file[A].double(), file[B].double()
    rank = a.shape[0]
    scale = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
    delta = scale * b @ a

    torch.manual_seed(0)
    head = Head(a.shape[1], b.shape[0])
    frozen = head.classifier.weight.detach().double()
    bias = file[BIAS] if BIAS in file else head.classifier.bias.detach().clone()
    x = torch.randn(16, a.shape[1])
    output = x.double() @ (frozen + delta).T + bias.double()

    model = PeftModel.from_pretrained(head, folder).eval()
    layer = model.base_model.model.classifier
    with torch.no_grad():
        errors = {
            "delta weight": error(layer.get_delta_weight("default"), delta),
            "output": error(model(x), output),
        }
    faults = [what for what, value in errors.items() if not value <= TOLERANCE]
    if config["r"] != rank:
        faults.append(f"r is {config['r']} in the configuration, {rank} in the file")
    if not torch.equal(layer.base_layer.bias, bias):
        faults.append("bias")
    if (config.get("bias", "none") != "none") != (BIAS in file):
        faults.append(f"bias is {config.get('bias')!r}, the file has {BIAS in file}")
    if unknown := file.keys() - {A, B, BIAS}:
        faults.append(f"not loaded: {', '.join(sorted(unknown))}")

    print(
        f"{folder}: {b.shape[0]} x {a.shape[1]}, rank {rank}, scale {scale:g},"
        f" delta weight {errors['delta weight']:.1e}, output {errors['output']:.1e},"
        f" {'trained' if BIAS in file else 'no'} bias:"
        f" {'MISMATCH: ' + '; '.join(faults) if faults else 'equal'}"
    )
    return not faults


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="+", help="adapter folder in PEFT's layout")
    results = [check(folder) for folder in parser.parse_args().folder]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
