"""A plain DistributedDataParallel script, as anybody writes it:  torchrun --nproc_per_node 3 ddp.py [smol | gloo]"""

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import smolcluster.comm  # noqa: F401  this makes the backend "smol" known to torch.distributed

BACKEND = sys.argv[1] if len(sys.argv) > 1 else "smol"


def main() -> None:
    """Fit a noisy function of 16 numbers; print the loss, averaged over the ranks, once an epoch."""
    dist.init_process_group(BACKEND)
    torch.manual_seed(0)
    inputs = torch.randn(1536, 16)
    targets = inputs.prod(dim=1, keepdim=True).tanh() + inputs.sum(dim=1, keepdim=True)
    data = TensorDataset(inputs, targets)
    sampler = DistributedSampler(data, seed=1)
    loader = DataLoader(data, batch_size=32, sampler=sampler)

    model = DistributedDataParallel(nn.Sequential(nn.Linear(16, 128), nn.GELU(), nn.Linear(128, 1)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for epoch in range(5):
        sampler.set_epoch(epoch)
        total = torch.zeros(1)
        for batch, wanted in loader:
            loss = nn.functional.mse_loss(model(batch), wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        dist.all_reduce(total)
        if dist.get_rank() == 0:
            mean = total.item() / len(loader) / dist.get_world_size()
            print(f"epoch {epoch}  loss {mean:.6f}  on {dist.get_backend()}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
