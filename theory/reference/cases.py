"""Writes cases.json: case files for `rankwise verify --case`, with what NumPy makes of them.

Independent of the Rust code on purpose: sums and products written out as printed, the singular
triplets of E spent in the order of Zeng & Lee's Lemma 1 with explicit inverses, biases from norms.
The expectations stand in each case under `expected`, a key that the program ignores.

    python cases.py > cases.json          (Python 3.10 or later, NumPy 1.26 or later)
"""

import json

import numpy as np
from numpy.linalg import inv, matrix_rank, norm, svd


def relu(x):
    return np.maximum(x, 0.0)


def block_product(weights, layers, width):
    p = np.eye(width)
    for layer in layers:
        p = weights[layer - 1] @ p
    return p


def prod(factors):
    return float(np.prod(list(factors))) if factors else 1.0


def betas(F, b, sigma):
    n = len(F)

    def printed(s):
        candidates = [s]
        for i in range(1, n + 1):
            value = s * prod([F[j - 1] for j in range(1, i + 1)])
            for j in range(1, i + 1):
                value += prod([F[k - 1] for k in range(j + 1, i)]) * b[j - 1]
            candidates.append(value)
        return max(candidates)

    def repaired(s):
        candidates = []
        for i in range(0, n):
            value = s * prod([F[j - 1] for j in range(1, i + 1)])
            for j in range(1, i + 1):
                value += prod([F[k - 1] for k in range(j + 1, i + 1)]) * b[j - 1]
            candidates.append(value)
        return max(candidates)

    literal, trace = np.sqrt(norm(sigma)), np.sqrt(np.trace(sigma))
    return printed(literal), printed(trace), repaired(trace)


def construct(case):
    """Adapted weights and biases by Lemma 1: triplet after triplet, explicit inverses."""
    D, R = case["D"], case["R"]
    W = [np.array(w) for w in case["frozen_W"]]
    radius = max(norm(x) for x in case["x_points"])
    weights, biases = [], []
    for i, layers in enumerate(case["partition"]):
        target, bias = np.array(case["target_W"][i]), np.array(case["target_b"][i])
        u, s, vt = svd(target - block_product(W, layers, D))
        q, used, own = np.eye(D), 0, []
        for position, layer in enumerate(layers):
            after = block_product(W, layers[position + 1 :], D)
            take = slice(used, min(used + R[layer - 1], D))
            used = take.stop
            part = (u[:, take] * s[take]) @ vt[take]
            own.append(W[layer - 1] + inv(after) @ part @ inv(q))
            q = own[-1] @ q
        c, q_l = np.zeros(D), np.eye(D)
        for position, w in enumerate(own):
            q_l = w @ q_l
            last = position + 1 == len(own)
            offset = bias if last else 1.001 * radius * norm(q_l, axis=1)
            biases.append(offset - w @ c)
            c = offset
        radius = norm(q, 2) * radius + norm(bias)
        weights += own
    return weights, biases


def expected(case):
    D, L = case["D"], case["L_target"]
    targets = [np.array(w) for w in case["target_W"]]
    target_b = [np.array(b) for b in case["target_b"]]
    frozen = [np.array(w) for w in case["frozen_W"]]
    sigma = np.array(case["Sigma"])
    E = [w - block_product(frozen, p, D) for w, p in zip(targets, case["partition"])]
    budgets = [sum(case["R"][layer - 1] for layer in p) for p in case["partition"]]
    e = [float(svd(m)[1][r]) if r < D else 0.0 for m, r in zip(E, budgets)]
    ranks = [int(matrix_rank(m, tol=1e-10)) for m in E]
    F = [float(norm(w)) for w in targets]
    beta = betas(F, [float(norm(b)) for b in target_b], sigma)
    largest = max(f + x for f, x in zip(F, e))
    total = sum(largest ** (L - i) * e[i - 1] for i in range(1, L + 1))
    bound, m = 0.0, float(np.sqrt(np.trace(sigma)))
    for w, b, x in zip(targets, target_b, e):
        bound, m = bound * (norm(w, 2) + x) + x * m, norm(w, 2) * m + norm(b)
    out = {
        "rank_E": ranks,
        "e": e,
        "F": F,
        "norm_Sigma_F": float(norm(sigma)),
        "trace_Sigma": float(np.trace(sigma)),
        "beta_literal": beta[0],
        "beta_trace": beta[1],
        "beta_corrected": beta[2],
        "bound_literal": beta[0] * total,
        "bound_trace": beta[1] * total,
        "bound_corrected": beta[2] * total,
        "bound_spectral": float(bound),
        "exact_with_given_R": all(r >= k for r, k in zip(budgets, ranks)),
        "R_star_uniform": max(-(-k // len(p)) for k, p in zip(ranks, case["partition"])),
    }
    if L == 1:
        u, s, vt = svd(E[0])
        rest = (u[:, budgets[0] :] * s[budgets[0] :]) @ vt[budgets[0] :]
        out["linear_rms_plain"] = float(np.sqrt(np.trace(rest @ sigma @ rest.T)))
        _, vectors = np.linalg.eigh(E[0] @ sigma @ E[0].T)
        top = vectors[:, ::-1][:, : budgets[0]]
        rest = E[0] - top @ top.T @ E[0]
        out["linear_rms_sigma_aware"] = float(np.sqrt(np.trace(rest @ sigma @ rest.T)))
    if "x_points" in case and "singular" not in case["id"]:
        weights, biases = construct(case)
        x = np.array(case["x_points"])
        p = np.array(case.get("x_probs", np.full(len(x), 1 / len(x))))
        z, ideal, tail = x, x, 0.0
        for i, layers in enumerate(case["partition"]):
            delta = block_product(weights, layers, D) - targets[i]
            moment = z.T @ np.diag(p) @ z
            tail = tail * norm(targets[i], 2) + np.sqrt(np.trace(delta @ moment @ delta.T))
            for layer in layers:
                z = relu(z @ weights[layer - 1].T + biases[layer - 1])
            ideal = relu(ideal @ targets[i].T + target_b[i])
        measured = float(p @ norm(z - ideal, axis=1))
        out["bound_tail"] = float(tail)
        out["measured"] = measured
        bounds = ["literal", "trace", "corrected", "spectral", "tail"]
        out["violated"] = {k: bool(measured > out[f"bound_{k}"] + 1e-12) for k in bounds}
    return out


def case(id, targets, biases, frozen, partition, ranks, points=None, probs=None, sigma=None):
    if points is not None:
        points = np.asarray(points)
        p = np.full(len(points), 1 / len(points)) if probs is None else np.asarray(probs)
        sigma = points.T @ np.diag(p) @ points
    lists = lambda matrices: [np.asarray(m).tolist() for m in matrices]
    out = {
        "id": id,
        "D": len(targets[0]),
        "L_target": len(targets),
        "L_frozen": len(frozen),
        "target_W": lists(targets),
        "target_b": lists(biases),
        "frozen_W": lists(frozen),
        "partition": partition,
        "R": ranks,
        "Sigma": np.asarray(sigma).tolist(),
    }
    if points is not None:
        out["x_points"] = points.tolist()
    if probs is not None:
        out["x_probs"] = list(probs)
    out["expected"] = expected(out)
    return out


def main():
    rng = np.random.default_rng(20)
    net = lambda depth, width: [rng.standard_normal((width, width)) / np.sqrt(width) for _ in range(depth)]
    bias = lambda depth, width: [rng.standard_normal(width) for _ in range(depth)]
    cases = [
        case("by-hand", [np.diag([2.0, 1.0])], [np.zeros(2)], [np.zeros((2, 2))], [[1]], [1], sigma=np.eye(2)),
        case("one-from-two", net(1, 3), bias(1, 3), net(2, 3), [[1, 2]], [1, 1],
             points=rng.standard_normal((7, 3)), probs=[0.25, 0.125, 0.125, 0.125, 0.125, 0.125, 0.125]),
        case("two-from-three", net(2, 4), bias(2, 4), net(3, 4), [[1, 2], [3]], [1, 0, 2],
             points=rng.standard_normal((9, 4))),
        case("three-from-five", net(3, 3), bias(3, 3), net(5, 3), [[1], [2, 3, 4], [5]], [1, 1, 0, 1, 0],
             points=rng.standard_normal((8, 3))),
        case("moment-alone", net(3, 4), bias(3, 4), net(3, 4), [[1], [2], [3]], [1, 2, 3],
             sigma=np.diag([4.0, 2.0, 1.0, 0.0])),
    ]
    frozen = net(4, 5)
    low = [block_product(frozen, p, 5) + np.outer(rng.standard_normal(5), rng.standard_normal(5)) for p in ([1, 2], [3, 4])]
    cases.append(case("exact", low, bias(2, 5), frozen, [[1, 2], [3, 4]], [1, 0, 0, 1], points=rng.standard_normal((6, 5))))
    # Nearly flat E: with an exactly flat one the best N, and so the measured error, is not unique.
    d, e = 6, 0.01
    cases.append(case("printed-bound-fails", [np.eye(d) / (2 * np.sqrt(d))], [np.full(d, e * d**1.5)],
                      [np.diag(1 / (2 * np.sqrt(d)) - e * (1 + 0.01 * np.arange(d)))], [[1]], [1], points=np.sqrt(d) * np.eye(d)))
    cases.append(case("singular", net(1, 3), bias(1, 3), [np.eye(3), np.diag([1.0, 2.0, 0.0])], [[1, 2]], [1, 1],
                      points=np.eye(3)))
    print("[" + ",\n".join(map(json.dumps, cases)) + "]")


if __name__ == "__main__":
    main()
