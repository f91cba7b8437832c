"""Each layer makes its mask and its noise on the host and moves them to the device.

Planted: torch.rand(...).to("cuda") twice in each of eight layers
Where:   noise = torch.rand(64, 256).to(inputs.device)
Verdict: host-to-device | host-overhead
Rule:    transfer/made-on-cpu
Twin:    host-overhead | compute
Cured:   --cured makes them on the device
"""

import argparse

import torch
from torch import Tensor, nn

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)


class Noisy(nn.Module):
    """A linear layer whose input is masked and disturbed."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(256, 256)

    def forward(self, inputs: Tensor) -> Tensor:
        """Shape (64, 256), in and out."""
        if args.cured:
            noise = torch.rand(64, 256, device=inputs.device)
            kept = torch.ones(256, device=inputs.device)
        else:
            noise = torch.rand(64, 256).to(inputs.device)
            kept = torch.ones(256).to(inputs.device)
        return torch.relu(self.linear(inputs * kept + 0.01 * noise))


model = nn.Sequential(*(Noisy() for _ in range(8)), nn.Linear(256, 10)).cuda()
optimizer = torch.optim.SGD(model.parameters(), 0.01, fused=True)
inputs, targets = torch.randn(64, 256, device="cuda"), torch.randint(10, (64,), device="cuda")
for _ in range(5000):
    loss = nn.functional.cross_entropy(model(inputs), targets)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
