"""Trains an adapted last layer on fixed features with PyTorch: the reference of the curves, and the
peer of the benchmark.

    y = W0 x + s B A x + bias        A (R x in), B (out x R), s = alpha / R
    loss = cross-entropy + lambda (||A A^T - I||_F^2 + ||B^T B - I||_F^2)

W0 and the first bias are torch.nn.Linear's own (from the seed); W0 stays, the bias is trained.
A is kaiming-uniform with a = sqrt(5), B is zero.

    method   lambda   directions that a step updates
    full     -        W itself, no factors (the rank is ignored)
    lora     0        all R
    r-lora   > 0      all R
    gm-lora  0        r_hat of R, drawn anew each step
    rm-lora  > 0      r_hat of R

A masked step moves only the drawn rows of A and columns of B. The others keep value and moments,
and every direction counts its own updates for Adam's bias correction.

Optimiser AdamW (weight decay 0, fused) at a constant rate; batches of 64, shuffled every epoch, the
last one partial. After every epoch: loss and accuracy over all training and test rows (the loss
without the penalty), generalization error (train minus test accuracy, and test minus train loss),
and the rank measures of dW (measures.py).

CPU seconds are of the run alone, on one thread: initialisation, training and the measurements
after every epoch; without imports, loading, and one untimed epoch on a model that is thrown away.
"""

import argparse
import itertools
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn import functional

from measures import measures

METHODS = ("full", "lora", "r-lora", "gm-lora", "rm-lora")
BATCH = 64
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


@dataclass
class Settings:
    """One run."""

    method: str
    rank: int
    alpha: float
    penalty: float
    directions: int
    learning_rate: float
    epochs: int
    seed: int


class Full:
    """dW is a free matrix: W itself is trained."""

    def __init__(self, head: torch.nn.Linear, settings: Settings):
        self.frozen = head.weight.detach().clone()
        self.weight = head.weight
        self.bias = head.bias
        self.optimizer = torch.optim.AdamW(
            [self.weight, self.bias], lr=settings.learning_rate, weight_decay=0.0, fused=True
        )

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self.weight, self.bias)

    def penalty(self) -> torch.Tensor:
        return torch.zeros(())

    def step(self, loss: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def singular_values(self) -> torch.Tensor:
        delta = self.weight.detach().double() - self.frozen.double()
        return torch.linalg.svdvals(delta)


class LowRank:
    """dW = s B A, all directions trained by every step."""

    def __init__(self, head: torch.nn.Linear, settings: Settings):
        self.frozen = head.weight.detach()
        self.bias = head.bias
        self.scale = settings.alpha / settings.rank
        outputs, inputs = head.weight.shape
        a = torch.empty(settings.rank, inputs)
        torch.nn.init.kaiming_uniform_(a, a=math.sqrt(5))
        self.a = a.requires_grad_()
        self.b = torch.zeros(outputs, settings.rank, requires_grad=True)
        self.identity = torch.eye(settings.rank)
        self.optimizer = torch.optim.AdamW(
            self.trained(), lr=settings.learning_rate, weight_decay=0.0, fused=True
        )

    def trained(self) -> list[torch.Tensor]:
        return [self.a, self.b, self.bias]

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        base = functional.linear(x, self.frozen, self.bias)
        return torch.addmm(base, x @ self.a.T, self.b.T, alpha=self.scale)

    def penalty(self) -> torch.Tensor:
        a, b = self.a, self.b
        return (a @ a.T - self.identity).square().sum() + (b.T @ b - self.identity).square().sum()

    def step(self, loss: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def singular_values(self) -> torch.Tensor:
        # dW is not formed: the core of the two QR factorisations has the same singular values.
        _, left = torch.linalg.qr(self.b.detach().double(), mode="r")
        _, right = torch.linalg.qr(self.a.detach().T.double(), mode="r")
        return self.scale * torch.linalg.svdvals(left @ right.T)


class Masked(LowRank):
    """dW = s B A, `directions` of R trained by a step.

    Direction i is row i of one matrix [A | B^T], of which A and B are views, so that Adam on the
    drawn directions is a gather, a few products of r_hat x (in + out), and a scatter.
    """

    def __init__(self, head: torch.nn.Linear, settings: Settings):
        super().__init__(head, settings)
        outputs, inputs = head.weight.shape
        self.both = torch.cat((self.a.detach(), self.b.detach().T), dim=1)
        self.a = self.both[:, :inputs].requires_grad_()
        self.b = self.both[:, inputs:].T.requires_grad_()
        self.rank, self.directions = settings.rank, settings.directions
        self.learning_rate = settings.learning_rate
        self.first = torch.zeros_like(self.both)
        self.second = torch.zeros_like(self.both)
        self.updates = torch.zeros(settings.rank, 1)
        self.draws = torch.Generator().manual_seed(3_000_000 + settings.seed)

    def trained(self) -> list[torch.Tensor]:
        return [self.bias]

    @torch.no_grad()
    def step(self, loss: torch.Tensor) -> None:
        a_grad, b_grad, self.bias.grad = torch.autograd.grad(loss, (self.a, self.b, self.bias))
        self.optimizer.step()

        drawn = torch.randperm(self.rank, generator=self.draws)[: self.directions]
        grad = torch.cat((a_grad[drawn], b_grad.T[drawn]), dim=1)
        updates = self.updates[drawn] + 1.0
        first = torch.lerp(self.first[drawn], grad, 1.0 - BETA1)
        second = self.second[drawn].mul_(BETA2).addcmul_(grad, grad, value=1.0 - BETA2)
        root = (second / (1.0 - BETA2**updates)).sqrt_().add_(EPSILON)
        change = (first / (1.0 - BETA1**updates)).div_(root)
        self.updates.index_copy_(0, drawn, updates)
        self.first.index_copy_(0, drawn, first)
        self.second.index_copy_(0, drawn, second)
        self.both.index_add_(0, drawn, change, alpha=-self.learning_rate)


def new_model(settings: Settings, inputs: int, outputs: int) -> Full | LowRank:
    torch.manual_seed(1_000_000 + settings.seed)
    head = torch.nn.Linear(inputs, outputs)
    if settings.method == "full":
        return Full(head, settings)
    return (Masked if settings.method in ("gm-lora", "rm-lora") else LowRank)(head, settings)


@torch.no_grad()
def evaluate(model: Full | LowRank, features: torch.Tensor, labels: torch.Tensor):
    logits = model.logits(features)
    correct = (logits.argmax(1) == labels).sum().item()
    return functional.cross_entropy(logits, labels).item(), correct / len(labels)


def run(settings: Settings, data: dict[str, torch.Tensor]) -> dict:
    """Trains and measures one model; the settings, a record of every epoch, and CPU seconds."""
    x, y = data["train_features"], data["train_labels"]
    outputs = int(y.max()) + 1
    start = time.process_time()
    model = new_model(settings, x.shape[1], outputs)
    shuffle = torch.Generator().manual_seed(2_000_000 + settings.seed)
    shape = (outputs, x.shape[1])
    step_seconds = 0.0
    epochs = []
    for epoch in range(1, settings.epochs + 1):
        steps_start = time.process_time()
        for batch in torch.randperm(len(x), generator=shuffle).split(BATCH):
            loss = functional.cross_entropy(model.logits(x[batch]), y[batch])
            if settings.penalty > 0.0:
                loss = loss + settings.penalty * model.penalty()
            model.step(loss)
        step_seconds += time.process_time() - steps_start
        train_loss, train_accuracy = evaluate(model, x, y)
        test_loss, test_accuracy = evaluate(model, data["test_features"], data["test_labels"])
        sigma = model.singular_values().numpy()
        with torch.no_grad():
            penalty = model.penalty().item()
        epochs.append(
            {
                "epoch": epoch,
                "train_loss": train_loss,
                "train_accuracy": train_accuracy,
                "test_loss": test_loss,
                "test_accuracy": test_accuracy,
                "generalization_error": train_accuracy - test_accuracy,
                "generalization_loss": test_loss - train_loss,
                "factor_penalty": penalty,
                **measures(sigma, shape, float(np.finfo(np.float32).eps)),
                "singular_values": sigma.tolist(),
            }
        )
    return {
        "settings": asdict(settings),
        "torch": torch.__version__,
        "cpu_seconds": time.process_time() - start,
        "cpu_seconds_steps": step_seconds,
        "epochs": epochs,
    }


def load(path: Path, held_out: int) -> dict[str, torch.Tensor]:
    """The features in float32; with `held_out`, the last rows of each class become the test set."""
    data = load_file(path)
    data["train_features"] = data["train_features"].float()
    data["test_features"] = data["test_features"].float()
    if held_out > 0:
        labels = data["train_labels"]
        last = torch.zeros(len(labels), dtype=torch.bool)
        for label in labels.unique():
            last[(labels == label).nonzero()[-held_out:]] = True
        for kind in ("features", "labels"):
            train = data[f"train_{kind}"]
            data[f"train_{kind}"], data[f"test_{kind}"] = train[~last], train[last]
    return data


def plan(arguments: argparse.Namespace) -> list[Settings]:
    """Every method, rank, lambda, r_hat and seed; runs that differ in unused settings are one."""
    runs = []
    for method, rank, penalty, share, seed in itertools.product(
        arguments.method,
        arguments.rank,
        arguments.penalty,
        arguments.r_hat,
        arguments.seed,
    ):
        masked = method in ("gm-lora", "rm-lora")
        settings = Settings(
            method=method,
            rank=0 if method == "full" else rank,
            alpha=0.0 if method == "full" else arguments.alpha_ratio * rank,
            penalty=penalty if method in ("r-lora", "rm-lora") else 0.0,
            directions=0 if method == "full" else max(1, round(share * rank)) if masked else rank,
            learning_rate=arguments.learning_rate,
            epochs=arguments.epochs,
            seed=seed,
        )
        if settings not in runs:
            runs.append(settings)
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    several = {"nargs": "+"}
    parser.add_argument("--features", type=Path, required=True, help="features file")
    parser.add_argument("--out", type=Path, required=True, help="folder for one JSON file a run")
    parser.add_argument("--method", choices=METHODS, default=["lora"], **several)
    parser.add_argument("--rank", type=int, default=[32], **several)
    parser.add_argument("--seed", type=int, default=[0], **several)
    parser.add_argument("--lambda", dest="penalty", type=float, default=[1e-3], **several)
    parser.add_argument(
        "--r-hat", type=float, default=[0.5], metavar="SHARE", **several,
        help="directions that a masked step updates, as a share of the rank (default 0.5)",
    )  # fmt: skip
    parser.add_argument("--alpha-ratio", type=float, default=1.0, help="alpha / R (default 1)")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument(
        "--held-out", type=int, default=0, metavar="ROWS",
        help="test on the last ROWS training rows of every class, and do not train on them",
    )  # fmt: skip
    arguments = parser.parse_args()
    if not all(0.0 < share <= 1.0 for share in arguments.r_hat):
        parser.error("--r-hat is a share of the rank: above 0, at most 1")
    torch.set_num_threads(1)
    data = load(arguments.features, arguments.held_out)
    arguments.out.mkdir(parents=True, exist_ok=True)

    warm = set()
    for settings in plan(arguments):
        if settings.method not in warm:
            run(Settings(**{**asdict(settings), "epochs": 1}), data)
            warm.add(settings.method)
        record = run(settings, data)
        name = (
            f"{settings.method}-R{settings.rank}-lambda{settings.penalty:g}"
            f"-rhat{settings.directions}-seed{settings.seed}.json"
        )
        (arguments.out / name).write_text(json.dumps(record) + "\n")
        last = record["epochs"][-1]
        print(
            f"{name:48} accuracy {100 * last['train_accuracy']:5.1f} /"
            f" {100 * last['test_accuracy']:5.1f} %, loss {last['train_loss']:.4f} /"
            f" {last['test_loss']:.4f}, effective rank {last['effective_rank']:5.2f},"
            f" k99 {last['energy_rank_99']:2}, CPU {record['cpu_seconds']:.2f} s"
            f" (steps {record['cpu_seconds_steps']:.2f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
