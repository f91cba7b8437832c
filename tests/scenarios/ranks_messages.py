"""Two ranks average their gradients by hand, one small tensor after another.

Planted: a message for each of 120 small tensors in every step
Where:   dist.all_reduce(parameter.grad)
Verdict: communication
Rule:    comm/many-small-messages
Ranks:   2
Cores:   2
Live:    yes
Cured:   --cured exchanges one flat buffer
"""

import argparse

import torch
import torch.distributed as dist
from torch import nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)
dist.init_process_group("gloo")


def average_gradients(model: nn.Module) -> None:
    """Leave the mean over ranks in every gradient."""
    if args.cured:
        gradients = [parameter.grad for parameter in model.parameters()]
        flat = _flatten_dense_tensors(gradients)
        dist.all_reduce(flat)
        for gradient, summed in zip(gradients, _unflatten_dense_tensors(flat, gradients), strict=True):
            gradient.copy_(summed).div_(dist.get_world_size())
        return
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad)
        parameter.grad.div_(dist.get_world_size())


model = nn.Sequential(*[layer for _ in range(60) for layer in (nn.Linear(48, 48), nn.ReLU())])
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, fused=True)
batch = torch.randn(2048, 48)

for _ in range(50):
    loss = (model(batch) - batch).square().mean()
    loss.backward()
    average_gradients(model)
    optimizer.step()
    optimizer.zero_grad()
dist.destroy_process_group()
