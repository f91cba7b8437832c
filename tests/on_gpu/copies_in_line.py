"""The next batch is copied when the step needs it, on the stream that computes.

Planted: copies on the compute stream, though pinned and without blocking
Where:   images = images.to("cuda", non_blocking=True)
Verdict: host-to-device | compute
Rule:    transfer/no-overlap
Cured:   --cured copies the next batch on a stream of its own
"""

import argparse
from collections.abc import Iterable, Iterator

import torch
from parts import conv_net
from torch import Tensor, nn

parser = argparse.ArgumentParser()
parser.add_argument("--cured", action="store_true")
args = parser.parse_args()
torch.manual_seed(0)

Batch = tuple[Tensor, Tensor]
stream = torch.cuda.Stream()


def copied(loader: Iterable[Batch]) -> Iterator[Batch]:
    """Each batch when it is asked for."""
    for images, labels in loader:
        images = images.to("cuda", non_blocking=True)
        yield images, labels.to("cuda", non_blocking=True)


def ahead(loader: Iterable[Batch]) -> Iterator[Batch]:
    """Each batch a step before it is asked for."""
    following = None
    for batch in loader:
        with torch.cuda.stream(stream):
            coming = tuple(tensor.to("cuda", non_blocking=True) for tensor in batch)
        if following is not None:
            yield following
        torch.cuda.current_stream().wait_stream(stream)
        for tensor in coming:
            tensor.record_stream(torch.cuda.current_stream())
        following = coming
    yield following


data = [(torch.randn(256, 3, 160, 160).pin_memory(), torch.randint(100, (256,)).pin_memory()) for _ in range(4)]
model = conv_net(32, 3).cuda()
optimizer = torch.optim.SGD(model.parameters(), 0.01)
criterion = nn.CrossEntropyLoss()
for images, labels in (ahead if args.cured else copied)(data[step % 4] for step in range(800)):
    loss = criterion(model(images), labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
