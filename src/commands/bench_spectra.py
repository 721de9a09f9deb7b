"""Seconds of NumPy's (float64) and PyTorch's (float64 and float32) decompositions: JSON, one entry a width.

Arguments: repeats, threads, the largest width of thin decompositions, widths."""

import json
import sys
import time

import numpy

try:
    import torch
except ImportError:
    torch = None

repeats, threads, thin = (int(argument) for argument in sys.argv[1:4])
widths = [int(width) for width in sys.argv[4:]]
rng = numpy.random.default_rng(0)
if torch:
    torch.set_num_threads(threads)


def median_seconds(work):
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return sorted(times)[repeats // 2]


seconds = []
for width in widths:
    w = rng.standard_normal((width, width))
    warm = rng.standard_normal((64, 64))
    numpy.linalg.svd(warm)
    entry = {"values": median_seconds(lambda: numpy.linalg.svd(w, compute_uv=False))}
    if width <= thin:
        entry["thin"] = median_seconds(lambda: numpy.linalg.svd(w, full_matrices=False))
    if torch:
        for name, dtype in (("double", numpy.float64), ("single", numpy.float32)):
            matrix = torch.from_numpy(w.astype(dtype))
            torch.linalg.svdvals(torch.from_numpy(warm.astype(dtype)))
            entry[f"torch_{name}"] = median_seconds(lambda: torch.linalg.svdvals(matrix))
    seconds.append(entry)
print(
    json.dumps(
        {
            "numpy": numpy.__version__,
            "torch": torch.__version__ if torch else None,
            "seconds": seconds,
        }
    )
)
