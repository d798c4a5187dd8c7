"""A data scientist's project: digits from noisy images of 8 x 8 pixels. ``python train.py --seed 7`` writes model.pt and metrics.json."""

import argparse
import json

import numpy
import torch
from torch.nn.functional import cross_entropy


def preprocess(pixels):
    return pixels / 16


def train(data, seed=None, threads=1, learning_rate=0.01, hidden=64, epochs=12):
    """Return the model and its share of right answers on the test images. ``data`` maps x, y, test_x and test_y to arrays; x is (images, 64)."""
    torch.set_num_threads(threads)
    if seed is not None:
        torch.manual_seed(seed)
    x, test_x = (torch.from_numpy(data[name]).double() for name in ("x", "test_x"))  # in float64 every machine gets the same accuracy, if not the same bits
    y, test_y = (torch.from_numpy(data[name]) for name in ("y", "test_y"))
    model = torch.nn.Sequential(torch.nn.Linear(64, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 10)).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    for _ in range(epochs):
        seen = preprocess(x + 1.6 * torch.randn_like(x))
        for batch in torch.randperm(len(x)).split(50):
            optimizer.zero_grad()
            cross_entropy(model(seen[batch]), y[batch]).backward()
            optimizer.step()
    with torch.no_grad():
        right = model(preprocess(test_x)).argmax(1) == test_y
    return model, right.double().mean().item()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=0.01)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=12)
    model, accuracy = train(numpy.load("data.npz"), **vars(parser.parse_args()))
    torch.save(model.state_dict(), "model.pt")
    with open("metrics.json", "w") as file:
        json.dump({"accuracy": accuracy}, file)
