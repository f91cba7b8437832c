"""A GAN: two networks, two optimizers, two losses in each turn of the loop.

Planted: nothing
Verdict: compute
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
torch.set_num_threads(1)

angles = torch.rand(8192, 1) * 6.2832
ring = torch.cat([angles.cos(), angles.sin()], 1) + 0.05 * torch.randn(8192, 2)
loader = DataLoader(TensorDataset(ring), batch_size=512, shuffle=True, drop_last=True)


def network(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, 384),
        nn.LeakyReLU(0.2),
        nn.Linear(384, 384),
        nn.LeakyReLU(0.2),
        nn.Linear(384, outputs),
    )


generator, critic = network(8, 2), network(2, 1)
generator_optimizer = torch.optim.AdamW(generator.parameters(), lr=2e-4, betas=(0.5, 0.99), fused=True)
critic_optimizer = torch.optim.AdamW(critic.parameters(), lr=2e-4, betas=(0.5, 0.99), fused=True)
criterion = nn.BCEWithLogitsLoss()
real, false = torch.ones(512, 1), torch.zeros(512, 1)

for epoch in range(8):
    for (points,) in loader:
        made = generator(torch.randn(512, 8))
        critic_loss = criterion(critic(points), real) + criterion(critic(made.detach()), false)
        critic_optimizer.zero_grad()
        critic_loss.backward()
        critic_optimizer.step()

        generator_loss = criterion(critic(made), real)
        generator_optimizer.zero_grad()
        generator_loss.backward()
        generator_optimizer.step()
    print(f"epoch {epoch}: critic {critic_loss.item():.3f}, generator {generator_loss.item():.3f}")
