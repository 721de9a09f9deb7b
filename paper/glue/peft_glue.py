"""LoRA and RM-LoRA on GLUE with PyTorch and PEFT: the peer of `rankwise train`'s runs.

    python peft_glue.py MODEL DATA --tasks rte,mrpc --methods lora,rm-lora --seeds 0,1,2 > peft.jsonl

MODEL is a BERT checkpoint folder with its tokenizer, DATA the folder with RTE/, MRPC/, CoLA/, STS-B/
as GLUE's own archives have them. The recipe is that of recipe.toml beside this file: LoRA r = 8,
alpha = 8 on every linear layer of the blocks, the classifier trained, AdamW without decay, a linear
schedule with 6 % warm-up, clipping at 1, batches of 32 with dynamic padding, at most 128 tokens.
RM-LoRA: lambda = 1e-4 on A and B of every module, 6 of 8 directions a step, drawn anew; directions
that are not drawn keep value and moments, and every direction counts its own updates.

Written for torch 2.15.0, transformers 5.23.0, peft 0.21.2, scipy. One line of JSON a run.
"""

import argparse
import json
import math
import os
import time

import peft
import scipy.stats
import torch
import transformers

TASKS = {
    # folder, columns of texts, column of the label, names of the classes, header
    "rte": ("RTE", (1, 2), 3, ["entailment", "not_entailment"], True),
    "mrpc": ("MRPC", (3, 4), 0, ["0", "1"], True),
    "cola": ("CoLA", (3,), 1, ["0", "1"], False),
    "stsb": ("STS-B", (7, 8), 9, None, True),
}
RANK, DIRECTIONS, LAMBDA = 8, 6, 1e-4
BATCH, LENGTH, WARMUP, CLIP = 32, 128, 0.06, 1.0


def read(data, task, part):
    folder, texts, label, classes, has_header = TASKS[task]
    path = os.path.join(data, folder, part + ".tsv")
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = [line.rstrip("\r\n").split("\t") for line in file]
    rows = rows[1:] if has_header else rows
    target = (lambda row: float(row[label])) if classes is None else (lambda row: classes.index(row[label]))
    return [([row[column] for column in texts], target(row)) for row in rows]


def evaluate(model, batches, task):
    model.eval()
    outputs, labels, loss, count = [], [], 0.0, 0
    with torch.no_grad():
        for batch in batches:
            answer = model(**batch)
            outputs.append(answer.logits)
            labels.append(batch["labels"])
            loss += float(answer.loss) * len(batch["labels"])
            count += len(batch["labels"])
    model.train()
    outputs, labels = torch.cat(outputs), torch.cat(labels)
    if task == "stsb":
        predicted = outputs.squeeze(-1).double().numpy()
        known = labels.double().numpy()
        metrics = {
            "pearson": float(scipy.stats.pearsonr(predicted, known)[0]),
            "spearman": float(scipy.stats.spearmanr(predicted, known)[0]),
        }
    else:
        predicted = outputs.argmax(-1)
        right = (predicted == labels).double()
        true = [int(((predicted == a) & (labels == b)).sum()) for a in (0, 1) for b in (0, 1)]
        tn, fn, fp, tp = true
        product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
        metrics = {
            "accuracy": float(right.mean()),
            "f1": 2 * tp / max(2 * tp + fp + fn, 1),
            "matthews": (tp * tn - fp * fn) / math.sqrt(product) if product else 0.0,
        }
    return loss / count, metrics


class Masked:
    """AdamW whose low-rank directions move only when they are drawn."""

    def __init__(self, model, rate):
        self.rate = rate
        self.pairs, self.rest = [], []
        for module in model.modules():
            if hasattr(module, "lora_A") and "default" in module.lora_A:
                a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
                self.pairs.append((a, b))
        inside = {id(p) for pair in self.pairs for p in pair}
        self.rest = [p for p in model.parameters() if p.requires_grad and id(p) not in inside]
        zeros = lambda p: (torch.zeros_like(p), torch.zeros_like(p))
        self.moments = {id(p): zeros(p) for pair in self.pairs for p in pair}
        self.moments.update({id(p): zeros(p) for p in self.rest})
        self.counts = {id(p): torch.zeros(RANK) for pair in self.pairs for p in pair}
        self.steps = 0

    def draw(self):
        self.chosen = [torch.randperm(RANK)[:DIRECTIONS] for _ in self.pairs]

    def regularise(self):
        for a, b in self.pairs:
            for factor in (a, b.T):
                excess = factor @ factor.T - torch.eye(RANK)
                gradient = 4 * LAMBDA * excess @ factor
                owner = a if factor is a else b
                owner.grad += gradient if owner is a else gradient.T

    def mask(self):
        """Gradients of directions that were not drawn are not computed, so not clipped by."""
        for (a, b), chosen in zip(self.pairs, self.chosen):
            keep = torch.zeros(RANK)
            keep[chosen] = 1.0
            a.grad *= keep[:, None]
            b.grad *= keep[None, :]

    def step(self, factor):
        rate = self.rate * factor
        self.steps += 1
        with torch.no_grad():
            for p in self.rest:
                m, v = self.moments[id(p)]
                self.move(p, p.grad, m, v, self.steps, rate)
            for (a, b), chosen in zip(self.pairs, self.chosen):
                for p, view in ((a, lambda t: t), (b, lambda t: t.T)):
                    m, v = self.moments[id(p)]
                    count = self.counts[id(p)]
                    count[chosen] += 1
                    for row in chosen.tolist():
                        self.move(view(p)[row], view(p.grad)[row], view(m)[row], view(v)[row], float(count[row]), rate)

    @staticmethod
    def move(p, g, m, v, count, rate):
        m.mul_(0.9).add_(g, alpha=0.1)
        v.mul_(0.999).addcmul_(g, g, value=0.001)
        denominator = (v / (1 - 0.999**count)).sqrt() + 1e-8
        p.sub_(rate * (m / (1 - 0.9**count)) / denominator)


def run(arguments, task, method, seed):
    transformers.set_seed(seed)
    classes = TASKS[task][3]
    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.model)
    encode = lambda items: [
        (tokenizer(*texts, truncation=True, max_length=LENGTH), label) for texts, label in items
    ]
    train, dev = encode(read(arguments.data, task, "train")), encode(read(arguments.data, task, "dev"))
    kind = torch.float32 if classes is None else torch.int64

    def collate(items):
        batch = tokenizer.pad([tokens for tokens, _ in items], return_tensors="pt")
        batch["labels"] = torch.tensor([label for _, label in items], dtype=kind)
        return batch

    dev = [collate(dev[first : first + 64]) for first in range(0, len(dev), 64)]
    model = transformers.BertForSequenceClassification.from_pretrained(
        arguments.model, num_labels=len(classes or [0])
    )
    model = peft.get_peft_model(
        model,
        peft.LoraConfig(
            r=RANK,
            lora_alpha=RANK,
            target_modules=r".*encoder\.layer\..*(query|key|value|dense)",
            task_type="SEQ_CLS",
        ),
    )
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    masked = Masked(model, arguments.rate) if method == "rm-lora" else None
    optimizer = torch.optim.AdamW(trained, lr=arguments.rate, weight_decay=0.0)
    per_epoch = math.ceil(len(train) / BATCH)
    steps = per_epoch * arguments.epochs
    warmup = math.ceil(WARMUP * steps)
    factor = lambda at: at / warmup if at < warmup else max(0.0, (steps - at) / max(1, steps - warmup))
    records, at, start = [], 0, time.time()
    for epoch in range(arguments.epochs):
        order = torch.randperm(len(train)).tolist()
        losses = []
        for first in range(0, len(order), BATCH):
            batch = collate([train[index] for index in order[first : first + BATCH]])
            for p in trained:
                p.grad = None
            if masked:
                masked.draw()
            loss = model(**batch).loss
            loss.backward()
            losses.append(float(loss.detach()))
            if masked:
                masked.regularise()
                masked.mask()
            torch.nn.utils.clip_grad_norm_(trained, CLIP)
            if masked:
                masked.step(factor(at))
            else:
                for group in optimizer.param_groups:
                    group["lr"] = arguments.rate * factor(at)
                optimizer.step()
            at += 1
        loss, metrics = evaluate(model, dev, task)
        records.append({"train_loss": sum(losses) / len(losses), "loss": loss, **metrics})
    return {
        "task": task,
        "method": method,
        "seed": seed,
        "epochs": records,
        "seconds": time.time() - start,
        "torch": torch.__version__,
        "peft": peft.__version__,
        "transformers": transformers.__version__,
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--tasks", default="rte,mrpc,cola,stsb")
    parser.add_argument("--methods", default="lora,rm-lora")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rate", type=float, default=1e-3)
    arguments = parser.parse_args()
    for task in arguments.tasks.split(","):
        for method in arguments.methods.split(","):
            for seed in arguments.seeds.split(","):
                print(json.dumps(run(arguments, task, method, int(seed))), flush=True)


if __name__ == "__main__":
    main()
