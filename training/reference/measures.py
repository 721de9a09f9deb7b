"""Rank measures of an update dW from its singular values, in float64.

With sigma the singular values (descending), lambda = sigma^2, p = sigma / sum sigma and
q = lambda / sum lambda:

    numerical_rank          #{sigma > tau},  tau = max(m, n) eps sigma_1 (Golub & Van Loan), eps of
                            the dtype that dW (or its factors) is stored in
    energy_rank_90, 95, 99  least k with sum of the first k lambda >= 0.90, 0.95, 0.99 of all
    stable_rank             sum lambda / lambda_1 (Rudelson & Vershynin 2007)
    effective_rank          exp H(p) (Roy & Vetterli 2007)
    effective_rank_energy   exp H(q)
    participation_ratio     (sum lambda)^2 / sum lambda^2
    nuclear_ratio           (sum sigma)^2 / sum lambda
    orthogonality_*         || dW dW^T - I ||_F^2 = sum_{i <= r} (lambda_i - 1)^2 + (rows - r), with
                            r the number of singular values; its floor rows - r, and the excess
A zero update has ranks 0 and ratios None.
"""

import numpy as np


def measures(sigma: np.ndarray, shape: tuple[int, int], epsilon: float) -> dict:
    """All measures; `epsilon` is the machine epsilon of the storage dtype."""
    sigma = np.asarray(sigma, np.float64)
    tau = max(shape) * epsilon * sigma[0]
    energy = sigma**2
    total = energy.sum()
    zero = total == 0.0

    def energy_rank(share: float) -> int:
        return 0 if zero else int(np.argmax(np.cumsum(energy) >= share * total)) + 1

    def entropy_rank(weights: np.ndarray) -> float:
        weights = weights[weights > 0.0] / weights.sum()
        return float(np.exp(-(weights * np.log(weights)).sum()))

    floor = shape[0] - len(sigma)
    excess = float(((energy - 1.0) ** 2).sum())
    return {
        "tau": float(tau),
        "numerical_rank": int((sigma > tau).sum()),
        "energy_rank_90": energy_rank(0.90),
        "energy_rank_95": energy_rank(0.95),
        "energy_rank_99": energy_rank(0.99),
        "stable_rank": None if zero else float(total / energy[0]),
        "effective_rank": None if zero else entropy_rank(sigma),
        "effective_rank_energy": None if zero else entropy_rank(energy),
        "participation_ratio": None if zero else float(total**2 / (energy**2).sum()),
        "nuclear_ratio": None if zero else float(sigma.sum() ** 2 / total),
        "frobenius_norm": float(np.sqrt(total)),
        "spectral_norm": float(sigma[0]),
        "orthogonality_loss": floor + excess,
        "orthogonality_floor": floor,
        "orthogonality_excess": excess,
    }
