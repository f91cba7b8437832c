"""A bottleneck ResNet-50 on images from a DataLoader with workers; insists on a GPU."""

import torch
import torch.nn as nn
from torch.utils.data import DataLoader, Dataset


class Images(Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        return torch.rand(3, 224, 224), index % 10


def unit(inputs, outputs, size, stride=1):
    return nn.Sequential(nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False), nn.BatchNorm2d(outputs))


class Bottleneck(nn.Module):
    def __init__(self, inputs, width, stride):
        super().__init__()
        self.parts = nn.Sequential(
            unit(inputs, width, 1), nn.ReLU(inplace=True), unit(width, width, 3, stride), nn.ReLU(inplace=True),
            unit(width, 4 * width, 1),
        )  # fmt: skip
        changes = stride != 1 or inputs != 4 * width
        self.short = unit(inputs, 4 * width, 1, stride) if changes else nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.parts(x) + self.short(x))


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        layers = [unit(3, 64, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
        inputs = 64
        for stage, depth in enumerate((3, 4, 6, 3)):
            width = 64 * 2**stage
            for index in range(depth):
                layers.append(Bottleneck(inputs, width, 2 if index == 0 and stage else 1))
                inputs = 4 * width
        self.features, self.head = nn.Sequential(*layers), nn.Linear(inputs, 1000)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))


if __name__ == "__main__":
    model = ResNet().cuda()
    loss_of = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for images, labels in DataLoader(Images(), batch_size=4, num_workers=1, pin_memory=True):
        images, labels = images.to("cuda", non_blocking=True), labels.cuda()
        loss = loss_of(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(loss.item())
