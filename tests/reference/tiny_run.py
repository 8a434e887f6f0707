"""The smallest federated run and condensation, in whole batches, and a grid that runs the first in this process."""

from __future__ import annotations

from typing import Any

from fedsim.federated.engines import inline

TINY = """
name: tiny
rounds: 2
data: {name: digits}
partition: {name: iid, clients: 2}
model: {name: convnet, depth: 2, width: 4}
algorithm: feddm
method: {name: dm, ipc: 1, iterations: 2, networks: {name: pool, size: 1, around: server, radius: {relative: 0.2}}}
server: {epochs: 1}
controls: {upload_real_subset: false}
compute: {chunk: 0}
"""

CENTRAL = """
name: central
data: {name: digits}
model: {name: convnet, depth: 2, width: 4}
method: {name: dm, ipc: 1, iterations: 2, networks: {name: pool, size: 1}}
evaluation: {nets: 1, train: {epochs: 1}}
compute: {chunk: 0}
"""


class InlineGrid(inline.InlineGrid):
    """In the place of a grid with workers, whose settings it does not need."""

    def __init__(self, _: str, *configs: Any, nodes: int, progress: Any = None, **__: Any) -> None:
        super().__init__("fedsim.app:client_app", *configs, nodes=nodes, progress=progress)
