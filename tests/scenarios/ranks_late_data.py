"""Two ranks read a shard each; that of the second is compressed, and the first waits for it in every step.

Planted: the second rank's shard has to be decompressed item by item
Where:   raw = lzma.decompress(self.items[index])
Verdict: straggler
Rule:    straggler/data
Ranks:   2
Cores:   2
Live:    yes
Cured:   --cured stores both shards as they are used
"""

import argparse
import lzma

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank = dist.get_rank()


class Shard(Dataset):
    """One rank's part of the items."""

    def __init__(self, count: int, compressed: bool) -> None:
        self.compressed = compressed
        item = torch.randint(0, 16, (16384,), dtype=torch.uint8).numpy().tobytes()
        self.items = [lzma.compress(item) if compressed else item] * count

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> torch.Tensor:
        raw = self.items[index]
        if self.compressed:
            raw = lzma.decompress(self.items[index])
        return torch.frombuffer(bytearray(raw), dtype=torch.uint8)[:512].float()


loader = DataLoader(Shard(32 * 100, compressed=rank == 1 and not args.cured), batch_size=32)
model = nn.Sequential(nn.Linear(512, 128), *[nn.Linear(128, 128) for _ in range(40)])
model = DistributedDataParallel(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.001)

for batch in loader:
    loss = model(batch.repeat(12, 1)).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
dist.destroy_process_group()
