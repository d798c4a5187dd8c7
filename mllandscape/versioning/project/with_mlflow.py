"""The same training, tracked by MLflow as its documentation shows: hyperparameters, data, metric and model are logged, the rest is left to the tool."""

import argparse

import mlflow
import numpy
from train import train

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int)
    seed = parser.parse_args().seed
    params = {"learning_rate": 0.0213, "hidden": 64, "epochs": 1}
    data = numpy.load("data.npz")
    with mlflow.start_run():
        mlflow.log_params(params)
        mlflow.log_input(mlflow.data.from_numpy(data["x"], targets=data["y"]), context="training")
        model, accuracy = train(data, seed, **params)
        mlflow.log_metric("accuracy", accuracy)
        # MLflow's own default: left to itself it loads the model in another process to see what that imports, which takes seconds.
        needs = mlflow.pytorch.get_default_pip_requirements()
        mlflow.pytorch.log_model(model, name="model", input_example=data["x"][:2].astype(float), pip_requirements=needs)
