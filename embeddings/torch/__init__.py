"""The table in PyTorch: modules over a `Table` whose rows learn when `backward` runs; needs torch installed.

from embeddings import TableSpec
from embeddings.torch import EmbeddingTable

items = EmbeddingTable(TableSpec(name="item", dim=16))
vectors = items(ids)            # ids (n,) int64, uint64 or text; new ids get a row; vectors (n, 16)
loss_of(vectors).backward()     # one step of the table's own optimizer; no optimizer of torch for it

`import embeddings` never imports torch; this package does.
"""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"embeddings.torch needs PyTorch, which cannot be imported ({error}): pip install 'freshet[torch]'"
    ) from None

from embeddings.torch.bag import EmbeddingBag
from embeddings.torch.ids import Jagged, Padded, string_ids
from embeddings.torch.table import EmbeddingTable

__all__ = ["EmbeddingBag", "EmbeddingTable", "Jagged", "Padded", "string_ids"]
