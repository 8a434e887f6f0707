"""NaiveAttack: stamp a white square on some records, give them the target's label, and follow the protocol.

    D_k' = { (x ⊕ τ, t) : x in P }  ∪  D_k \\ P          P ⊂ D_k random, ρ |D_k| records not of class t
    upload = ClientUpdate(k, w_r) on D_k' instead of D_k

Source  Liu, Li, Backes, Shen, Zhang, "Backdoor Attacks Against Dataset Distillation", NDSS 2023, arXiv 2301.01197,
        Section IV-B. There the distiller itself is malicious and holds all data; here one client of a federation is.
Code    liuyugeng/baadd (read, not copied): 2×2 white square one pixel off the bottom right corner, 1 % of all data.
Differs the records are of classes other than t (the code takes any, so that some are stamped to no effect); ρ is a
        share of one client's data and 0.5 by default: nobody sees what a client does with its own.
Reduces `poison: false` is the honest client.
Cost    none beside the honest client's.
"""

from __future__ import annotations

from typing import Literal

from attacks.evasion import check_poisoning, poisoned_upload
from attacks.poisoning import PoisoningConfig
from fedsim.data.trigger import white
from fedsim.federated.attackers import Scene
from fedsim.federated.base import Algorithm, Broadcast, ClientView, Upload
from fedsim.seeding import Streams


class Config(PoisoningConfig):
    """NaiveAttack has no settings beside those of poisoning."""

    name: Literal["naive"] = "naive"


class Naive:
    """The attacker."""

    Config = Config

    def __init__(self, config: Config) -> None:
        self.config = config

    def check(self, scene: Scene) -> None:
        """Refuse what could not be done."""
        check_poisoning(self.config, scene)

    def client(self, algorithm: Algorithm, view: ClientView, broadcast: Broadcast, streams: Streams) -> Upload:
        """The client's own part, on poisoned records."""
        config = self.config
        trigger = white(view.setting.image_shape, config.size, config.target, config.offset)
        return poisoned_upload(algorithm, view, broadcast, streams, config, trigger)
