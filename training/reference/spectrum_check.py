"""Checks `rankwise audit --json` against NumPy: dense singular values of dW, and all measures.

dW = s B A is formed in float64, which the audit never does, and given to LAPACK; the orthogonality
loss is computed from dW itself. Linear, fan-in-fan-out (Conv1D), embedding and convolution LoRA
modules in PEFT's layout are read; any folder below the given one that holds an adapter counts.
The audit must have been made with its default tau, of the same path.

Prints the largest differences: singular values relative to sigma_1, measures relative to their own
value (to 1 where that is smaller). Exit 1 if any is above 1e-10, or a module is on one side only.
"""

import argparse
import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from measures import measures

TOLERANCE = 1e-10
FACTOR = re.compile(
    r"^(?:base_model\.model\.)?(?P<name>.+)\.lora_(?P<kind>embedding_)?A"
    r"(?P<adapter>\.(?!weight$)[^.]+)?(?P<suffix>\.weight)?$"
)
COMPARED = (
    "tau numerical_rank energy_rank_90 energy_rank_95 energy_rank_99 stable_rank effective_rank"
    " effective_rank_energy participation_ratio nuclear_ratio frobenius_norm spectral_norm"
    " orthogonality_loss orthogonality_floor orthogonality_excess"
).split()


def of_pattern(pattern: dict, name: str, default: float) -> float:
    """PEFT's rule: the first key that matches the end of the module's name."""
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", name):
            return value
    return default


def updates(folder: Path):
    """Name, dW in the base weight's own orientation, rank and epsilon of every module."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    for key, a in tensors.items():
        match = FACTOR.match(key)
        if not match:
            continue
        name = match["name"]
        head, tail = key[: match.end("name")], key[match.end("name") :]
        b = tensors[head + tail.replace("A", "B", 1)]
        rank = a.shape[0]
        alpha = of_pattern(config.get("alpha_pattern") or {}, name, config["lora_alpha"])
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        delta = scale * (b.double().flatten(1) @ a.double().flatten(1)).numpy()
        if match["kind"] or config.get("fan_in_fan_out"):
            delta = delta.T
        yield name, delta, rank, torch.finfo(a.dtype).eps


def expected(delta: np.ndarray, rank: int, epsilon: float, side: str) -> dict:
    """All measures of one module, from the dense update."""
    if side == "columns":
        delta = delta.T
    rows = delta.shape[0]
    sigma = np.linalg.svd(delta, compute_uv=False)[: min(rank, *delta.shape)]
    loss = float(np.linalg.norm(delta @ delta.T - np.eye(rows)) ** 2)
    floor = rows - len(sigma)
    return {
        **measures(sigma, delta.shape, epsilon),
        "singular_values": sigma.tolist(),
        "orthogonality_loss": loss,
        "orthogonality_floor": floor,
        "orthogonality_excess": loss - floor,
    }


def differences(ours: dict, theirs: dict) -> dict[str, float]:
    """Of every compared key; infinity where only one side has a value."""
    sigma, other = np.array(ours["singular_values"]), np.array(theirs["singular_values"])
    if sigma.shape != other.shape:
        return {"number of singular_values": math.inf}
    found = {"singular_values": np.abs(sigma - other).max() / (sigma[0] or 1.0)}
    for key in COMPARED:
        x, y = ours[key], theirs[key]
        if x is None or y is None:
            found[key] = 0.0 if x is y else math.inf
            continue
        # The excess is a difference of two losses: it is as good as the loss.
        size = abs(ours["orthogonality_loss"] if key == "orthogonality_excess" else x)
        found[key] = abs(x - y) / (size if key == "tau" and size else max(size, 1.0))
    return found


def audited(path: Path) -> dict[Path, dict[str, dict]]:
    """The modules of the audit by folder and name."""
    adapters = {}
    for adapter in json.loads(path.read_text())["adapters"]:
        place = Path(adapter["path"]).resolve()
        folder = place if place.is_dir() else place.parent
        adapters[folder] = {module["name"]: module for module in adapter["modules"]}
    return adapters


def check(folder: Path, modules: dict[str, dict], worst: dict[str, float]) -> bool:
    """Compares one adapter, raising `worst` where it is worse; whether everything agrees."""
    good = True
    seen = set()
    for name, delta, rank, epsilon in updates(folder):
        seen.add(name)
        module = modules.get(name)
        if module is None:
            print(f"{folder}: {name}: MISSING from the audit")
            good = False
            continue
        finite = bool(np.isfinite(delta).all())
        if finite == (module["singular_values"] is None):
            print(f"{folder}: {name}: {'finite' if finite else 'NOT finite'}, not so in the audit")
            good = False
            continue
        if not finite:
            continue
        if module["shape"] != list(delta.shape):
            print(f"{folder}: {name}: shape {list(delta.shape)}, the audit has {module['shape']}")
            good = False
            continue
        ours = expected(delta, rank, epsilon, module["orthogonality_side"])
        for key, value in differences(ours, module).items():
            worst[key] = max(worst.get(key, 0.0), value)
            if not value <= TOLERANCE:
                good = False
                print(f"{folder}: {name}: {key}: {ours.get(key)}, the audit has {module.get(key)}")
    for name in modules.keys() - seen:
        print(f"{folder}: {name}: only in the audit")
        good = False
    print(f"{folder}: {len(seen)} modules")
    return good and bool(seen)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="adapter folder, or a run that holds some")
    parser.add_argument("--audit", type=Path, help="output of rankwise audit FOLDER --json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    folders = sorted(path.parent for path in arguments.folder.rglob("adapter_config.json"))
    if not folders:
        sys.exit(f"{arguments.folder}: no adapter_config.json in it or below it")
    if not arguments.audit:
        for folder in folders:
            for name, delta, rank, epsilon in updates(folder):
                if np.isfinite(delta).all():
                    row = expected(delta, rank, epsilon, "rows")
                else:
                    row = {"singular_values": None}
                print(json.dumps({"path": str(folder), "name": name, **row}))
        return

    adapters = audited(arguments.audit)
    worst: dict[str, float] = {}
    good = True
    for folder in folders:
        if folder.resolve() in adapters:
            good &= check(folder, adapters[folder.resolve()], worst)
        else:
            print(f"{folder}: not in the audit")
            good = False
    for key, value in worst.items():
        print(f"{key:26} {value:.1e}")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
