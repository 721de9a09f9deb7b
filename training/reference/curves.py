"""Condenses runs of head_reference.py into curves.json, which training/tests/curves.rs reads:
for every method, epoch and quantity the values of all seeds.

    python3 head_reference.py --features ../../data/banking77-minilm.safetensors --rank 32 --seed 0 1 2 \
        --method full lora r-lora gm-lora rm-lora --lambda 1e-3 --r-hat 0.5 --out RUNS
    python3 curves.py RUNS > curves.json
"""

import collections
import json
import pathlib
import sys

EPOCHS = [1, 10, 30, 60]
QUANTITIES = {"train_loss": 1, "test_loss": 1, "train_accuracy": 100, "test_accuracy": 100,
              "effective_rank": 1, "frobenius_norm": 1}


def main():
    curves = collections.defaultdict(lambda: collections.defaultdict(dict))
    for path in sorted(pathlib.Path(sys.argv[1]).glob("*.json")):
        run = json.loads(path.read_text())
        method, rank = run["settings"]["method"], run["settings"]["rank"]
        if method != "full" and rank != 32:
            continue
        for record in run["epochs"]:
            if record["epoch"] in EPOCHS:
                for name, factor in QUANTITIES.items():
                    values = curves[method][str(record["epoch"])].setdefault(name, [])
                    values.append(round(record[name] * factor, 6))
    json.dump(curves, sys.stdout, indent=1, sort_keys=True)
    print()


if __name__ == "__main__":
    main()
