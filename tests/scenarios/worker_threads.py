"""Two workers multiply matrices, each with as many threads as the machine has cores.

Planted: NumPy's own threads inside the workers
Where:   loader = DataLoader(Projected(), batch_size=8, num_workers=2, persistent_workers=True)
Verdict: data-preprocessing
Rule:    data/worker-threads
Cores:   2
Cured:   --cured gives NumPy one thread, and projects onto fewer axes, so that the workers keep up
"""

import argparse
import os

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
cores = sorted(os.sched_getaffinity(0))[:2]
os.sched_setaffinity(0, cores)
os.environ["OPENBLAS_NUM_THREADS"] = "1" if args.cured else "2"

import numpy as np  # noqa: E402 - it reads the variable when it is loaded
import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, Dataset  # noqa: E402

torch.manual_seed(0)
torch.set_num_threads(1)
axes = np.random.default_rng(0).normal(size=(224, 224)).astype(np.float32)


class Projected(Dataset):
    """Random signals on other axes."""

    def __len__(self) -> int:
        return 240

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        signal = np.random.default_rng(torch.randint(1 << 30, ()).item()).random((224, 224), np.float32)
        for _ in range(1 if args.cured else 2):
            signal = axes @ signal / 15
        return torch.from_numpy(signal[:96, :96].ravel()), index % 2


model = nn.Sequential(nn.Linear(96 * 96, 288), nn.ReLU(), nn.Linear(288, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
loader = DataLoader(Projected(), batch_size=8, num_workers=2, persistent_workers=True)

for epoch in range(4):
    for signals, labels in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(signals), labels)
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {loss.item():.3f}")
