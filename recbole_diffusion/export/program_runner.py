"""Runs an exported program on arrays, with numpy and the program's own runtime alone: what a consumer has.

    python -c "..." FORMAT PROGRAM FOLDER SIZES

FOLDER holds the inputs as item_seq.npy (N, L) and, where the program takes it, row_key.npy (N,). For every size of
SIZES ("1,7,256") the rows are run that many at a time, and the vectors written to user_vectors.SIZE.npy. The file is
executed as text in a process of its own, so that nothing of this package, and nothing that was traced, is in it.
"""

import os
import sys

import numpy as np


def program_of(kind, path):  # type: ignore[no-untyped-def]
    """A function from named arrays to user vectors."""
    if kind == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda inputs: session.run(None, inputs)[0]
    import torch

    program = torch.export.load(path).module()
    return lambda inputs: program(*map(torch.from_numpy, inputs.values())).numpy()


def main(kind, path, folder, sizes):  # type: ignore[no-untyped-def]
    """Run all sizes; the smaller ones on the first batches of the rows."""
    program = program_of(kind, path)
    inputs = {"item_seq": np.load(f"{folder}/item_seq.npy")}
    if os.path.exists(f"{folder}/row_key.npy"):
        inputs["row_key"] = np.load(f"{folder}/row_key.npy")
    rows = len(inputs["item_seq"])
    for size in map(int, sizes.split(",")):
        some = rows if size >= rows else min(rows, 3 * size)
        parts = []
        for begin in range(0, some, size):
            parts.append(program({name: x[begin : min(begin + size, some)] for name, x in inputs.items()}))
        np.save(f"{folder}/user_vectors.{size}.npy", np.concatenate(parts))


if __name__ == "__main__":
    main(*sys.argv[1:])
