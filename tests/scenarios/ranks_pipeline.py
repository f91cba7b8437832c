"""A pipeline of two ranks whose batches are cut into two micro-batches.

Planted: few micro-batches
Where:   schedule = ScheduleGPipe(stage, MICRO_BATCHES, loss_fn=nn.functional.mse_loss)
Verdict: communication
Rule:    comm/pipeline-bubble
Ranks:   2
Cores:   2
Cured:   --cured cuts the batch into six
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

MICRO_BATCHES = 6 if args.cured else 2

layers = [layer for _ in range(5) for layer in (nn.Linear(256, 256), nn.ReLU())]
part = nn.Sequential(*layers)
stage = PipelineStage(part, rank, 2, torch.device("cpu"))
schedule = ScheduleGPipe(stage, MICRO_BATCHES, loss_fn=nn.functional.mse_loss)
optimizer = torch.optim.SGD(part.parameters(), lr=0.01)
batch = torch.randn(3072, 256)

for _ in range(40):
    if rank == 0:
        schedule.step(batch)
    else:
        schedule.step(target=batch)
    optimizer.step()
    optimizer.zero_grad()
dist.destroy_process_group()
