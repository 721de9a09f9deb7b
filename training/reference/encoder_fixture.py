"""Writes reference sentence features of all-MiniLM-L6-v2 for fixed sentences (a test fixture).

The safetensors file has
    features       [n, 384] f32   every sentence encoded alone, without padding
    ids            [sum] i64      token ids of all sentences, one after the other
    offsets        [n + 1] i64    sentence i has ids[offsets[i] : offsets[i + 1]]
    hidden         [layers + 1, tokens, 384] f32   states after the embeddings and after each layer
                                  for the sentence of index `hidden_sentence`
and, as JSON under the metadata key `rankwise`, the sentences, the index `hidden_sentence`,
`padding_error` = max |padded batch - alone| and `rounding_error` = max |float32 - float64|, the
distance that a correct float32 implementation may have.
"""

import argparse
import json
from itertools import accumulate
from pathlib import Path

import torch
from safetensors.torch import save_file

from minilm import MAX_TOKENS, MODEL, Encoder

SENTENCES = [
    "Hello, world!",
    "I am still waiting on my card?",
    "How do I locate my card?",
    "What is the $1 transaction on my account?",
    "THE EXCHANGE-RATE was WRONG, wasn't it?!",
    "Zażółć gęślą jaźń; naïve café, Straße, ÅNGSTRÖM.",
    "銀行のカードを失くしました。 我的卡在哪里？",
    "Top-up failed 😞 — why…? (ref. #42/β-7)",
    "tab\tnew\nline  and   spaces \u00a0\u200b end",
    "?",
    "",
    "pneumonoultramicroscopicsilicovolcanoconiosis " + "x" * 101,
    # 202 tokens, cut to 128.
    "I would like to know why my transfer has not arrived yet, although I made it last week. " * 10,
]
HIDDEN_SENTENCE = 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    encoder = Encoder(arguments.model)
    rows = [encoder.ids(sentence) for sentence in SENTENCES]
    features = torch.cat([encoder.features([row]) for row in rows])
    states, _ = encoder.hidden_states([rows[HIDDEN_SENTENCE]])

    exact = Encoder(arguments.model, torch.float64)
    exact = torch.cat([exact.features([row]) for row in rows])
    notes = {
        "model": MODEL,
        "max_tokens": MAX_TOKENS,
        "sentences": SENTENCES,
        "hidden_sentence": HIDDEN_SENTENCE,
        "padding_error": (encoder.features(rows) - features).abs().max().item(),
        "rounding_error": (features.double() - exact).abs().max().item(),
    }
    tensors = {
        "features": features,
        "ids": torch.tensor(sum(rows, [])),
        "offsets": torch.tensor([0, *accumulate(map(len, rows))]),
        "hidden": torch.cat(states),
    }
    save_file(tensors, arguments.out, {"rankwise": json.dumps(notes, ensure_ascii=False)})

    print(f"{arguments.out}: {arguments.out.stat().st_size} bytes")
    print("tokens per sentence:", list(map(len, rows)))
    print(f"largest feature {features.abs().max():.4f}")
    print(f"padded batch against alone: max {notes['padding_error']:.2e}")
    print(f"float32 against float64:    max {notes['rounding_error']:.2e}")


if __name__ == "__main__":
    main()
