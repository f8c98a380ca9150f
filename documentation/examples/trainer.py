"""Hugging Face's Trainer on any backend of torch.distributed:  torchrun --nproc_per_node 3 trainer.py [smol | gloo]

A small GPT-2 with random weights learns Python's own help texts, byte by byte: nothing is downloaded.
"""

import sys
import tempfile
from pydoc_data.topics import topics

import torch
import torch.distributed as dist
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import smolcluster.comm  # noqa: F401  this makes the backend "smol" known to torch.distributed

BACKEND = sys.argv[1] if len(sys.argv) > 1 else "smol"
BYTES = 64


class HelpTexts(Dataset[dict[str, torch.Tensor]]):
    """Pieces of 64 bytes; a token is a byte."""

    def __init__(self) -> None:
        text = "\n".join(topics.values()).encode()[: 600 * BYTES]
        self.tokens = torch.tensor(list(text)).view(-1, BYTES)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.tokens[index], "labels": self.tokens[index]}


def main() -> None:
    """Twenty steps; rank 0 prints the losses."""
    # Before TrainingArguments: Trainer takes a process group that is there, and would make one of gloo by itself.
    dist.init_process_group(BACKEND)
    torch.manual_seed(0)
    size = {"vocab_size": 256, "n_positions": BYTES, "n_embd": 64, "n_layer": 2, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(**size, bos_token_id=0, eos_token_id=0, loss_type="ForCausalLM"))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            use_cpu=True,
            ddp_find_unused_parameters=False,
            max_steps=20,
            per_device_train_batch_size=8,
            learning_rate=1e-3,
            logging_steps=5,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=0,
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=HelpTexts())
        trainer.train()
    if trainer.is_world_process_zero():
        losses = [f"{entry['loss']:.4f}" for entry in trainer.state.log_history if "loss" in entry]
        print(f"losses {' '.join(losses)}  {arguments.parallel_mode.value}  on {dist.get_backend()}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
