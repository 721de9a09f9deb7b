"""Seconds of NumPy's singular values and thin decompositions: JSON, one entry a width."""

import json
import sys
import time

import numpy

repeats, widths = int(sys.argv[1]), [int(width) for width in sys.argv[2:]]
rng = numpy.random.default_rng(0)


def median_seconds(work):
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return sorted(times)[repeats // 2]


result = {"version": numpy.__version__, "seconds": []}
for width in widths:
    w = rng.standard_normal((width, width))
    numpy.linalg.svd(w)
    result["seconds"].append(
        [
            median_seconds(lambda: numpy.linalg.svd(w, compute_uv=False)),
            median_seconds(lambda: numpy.linalg.svd(w, full_matrices=False)),
        ]
    )
print(json.dumps(result))
