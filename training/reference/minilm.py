"""Sentence features of all-MiniLM-L6-v2 by transformers, on the CPU, in float32 (or float64).

Conventions
    feature      mean of the last hidden states over the sentence's own tokens, [CLS] and [SEP]
                 included; not normalised to length one (sentence-transformers would)
    truncation   128 tokens, as the model's tokenizer.json says
                 (its sentence_bert_config.json says 256)
    padding      off. tokenizer.json asks for 128 tokens always; a caller who wants a padded batch
                 pads to its longest sentence
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import BertModel
from transformers.utils import logging

# The folder has a pooler that is not loaded; transformers would report it at length.
logging.set_verbosity_error()
logging.disable_progress_bar()

MAX_TOKENS = 128
# The Hub name of the weights that the folder must hold.
MODEL = "sentence-transformers/all-MiniLM-L6-v2"


class Encoder:
    """The tokenizer and the frozen model of one folder."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32):
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(MAX_TOKENS)
        self.tokenizer.no_padding()
        # The pooler is a trained head of another task; eager attention is the textbook formula.
        self.model = BertModel.from_pretrained(
            folder, dtype=dtype, add_pooling_layer=False, attn_implementation="eager"
        ).eval()

    def ids(self, sentence: str) -> list[int]:
        """The token ids of a sentence, at most MAX_TOKENS, with [CLS] and [SEP]."""
        return self.tokenizer.encode(sentence).ids

    @torch.inference_mode()
    def hidden_states(self, rows: list[list[int]]) -> tuple[list[torch.Tensor], torch.Tensor]:
        """After the embeddings and after each layer, [batch, longest, width], and the mask.

        Rows shorter than the longest are padded on the right with id 0.
        """
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        output = self.model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        return list(output.hidden_states), mask

    def features(self, rows: list[list[int]]) -> torch.Tensor:
        """Mean-pooled last hidden states, [batch, width]."""
        states, mask = self.hidden_states(rows)
        weights = mask.unsqueeze(-1).to(states[-1].dtype)
        return (states[-1] * weights).sum(1) / weights.sum(1)
