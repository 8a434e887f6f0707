"""Networks as functions of their weights: flat vectors, fingerprints, calls with other weights, row chunks.

`Params` maps the dotted names of `state_dict()` to tensors. p counts the entries of floating type, buffers
such as running means included; integer buffers (batch counters) are carried along and are no part of the
vector.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar, cast, overload

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedsim.models.network import Features, Network
from fedsim.types import Params, UserError

METHODS = ("forward", "embed", "features")
"""Methods of a network that `call` can run."""

Output = TypeVar("Output")


def flatten(params: Params) -> Float[Tensor, "p"]:
    """The floating-point entries, in the order of their sorted names, as one vector; differentiable.

    Entries of several types are promoted to the widest. Raises `UserError` where there is no such entry.
    """
    names = _floating_names(params)
    if not names:
        raise UserError(f"got {len(params)} entries without floating point; valid: the weights of a network")
    return torch.cat([params[name].reshape(-1) for name in names])


def unflatten(vector: Float[Tensor, "p"], like: Params) -> Params:
    """The inverse of `flatten`: names, shapes and types of `like`, values of `vector`; differentiable.

    Entries are views of `vector` where the type agrees; integer entries are the very tensors of `like`.
    Raises `UserError` where the length of `vector` is not the p of `like`.
    """
    names = _floating_names(like)
    sizes = [like[name].numel() for name in names]
    if vector.numel() != sum(sizes):
        raise UserError(f"got a vector of {vector.numel()} entries; valid: {sum(sizes)}, as in the given parameters")
    pieces = zip(names, vector.split(sizes), strict=True)
    values = {name: piece.view(like[name].shape).to(like[name].dtype) for name, piece in pieces}
    return {name: values.get(name, tensor) for name, tensor in like.items()}


def state(network: nn.Module) -> Params:
    """A copy of all parameters and buffers that later steps of `network` do not change."""
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def model_sha256(params: Params) -> str:
    """64 hex digits that are equal on every machine for equal weights.

    SHA-256 over the sorted names; of each entry the UTF-8 line `name shape` (as `head.weight 10x2048`), then
    its values, row-major and little-endian: float32 for floating point, int64 for integers and booleans.
    """
    digest = hashlib.sha256()
    for name in sorted(params):
        tensor = params[name].detach().cpu()
        digest.update(f"{name} {'x'.join(str(side) for side in tensor.shape)}\n".encode())
        if tensor.is_floating_point():
            digest.update(tensor.to(torch.float32).numpy().astype("<f4").tobytes())
        else:
            digest.update(tensor.to(torch.int64).numpy().astype("<i8").tobytes())
    return digest.hexdigest()


@overload
def call(network: Network, params: Params, method: Literal["forward", "embed"], *args: Any) -> Tensor: ...
@overload
def call(network: Network, params: Params, method: Literal["features"], *args: Any) -> Features: ...
@overload
def call(network: Network, params: Params, method: str, *args: Any) -> Any: ...
def call(network: Network, params: Params, method: str, *args: Any) -> Any:
    """`network.forward`, `embed` or `features` of `args`, with `params` for all its parameters and buffers.

    Differentiable in `params`; the weights of `network` are neither read nor changed. In training mode
    a batch norm writes its running statistics into the entries of `params`. Raises `UserError` for another
    method and where the names in `params` are not those of the network.
    """
    if method not in METHODS:
        raise UserError(f"got network method '{method}'; valid: {', '.join(METHODS)}")
    expected = network.state_dict().keys()
    if params.keys() != expected:
        odd = sorted(params.keys() ^ expected)
        raise UserError(
            f"got parameters that do not fit {type(network).__name__} (missing or unknown: "
            f"{', '.join(odd[:3])}); valid: the names of its state_dict()"
        )
    prefixed = {f"network.{name}": tensor for name, tensor in params.items()}
    return torch.func.functional_call(_Method(network, method), prefixed, args)


class _Method(nn.Module):
    """One method of a network as the `forward` that `torch.func.functional_call` runs."""

    def __init__(self, network: Network, method: str) -> None:
        super().__init__()
        self.network = network
        self.method = method

    def forward(self, *args: Any) -> Any:
        return getattr(self.network, self.method)(*args)


def chunked(function: Callable[[Tensor], Output], images: Float[Tensor, "n *image"], chunk: int) -> Output:
    """`function` of at most `chunk` rows at a time, outputs joined along n; 0 takes all rows at once.

    `function` gives a tensor or a (named) tuple of them, n first, and treats rows independently, which a
    batch norm in training mode does not. Raises `UserError` for a negative `chunk`.
    """
    if chunk < 0:
        raise UserError(f"compute.chunk={chunk}; valid: 0 (the whole batch) or a number of images")
    if chunk == 0 or chunk >= images.shape[0]:
        return function(images)
    return cast(Output, _join([function(rows) for rows in images.split(chunk)]))


def has_batch_norm(network: nn.Module) -> bool:
    """Whether the rows of a batch see one another in training mode."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    return any(isinstance(layer, kinds) for layer in network.modules())


def trainable_names(network: nn.Module) -> list[str]:
    """Sorted names of the parameters; buffers, such as running means, are left out."""
    return sorted(name for name, _ in network.named_parameters())


def _floating_names(params: Params) -> list[str]:
    return sorted(name for name, tensor in params.items() if tensor.is_floating_point())


def _join(parts: Sequence[Any]) -> Any:
    """Concatenate tensors, or tuples of them place by place."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    columns = [_join(column) for column in zip(*parts, strict=True)]
    return type(first)(*columns) if hasattr(first, "_fields") else tuple(columns)
