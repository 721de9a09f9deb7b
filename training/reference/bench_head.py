"""One head run of rankwise beside the same run in PyTorch: CPU seconds of both and their ratio.

The PyTorch side (head_reference.py) counts the run alone, without imports, loading and a warm-up
epoch. The rankwise side counts the whole process, with its start, its records and its adapter.

    cargo build --release && python3 training/reference/bench_head.py [--repeats 3]
"""

import argparse
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
METHODS = ["full", "lora", "r-lora", "gm-lora", "rm-lora"]


def children_cpu():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def ours(program, method):
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "train", "--quiet", "--threads", "1", "--method", method, "--out", folder]
        if method != "full":
            command += ["--rank", "32"]
        if method in ("r-lora", "rm-lora"):
            command += ["--set", "method.lambda=1e-3"]
        if method in ("gm-lora", "rm-lora"):
            command += ["--set", "method.directions=16"]
        before = children_cpu()
        subprocess.run(command, check=True)
        return children_cpu() - before


def peer(method):
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, HERE / "head_reference.py", "--method", method, "--rank", "32",
                   "--features", ROOT / "data/banking77-minilm.safetensors", "--seed", "0",
                   "--lambda", "1e-3", "--r-hat", "0.5", "--out", folder]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        (file,) = pathlib.Path(folder).glob("*.json")
        return json.loads(file.read_text())["cpu_seconds"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=ROOT / "target/release/rankwise", type=pathlib.Path)
    parser.add_argument("--repeats", default=3, type=int)
    arguments = parser.parse_args()
    print("| method (R = 32) | rankwise, CPU s | PyTorch, CPU s | ratio |\n|---|---|---|---|")
    for method in METHODS:
        pairs = [(ours(arguments.program, method), peer(method)) for _ in range(arguments.repeats)]
        mine, theirs = (statistics.median(column) for column in zip(*pairs))
        ratio = statistics.median(a / b for a, b in pairs)
        print(f"| {method} | {mine:.2f} | {theirs:.2f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
