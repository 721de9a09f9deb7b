"""Makes the features file of a text classification task with transformers, or checks one.

The safetensors file has train_features and test_features (float16, rows x 384), train_labels and
test_labels (int64), and under the metadata key `rankwise` a JSON object with the format's name, the
class names (sorted; a label is an index into them) and notes. Training rows are the first
--per-class of every class, test rows are all; both in file order.

With --compare FILE the features are compared to those of FILE, whose class names and labels must be
equal. FILE holds only float16: of a value that was rounded another way, the float32 value was at
least as far from ours as the rounding boundary is, and that distance is printed. Exit 1 if classes
or labels differ, or any distance is above --tolerance.
"""

import argparse
import csv
import json
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from minilm import MODEL, Encoder

BATCH = 64


def read_rows(path: Path) -> list[tuple[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["text"], row["category"]) for row in csv.DictReader(file)]


def first_per_class(rows: list[tuple[str, str]], per_class: int) -> list[tuple[str, str]]:
    seen = Counter()
    kept = []
    for text, label in rows:
        seen[label] += 1
        if seen[label] <= per_class:
            kept.append((text, label))
    return kept


def encode(encoder: Encoder, texts: list[str]) -> np.ndarray:
    """Features in float32. Batches hold sentences of one length, so that nothing is padded."""
    rows = [encoder.ids(text) for text in texts]
    of_length = defaultdict(list)
    for index, row in enumerate(rows):
        of_length[len(row)].append(index)
    features = np.empty((len(rows), 384), np.float32)
    for indices in of_length.values():
        for start in range(0, len(indices), BATCH):
            batch = indices[start : start + BATCH]
            features[batch] = encoder.features([rows[index] for index in batch]).numpy()
    return features


def compare(ours: dict[str, np.ndarray], classes: list[str], path: Path, tolerance: float) -> bool:
    """Prints how `path` differs from our float32 features; whether it is within the tolerance."""
    with safe_open(path, "numpy") as file:
        header = json.loads(file.metadata()["rankwise"])
        theirs = {key: file.get_tensor(key) for key in file.keys()}
    good = header["classes"] == classes
    print(f"{path}: class names", "equal" if good else "DIFFER")
    for split in ("train", "test"):
        features, labels = f"{split}_features", f"{split}_labels"
        if not np.array_equal(ours[labels], theirs[labels]):
            print(f"{labels} DIFFER")
            good = False
            continue
        exact = ours[features].astype(np.float64)
        rounded = ours[features].astype(np.float16)
        other = theirs[features]
        differing = rounded != other
        # Between two neighbours the boundary is their mean; further apart, the nearest to `other`.
        toward = np.nextafter(other, rounded)
        boundary = (other.astype(np.float64) + toward.astype(np.float64)) / 2
        distance = np.abs(exact - boundary)[differing].max(initial=0.0)
        print(
            f"{features}: {differing.sum()} of {differing.size} float16 values differ;"
            f" max |theirs - our float32| {np.abs(exact - other).max():.2e};"
            f" some float32 value differs by at least {distance:.2e}"
        )
        good &= distance <= tolerance
    return bool(good)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--train", type=Path, required=True, help="CSV with text and category")
    parser.add_argument("--test", type=Path, required=True, help="CSV with text and category")
    parser.add_argument("--per-class", type=int, default=40, help="training rows kept a class")
    parser.add_argument("--out", type=Path, help="features file to write")
    parser.add_argument("--compare", type=Path, help="features file to check")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-5,
        help="largest distance in float32 (default 1e-5: ten times the float32 rounding error)",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    encoder = Encoder(arguments.model)
    rows = {
        "train": first_per_class(read_rows(arguments.train), arguments.per_class),
        "test": read_rows(arguments.test),
    }
    classes = sorted({label for _, label in rows["train"]})
    index = {label: i for i, label in enumerate(classes)}
    tensors = {}
    for split, pairs in rows.items():
        tensors[f"{split}_features"] = encode(encoder, [text for text, _ in pairs])
        tensors[f"{split}_labels"] = np.array([index[label] for _, label in pairs], np.int64)
        print(f"{split}: {len(pairs)} rows, {len(classes)} classes")

    if arguments.out:
        header = {
            "format": "rankwise features v1",
            "classes": classes,
            "notes": {"encoder": MODEL, "made_by": "features_reference.py"},
        }
        halves = {
            key: value.astype(np.float16) if value.dtype == np.float32 else value
            for key, value in tensors.items()
        }
        save_file(halves, arguments.out, {"rankwise": json.dumps(header)})
        print(f"{arguments.out}: {arguments.out.stat().st_size} bytes")
    if arguments.compare:
        good = compare(tensors, classes, arguments.compare, arguments.tolerance)
        sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
