"""Two tuned copies of MiniLM for `rankwise verify --base DIR --tuned DIR`.

    python tune_minilm.py MODEL_DIR BANKING77_TRAIN.csv OUT_DIR

OUT_DIR/full: every weight trained on the classification of Banking77's texts.
OUT_DIR/merged-{float32,bfloat16}: a trained LoRA of rank 8 on query, value and both feed-forward
layers, merged into the base and stored in that type. Needs torch, transformers, peft.
"""

import csv
import sys
from pathlib import Path

import peft
import torch
import transformers

STEPS, BATCH, RANK = 60, 32, 8
model_dir, train, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
rows = list(csv.reader(open(train, encoding="utf-8")))[1:]
labels = {name: i for i, name in enumerate(sorted({row[1] for row in rows}))}
tokenizer = transformers.AutoTokenizer.from_pretrained(model_dir)


def tuned(wrap, rate):
    torch.manual_seed(0)
    encoder = wrap(transformers.AutoModel.from_pretrained(model_dir, dtype=torch.float32))
    head = torch.nn.Linear(384, len(labels))
    trained = [p for p in encoder.parameters() if p.requires_grad]
    adam = torch.optim.AdamW([{"params": trained, "lr": rate}, {"params": head.parameters(), "lr": 1e-2}])
    order = torch.randperm(len(rows))
    for step in range(STEPS):
        batch = [rows[i] for i in order[step * BATCH : (step + 1) * BATCH]]
        tokens = tokenizer([r[0] for r in batch], padding=True, truncation=True, return_tensors="pt")
        pooled = encoder(**tokens).last_hidden_state[:, 0]
        loss = torch.nn.functional.cross_entropy(head(pooled), torch.tensor([labels[r[1]] for r in batch]))
        adam.zero_grad()
        loss.backward()
        adam.step()
        if step % 10 == 0:
            print(step, loss.item(), flush=True)
    return encoder


tuned(lambda model: model, 5e-5).save_pretrained(out / "full")
config = peft.LoraConfig(r=RANK, lora_alpha=16, target_modules=["query", "value", "dense"])
adapted = tuned(lambda model: peft.get_peft_model(model, config), 1e-3)
adapted.save_pretrained(out / "adapter")
merged = adapted.merge_and_unload()
for dtype in (torch.float32, torch.bfloat16):
    merged.to(dtype).save_pretrained(out / f"merged-{str(dtype).removeprefix('torch.')}")
