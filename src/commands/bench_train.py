"""Training steps of PyTorch with PEFT, and an epoch of MRPC with dynamic padding: one line of JSON.

Arguments: repeats, threads, sequences, tokens, learning rate[, model folder, MRPC folder]. Written
for torch 2.15.0, transformers 5.23.0, peft 0.21.2."""

import csv
import json
import os
import resource
import sys
import time

import peft
import torch
import transformers

repeats, threads, sequences, tokens = (int(argument) for argument in sys.argv[1:5])
rate = float(sys.argv[5])
torch.set_num_threads(threads)
torch.manual_seed(0)


def resident():
    """Bytes in memory now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def adapted(model):
    """LoRA on all linear layers of the blocks; the head trains."""
    return peft.get_peft_model(
        model,
        peft.LoraConfig(
            r=8,
            lora_alpha=8,
            target_modules=r".*encoder\.layer\..*(query|key|value|dense)",
            task_type="SEQ_CLS",
        ),
    )


def optimiser(model):
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return trained, torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)


def step(model, trained, optimizer, batch):
    optimizer.zero_grad(set_to_none=True)
    model(**batch).loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()


before = resident()
config = transformers.BertConfig(
    hidden_size=384,
    num_hidden_layers=6,
    num_attention_heads=12,
    intermediate_size=1536,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
model = adapted(transformers.BertForSequenceClassification(config)).train()
trained, optimizer = optimiser(model)
ids = torch.randint(0, 30522, (sequences, tokens))
batch = {
    "input_ids": ids,
    "attention_mask": torch.ones_like(ids),
    "labels": torch.arange(sequences) % 2,
}
wall, cpu = [], []
for _ in range(repeats + 1):
    start, start_cpu = time.perf_counter(), time.process_time()
    step(model, trained, optimizer, batch)
    wall.append(time.perf_counter() - start)
    cpu.append(time.process_time() - start_cpu)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
answer = {
    "torch": torch.__version__,
    "peft": peft.__version__,
    "transformers": transformers.__version__,
    "step_seconds": sorted(wall[1:])[repeats // 2],
    "step_cpu_seconds": sorted(cpu[1:])[repeats // 2],
    "step_peak_bytes": peak,
    "epoch_seconds": None,
    "epoch_cpu_seconds": None,
}
if len(sys.argv) > 6:
    model_folder, data = sys.argv[6:8]
    with open(os.path.join(data, "train.tsv"), encoding="utf-8-sig") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder)
    items = [
        (tokenizer(row[3], row[4], truncation=True, max_length=128), int(row[0])) for row in rows
    ]
    model = transformers.BertForSequenceClassification.from_pretrained(model_folder, num_labels=2)
    model = adapted(model).train()
    trained, optimizer = optimiser(model)
    order = torch.randperm(len(items)).tolist()
    start, start_cpu = time.perf_counter(), time.process_time()
    for first in range(0, len(order), 32):
        chosen = [items[index] for index in order[first : first + 32]]
        batch = tokenizer.pad([tokens for tokens, _ in chosen], return_tensors="pt")
        batch["labels"] = torch.tensor([label for _, label in chosen])
        step(model, trained, optimizer, batch)
    answer["epoch_seconds"] = time.perf_counter() - start
    answer["epoch_cpu_seconds"] = time.process_time() - start_cpu
print(json.dumps(answer))
