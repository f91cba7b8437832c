"""Two ranks train; the first saves a checkpoint every fourth step, and the other stands in a barrier meanwhile.

Planted: rank 0 saves while the others wait
Where:   torch.save(state, path)
Verdict: straggler
Rule:    straggler/one-rank-work
Ranks:   2
Cores:   2
Live:    yes
Cured:   --cured saves once, at the end
"""

import argparse
import tempfile

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

EVERY = 4

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank = dist.get_rank()


def save(model: nn.Module) -> None:
    """Keep the weights and what one needs to go on."""
    if rank == 0:
        state = {"model": model.state_dict(), "history": history}
        with tempfile.NamedTemporaryFile() as path:
            torch.save(state, path)
    dist.barrier()


model = nn.Sequential(*[nn.Linear(128, 128) for _ in range(40)])
model = DistributedDataParallel(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
history = torch.randn(16_000_000)
batch = torch.randn(256, 128)

for step in range(100):
    loss = model(batch).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if step % EVERY == EVERY - 1 and (not args.cured or step == 99):
        save(model)
dist.destroy_process_group()
