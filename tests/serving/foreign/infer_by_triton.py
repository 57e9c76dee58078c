"""What a user of tritonclient does, in an environment of its own: `python infer_by_triton.py HOST:PORT`.

It asks a server whose model has the features `user` (id), `item` (id), `price` (number) and `tags` (ids), and
prints what it got as JSON.
"""

import json
import sys

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException


def main() -> None:
    """Ask, and print."""
    client = triton.InferenceServerClient(sys.argv[1])
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("freshet")
    found = {"server": client.get_server_metadata(), "model": client.get_model_metadata("freshet")}
    for binary in (True, False):
        values = {
            "user": ("BYTES", np.array(["ann"], dtype=np.object_)),
            "item": ("INT64", np.array([3, 17, 4], dtype=np.int64)),
            "price": (
                "FP32",
                np.array([9.5, 21.0, np.nan] if binary else [9.5, 21.0, 1.0], dtype=np.float32),
            ),
            "tags": ("BYTES", np.array([["a", "b"], ["c", ""], ["", ""]], dtype=np.object_)),
        }
        inputs = []
        for name, (kind, array) in values.items():
            inputs.append(triton.InferInput(name, list(array.shape), kind))
            inputs[-1].set_data_from_numpy(array, binary_data=binary)
        outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("corrected", "order")]
        result = client.infer("freshet", inputs, outputs=outputs, request_id=f"visit-{binary}")
        found[f"binary {binary}"] = {
            "corrected": result.as_numpy("corrected").tolist(),
            "order": result.as_numpy("order").tolist(),
            "id": result.get_response()["id"],
        }
    try:
        client.infer(
            "freshet", [triton.InferInput("nothing", [1], "FP32").set_data_from_numpy(np.zeros(1, "f"))]
        )
    except InferenceServerException as error:
        found["error"] = error.message()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
