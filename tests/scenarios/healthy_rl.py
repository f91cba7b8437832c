"""Policy gradient on a batch of point masses, whose physics are a few tensor operations.

Planted: nothing
Verdict: compute
"""

import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)

WORLDS, HORIZON = 256, 8
policy = nn.Sequential(nn.Linear(4, 192), nn.Tanh(), nn.Linear(192, 192), nn.Tanh(), nn.Linear(192, 3))
optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3, fused=True)

for step in range(100):
    place, speed = torch.randn(WORLDS, 2), torch.zeros(WORLDS, 2)
    seen, actions, rewards = [], [], []
    for _ in range(HORIZON):
        state = torch.cat([place, speed], 1)
        with torch.no_grad():
            action = torch.distributions.Categorical(logits=policy(state)).sample()
        speed = speed + 0.1 * (action - 1).unsqueeze(1)
        place = place + speed
        seen.append(state)
        actions.append(action)
        rewards.append(-place.pow(2).sum(1))
    returns = torch.stack(rewards).flip(0).cumsum(0).flip(0)
    advantage = (returns - returns.mean(1, keepdim=True)) / (returns.std(1, keepdim=True) + 1e-6)
    logits = policy(torch.cat(seen))
    chosen = logits.log_softmax(1).gather(1, torch.cat(actions).unsqueeze(1)).squeeze(1)
    loss = -(chosen * advantage.flatten()).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 40 == 0:
        print(f"step {step}: return {returns[0].mean().item():.2f}")
