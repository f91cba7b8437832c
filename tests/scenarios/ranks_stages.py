"""A pipeline of two ranks with more than twice as many layers on the second one.

Planted: stages of unlike size
Where:   schedule = ScheduleGPipe(stage, 8, loss_fn=nn.functional.mse_loss)
Verdict: straggler
Rule:    straggler/uneven-stages
Ranks:   2
Cores:   2
Cured:   --cured deals the layers out evenly
"""

import argparse

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank = dist.get_rank()

LAYERS = (5, 5) if args.cured else (3, 7)

layers = [layer for _ in range(LAYERS[rank]) for layer in (nn.Linear(256, 256), nn.ReLU())]
part = nn.Sequential(*layers)
stage = PipelineStage(part, rank, 2, torch.device("cpu"))
schedule = ScheduleGPipe(stage, 8, loss_fn=nn.functional.mse_loss)
optimizer = torch.optim.SGD(part.parameters(), lr=0.01)
batch = torch.randn(2560, 256)

for _ in range(40):
    if rank == 0:
        schedule.step(batch)
    else:
        schedule.step(target=batch)
    optimizer.step()
    optimizer.zero_grad()
dist.destroy_process_group()
