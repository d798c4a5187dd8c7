"""The same training, tracked by Weights & Biases as its documentation shows: hyperparameters, metric, data and model are logged, the rest is its own."""

import argparse

import numpy
import torch
import wandb
from train import train

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int)
    seed = parser.parse_args().seed
    params = {"learning_rate": 0.0213, "hidden": 64, "epochs": 1}
    with wandb.init(project="digits", config=params) as run:
        model, accuracy = train(numpy.load("data.npz"), seed, **params)
        run.log({"accuracy": accuracy})
        torch.save(model.state_dict(), "model.pt")
        for kind, path in (("dataset", "data.npz"), ("model", "model.pt")):
            artifact = wandb.Artifact(kind, type=kind)
            artifact.add_file(path)
            run.log_artifact(artifact)
