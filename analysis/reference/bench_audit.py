"""`rankwise audit` beside NumPy, PyTorch and gradience: all singular values of every module of an adapter.

    python bench_audit.py OUT_DIR --rankwise target/release/rankwise [--gradience gradience] [--repeats 5]

OUT_DIR gets two adapters in PEFT's layout with normal factors (kept and used again), and results.md and
results.json. NumPy and PyTorch do what is known to be best: QR of B and of A transposed in float64, then
the singular values of the product of the two triangles. The runs of one round follow each other, rounds
are repeated, and medians are printed.

Every run is a process of its own. `wall` and `CPU` are of the whole process; `work` is what a script
measures itself, from opening the file to the last singular value, without starting the interpreter and
importing. rankwise and gradience have no `work` of their own: theirs is the whole command. Memory is
VmHWM, which counts the pages of a mapped file, and the largest RssAnon, which does not (ru_maxrss would
count what this script held when it started the process). They are sampled in a first run, which is not
timed and also brings the file into the page cache.

Needs numpy, torch, safetensors; gradience 0.11.0 in its own environment (`pip install gradience==0.11.0`).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

THREAD_VARIABLES = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"]

# Largest relative difference from NumPy's singular values at which the work counts as the same: the
# factors are float32, their products float64, so only float64's rounding may differ.
SAME = 1e-10


def llama():
    """Llama-7B, all linear layers: 224 modules."""
    for layer in range(32):
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield f"model.layers.{layer}.self_attn.{name}", 4096, 4096
        for name in ("gate_proj", "up_proj"):
            yield f"model.layers.{layer}.mlp.{name}", 4096, 11008
        yield f"model.layers.{layer}.mlp.down_proj", 11008, 4096


def base():
    """bert-base, all linear layers of the encoder: 72 modules."""
    for layer in range(12):
        at = f"bert.encoder.layer.{layer}"
        for name in ("attention.self.query", "attention.self.key", "attention.self.value"):
            yield f"{at}.{name}", 768, 768
        yield f"{at}.attention.output.dense", 768, 768
        yield f"{at}.intermediate.dense", 768, 3072
        yield f"{at}.output.dense", 3072, 768


ADAPTERS = {"llama-7b, r = 16": (llama, 16, "llama"), "bert-base, r = 8": (base, 8, "base")}


def make(folder: Path, layers, rank: int) -> None:
    if (folder / "adapter_model.safetensors").exists():
        return
    import numpy as np
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    tensors, targets = {}, set()
    for name, inputs, outputs in layers():
        key = f"base_model.model.{name}"
        # Deviations as after training: A near its initialisation, B smaller.
        tensors[f"{key}.lora_A.weight"] = rng.normal(0, inputs**-0.5, (rank, inputs)).astype(np.float32)
        tensors[f"{key}.lora_B.weight"] = rng.normal(0, 0.01, (outputs, rank)).astype(np.float32)
        targets.add(name.rsplit(".", 1)[1])
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": sorted(targets)}
    config |= {"base_model_name_or_path": "none", "task_type": None, "bias": "none", "use_rslora": False}
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


def peer(which: str, folder: Path, out: Path) -> None:
    """The work of NumPy or PyTorch, in a process of its own."""
    file = folder / "adapter_model.safetensors"
    scale = 2.0
    spectra = {}
    if which == "numpy":
        import numpy as np
        from safetensors import safe_open

        start = time.perf_counter()
        with safe_open(file, "np") as tensors:
            for key in tensors.keys():
                if key.endswith(".lora_A.weight"):
                    a = tensors.get_tensor(key).astype(np.float64)
                    b = tensors.get_tensor(key.replace("lora_A", "lora_B")).astype(np.float64)
                    r_b, r_a = np.linalg.qr(b, mode="r"), np.linalg.qr(a.T, mode="r")
                    spectra[key] = scale * np.linalg.svd(r_b @ r_a.T, compute_uv=False)
    else:
        import torch
        from safetensors import safe_open

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        start = time.perf_counter()
        with safe_open(file, "pt") as tensors:
            for key in tensors.keys():
                if key.endswith(".lora_A.weight"):
                    a = tensors.get_tensor(key).double()
                    b = tensors.get_tensor(key.replace("lora_A", "lora_B")).double()
                    r_b = torch.linalg.qr(b, mode="r").R
                    r_a = torch.linalg.qr(a.T, mode="r").R
                    spectra[key] = scale * torch.linalg.svdvals(r_b @ r_a.T)
    work = time.perf_counter() - start
    names = {k.removeprefix("base_model.model.").removesuffix(".lora_A.weight"): s for k, s in spectra.items()}
    out.write_text(json.dumps({"work": work, "spectra": {k: s.tolist() for k, s in names.items()}}))


def run(command: list, threads: int, output: Path, is_sampled: bool) -> dict:
    """Wall time, CPU time and memory of a command; its output goes into a file."""
    environment = os.environ | {name: str(threads) for name in THREAD_VARIABLES}
    environment |= {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    with open(output, "wb") as sink, tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=sink, stderr=errors, env=environment)
        largest = {"VmHWM": 0, "RssAnon": 0}
        while is_sampled:
            done, status, usage = os.wait4(process.pid, os.WNOHANG)
            if done:
                break
            try:
                text = Path(f"/proc/{process.pid}/status").read_text()
                for field, value in largest.items():
                    largest[field] = max(value, int(text.split(f"{field}:")[1].split()[0]))
            except (OSError, IndexError):
                pass
            time.sleep(0.0005)
        else:
            _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            errors.seek(0)
            raise SystemExit(f"{command}: exit status {process.returncode}\n{errors.read().decode()[-2000:]}")
    return {
        "wall": wall,
        "cpu": usage.ru_utime + usage.ru_stime,
        "peak_mib": largest["VmHWM"] / 1024,
        "anonymous_mib": largest["RssAnon"] / 1024,
    }


def largest_difference(spectra: dict, reference: dict) -> float:
    if spectra.keys() != reference.keys():
        raise SystemExit(f"other modules than NumPy's: {sorted(spectra.keys() ^ reference.keys())[:3]}")
    worst = 0.0
    for name, values in reference.items():
        if len(values) != len(spectra[name]):
            raise SystemExit(f"{name}: {len(spectra[name])} singular values, NumPy has {len(values)}")
        worst = max(worst, max(abs(x - y) for x, y in zip(values, spectra[name])) / values[0])
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--rankwise", type=Path)
    parser.add_argument("--gradience", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peer", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        return peer(options.peer[0], Path(options.peer[1]), options.out)
    if options.rankwise is None:
        parser.error("--rankwise is needed")

    out = options.out
    results = []
    for label, (layers, rank, short) in ADAPTERS.items():
        folder = out / short
        make(folder, layers, rank)
        script, answer = str(Path(__file__).resolve()), out / "answer.json"
        commands = {}
        for threads in (1, 2):
            command = [options.rankwise, "audit", folder, "--json", "--threads", str(threads)]
            commands["rankwise audit --json", threads] = command
        for name, title in (("numpy", "NumPy, QR + core"), ("torch", "PyTorch, QR + core")):
            for threads in (1, 2):
                command = [sys.executable, script, answer, "--peer", name, folder]
                commands[title, threads] = command
        if options.gradience:
            for threads in (1, 2):
                command = [options.gradience, "audit", "--peft-dir", folder, "--json", "--layers", "--no-udr"]
                commands["gradience audit", threads] = command

        runs = {key: [] for key in commands}
        spectra, memory = {}, {}
        for repeat in range(-1, options.repeats):
            for key, command in commands.items():
                measured = run([str(part) for part in command], key[1], out / "output", repeat < 0)
                measured["work"] = measured["wall"]
                if "QR" in key[0]:
                    said = json.loads(answer.read_text())
                    measured["work"] = said["work"]
                    spectra[key] = said["spectra"]
                elif key[0].startswith("rankwise"):
                    modules = json.loads((out / "output").read_text())["adapters"][0]["modules"]
                    spectra[key] = {m["name"]: m["singular_values"] for m in modules}
                if repeat < 0:
                    memory[key] = measured
                else:
                    runs[key].append(measured)
        reference = spectra["NumPy, QR + core", 1]
        for key, spectrum in spectra.items():
            difference = largest_difference(spectrum, reference)
            if difference > SAME:
                raise SystemExit(f"{key}: singular values differ from NumPy's by {difference}")
        for (title, threads), measured in runs.items():
            middle = {k: statistics.median(run[k] for run in measured) for k in ("wall", "cpu", "work")}
            peaks = {k: memory[title, threads][k] for k in ("peak_mib", "anonymous_mib")}
            results.append({"adapter": label, "program": title, "threads": threads} | middle | peaks)

    for row in results:
        ours = next(
            r for r in results
            if (r["adapter"], r["threads"]) == (row["adapter"], row["threads"]) and r["program"].startswith("rankwise")
        )  # fmt: skip
        row["work_to_rankwise"], row["cpu_to_rankwise"] = row["work"] / ours["wall"], row["cpu"] / ours["cpu"]
    lines = [
        "| adapter | program | threads | wall, s | work, s | CPU, s | peak, MiB | of it anonymous | work ÷ rankwise's wall | CPU ÷ rankwise's |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results:
        times = " | ".join(f"{row[k]:.3f}" for k in ("wall", "work", "cpu"))
        sizes = " | ".join(f"{row[k]:.0f}" for k in ("peak_mib", "anonymous_mib"))
        ratios = " | ".join(f"{row[k]:.1f}" for k in ("work_to_rankwise", "cpu_to_rankwise"))
        lines.append(f"| {row['adapter']} | {row['program']} | {row['threads']} | {times} | {sizes} | {ratios} |")
    text = "\n".join(lines) + "\n"
    (out / "results.md").write_text(text)
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    for leftover in ("answer.json", "output"):
        (out / leftover).unlink(missing_ok=True)
    print(text, end="")


if __name__ == "__main__":
    main()
