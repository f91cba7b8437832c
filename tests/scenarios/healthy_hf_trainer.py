"""A small GPT-2 from a configuration, trained by the Trainer of transformers, with an evaluation in between.

Planted: nothing
Verdict: compute
"""

from __future__ import annotations

import os
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

torch.manual_seed(0)
torch.set_num_threads(1)

LENGTH = 48


class Tokens(Dataset):
    """Windows of one long sequence that repeats itself with noise."""

    def __init__(self, count: int) -> None:
        steps = torch.arange(count + LENGTH) % 61 + torch.randint(0, 3, (count + LENGTH,))
        self.windows = steps.unfold(0, LENGTH, 1)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.windows[index], "labels": self.windows[index]}


config = GPT2Config(
    vocab_size=64,
    n_positions=LENGTH,
    n_embd=128,
    n_layer=3,
    n_head=4,
    activation_function="gelu_pytorch_tanh",  # GPT-2's own "gelu_new" is written out in eight operators
)
with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        folder,
        max_steps=120,
        per_device_train_batch_size=16,
        learning_rate=1e-3,
        logging_steps=60,
        eval_strategy="steps",
        eval_steps=60,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        optim="adamw_torch_fused",
    )
    trainer = Trainer(GPT2LMHeadModel(config), arguments, train_dataset=Tokens(4096), eval_dataset=Tokens(64))
    print(f"loss {trainer.train().training_loss:.3f}")
