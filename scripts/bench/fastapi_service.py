"""DelayNet behind FastAPI and uvicorn, for comparison with delayd-serve.

It reads the same bundle's weights and does the same forward pass in numpy, one
row per request. Its rows arrive encoded, so it does less than delayd-serve:
no features, no checks of the flight, no counting for drift.

    python fastapi_service.py BUNDLE PORT
"""

import json
import os
import sys
from pathlib import Path

# One row's products are far too small for more threads to help.
for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel


def read_safetensors(path):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] != "F32":
            raise SystemExit(f"tensor {name} is {entry['dtype']}, expected F32")
        start, end = entry["data_offsets"]
        values = np.frombuffer(data[8 + length + start : 8 + length + end], dtype="<f4")
        tensors[name] = values.reshape(entry["shape"])
    return tensors


class Member:
    def __init__(self, architecture, tensors, index):
        def get(rest):
            return np.ascontiguousarray(tensors[f"member.{index}.{rest}"])

        def pair(name):
            return get(f"{name}.weight"), get(f"{name}.bias")

        self.embeddings = [get(f"embedding.{n}.weight") for n in range(len(architecture["cardinalities"]))]
        self.input, self.norm, self.head = pair("input"), pair("norm"), pair("head")
        blocks = range(architecture["blocks"])
        self.blocks = [tuple(pair(f"block.{n}.{part}") for part in ("norm", "up", "down")) for n in blocks]

    @staticmethod
    def linear(weights, x):
        return weights[0] @ x + weights[1]

    @staticmethod
    def normed(weights, x):
        centred = x - x.mean()
        return centred / np.sqrt(np.mean(centred * centred) + np.float32(1e-5)) * weights[0] + weights[1]

    def logit(self, categories, numerics):
        parts = [table[index] for table, index in zip(self.embeddings, categories)]
        stream = self.linear(self.input, np.concatenate([*parts, numerics]))
        for norm, up, down in self.blocks:
            inner = np.maximum(self.linear(up, self.normed(norm, stream)), 0)
            stream = stream + self.linear(down, inner)
        return float(self.linear(self.head, np.maximum(self.normed(self.norm, stream), 0))[0])


class Row(BaseModel):
    categories: list[int]
    numerics: list[float]


def application(bundle):
    model = json.loads((bundle / "model.json").read_text())
    tensors = read_safetensors(bundle / "weights.safetensors")
    members = [Member(model["architecture"], tensors, n) for n in range(model["architecture"]["members"])]
    slope, intercept = model["calibration"]["slope"], model["calibration"]["intercept"]
    threshold = model["threshold"]
    app = FastAPI()

    @app.post("/predict")
    async def predict(row: Row):
        numerics = np.asarray(row.numerics, dtype=np.float32)
        logit = sum(member.logit(row.categories, numerics) for member in members) / len(members)
        score = 1 / (1 + np.exp(-(slope * logit + intercept)))
        return {"predictions": [{"score": float(score), "delayed": bool(score >= threshold), "warnings": []}]}

    return app


if __name__ == "__main__":
    uvicorn.run(application(Path(sys.argv[1])), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", access_log=False)
