"""Trains a small CCDN in a PyTorch loop of your own: network, objective, crops, metric.

python examples/training_loop.py --faces 512 --epochs 12

`ccdn train` does the same with checkpoints, resuming, several processes and logs.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ccdn.config import load_config
from ccdn.data import CropDataset
from ccdn.evaluation.metrics import nme
from ccdn.models import CCDN, build_model, objective
from ccdn.synthetic_faces import SyntheticFaces


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", type=int, default=512, help="generated for training")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch", type=int, default=16)
    args = parser.parse_args()

    torch.manual_seed(0)
    config = load_config("tiny").model
    train = CropDataset(
        SyntheticFaces(args.faces, seed=0), config.input_size, box="gt", augmentation="mild"
    )
    held_out = CropDataset(
        SyntheticFaces(64, seed=1), config.input_size, box="gt", augmentation="mild", train=False
    )
    model = build_model(config)
    # The network starts from the mean face of the training crops.
    model.set_mean_shape(torch.stack([item["landmarks"] for item in train]).mean(0))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    print(f"before training: NME {score(model, held_out):.2f} %")

    for epoch in range(args.epochs):
        train.set_epoch(epoch)  # other random crops
        model.train()
        for batch in DataLoader(train, args.batch, shuffle=True, drop_last=True):
            output = model(pixels(batch["image"]))
            # Eq. 9 of the paper: squared error plus the three COCS losses, weighted.
            loss = objective(output, batch["landmarks"], gammas=(0.025, 0.01, 0.05))
            optimizer.zero_grad()
            loss.total.backward()
            optimizer.step()
        terms = f"landmarks {loss.landmarks.item():.4f}, COCS {loss.cocs.sum().item():.2f}"
        print(f"epoch {epoch + 1}: {terms}, NME {score(model, held_out):.2f} %")


def pixels(images: Tensor) -> Tensor:
    return images.float() / 255


@torch.no_grad()
def score(model: CCDN, faces: CropDataset) -> float:
    """Mean inter-ocular NME in percent, measured in the crops."""
    model.eval()
    items = [faces[index] for index in range(len(faces))]
    predicted = model(pixels(torch.stack([item["image"] for item in items]))).landmarks
    truth = torch.stack([item["landmarks"] for item in items])
    return 100 * float(nme(predicted.numpy(), truth.numpy()).mean())


if __name__ == "__main__":
    main()
