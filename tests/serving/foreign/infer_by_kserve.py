"""What a user of KServe's SDK does, in an environment of its own: `python infer_by_kserve.py URL MODEL`.

It asks a server whose model has the features `user` (id), `item` (id), `price` (number) and `tags` (ids)
by JSON and by binary tensors, and prints what it got as JSON.
"""

import asyncio
import json
import sys

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput


def request_of(model: str, binary: bool) -> InferRequest:
    """A slate of three candidates."""
    values = {
        "user": ("BYTES", np.array(["ann"], dtype=np.object_)),
        "item": ("INT64", np.array([3, 17, 4], dtype=np.int64)),
        "price": ("FP32", np.array([9.5, 21.0, 1.0], dtype=np.float32)),
        "tags": ("BYTES", np.array([["a", "b"], ["c", ""], ["", ""]], dtype=np.object_)),
    }
    inputs = []
    for name, (kind, array) in values.items():
        inputs.append(InferInput(name, list(array.shape), kind))
        inputs[-1].set_data_from_numpy(array, binary_data=binary)
    wanted = [RequestedOutput(name, {"binary_data": binary}) for name in ("corrected", "order")]
    parameters = {"time": 1e9}
    return InferRequest(
        model, inputs, request_id=f"visit-{binary}", parameters=parameters, request_outputs=wanted
    )


async def main() -> None:
    """Ask, and print."""
    url, model = sys.argv[1:]
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        assert await client.is_server_live(url) and await client.is_server_ready(url)
        assert await client.is_model_ready(url, model)
        assert not await client.is_model_ready(url, "no-such-model")
        found: dict[str, object] = {}
        for binary in (True, False):
            answer = await client.infer(url, request_of(model, binary), model_name=model)
            found[f"binary {binary}"] = {
                "model": answer.model_name,
                "id": answer.id,
                **{output.name: output.as_numpy().tolist() for output in answer.outputs},
            }
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main())
