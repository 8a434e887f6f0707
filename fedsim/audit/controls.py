"""Controls of an audit: what must be found is found, what cannot be there is not.

    publish_subset   real images are uploaded: of the records nearest to them, members are hypergeometric if none leaks
    overfit          a network trained for long on the client's records under random labels: its loss tells members
    single           the method on one record of each class: the record is the nearest of its class to the upload
    disjoint         the attack on another client's first sets, which were made without the pool: its test finds nothing
    permuted         the attack's scores against membership drawn anew within classes: AUC ½
    coins            scores of planted records against coins thrown anew: AUC ½

Each is a computation, whose arrays are stored, and a judgement over them, which is all that `verify` repeats.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from fedsim.audit.card import Control
from fedsim.audit.statistics.auc import auc, delong
from fedsim.audit.statistics.hypergeometric import drawn_members
from fedsim.audit.statistics.inputs import TooFew
from fedsim.audit.statistics.pairs import over_pairs
from fedsim.audit.statistics.proportions import clopper_pearson
from fedsim.audit.targets import Targets
from fedsim.audit.types import Finding, Scores, Truth
from fedsim.data.images import Images
from fedsim.data.synthetic import SyntheticSet
from fedsim.federated.base import ClientView
from fedsim.seeding import Streams, numpy_stream
from fedsim.training.train import TrainConfig, fit

CERTAIN = 1e-3
"""p-value that a positive control has to stay below."""
NEGATIVE_LEVEL = 0.999
"""Coverage of a negative control's interval: at 95 % one honest card in twenty would be void."""
AMONG = 100
"""Candidates of an identification, the true one among them."""


def nearest_records(
    synthetic: UInt8[Tensor, "m c h w"], classes: Int64[Tensor, "m"], candidates: Images
) -> tuple[Int64[Tensor, "m"], Float[Tensor, "m"]]:
    """The candidate of the same class with the least Euclidean distance of pixels, and that distance (grey levels).

    −1 and infinity where no candidate has the class.
    """
    index = torch.full((len(synthetic),), -1, dtype=torch.int64)
    distance = torch.full((len(synthetic),), float("inf"), dtype=torch.float64)
    for label in classes.unique().tolist():
        mine, theirs = torch.nonzero(classes == label)[:, 0], torch.nonzero(candidates.labels == label)[:, 0]
        if len(theirs):
            away = torch.cdist(synthetic[mine].flatten(1).double(), candidates.pixels[theirs].flatten(1).double())
            least = away.min(1)
            index[mine], distance[mine] = theirs[least.indices], least.values
    return index, distance


def published(targets: Targets, sets: Sequence[Path]) -> Scores:
    """Nearest records to the client's uploads (these files) in the run that published real ones."""
    shown = [SyntheticSet.load(path) for path in sets]
    pixels, labels = torch.cat([one.images for one in shown]), torch.cat([one.labels for one in shown])
    pool = targets.parts.images(targets.pool.positions)
    index, distance = nearest_records(pixels, labels, pool)
    return {"nearest": index.numpy(), "distance": distance.numpy()}


def judge_published(scores: Scores, truth: Truth) -> Control:
    """The exact test has to say that the records nearest to the upload are members."""
    drawn = np.unique(scores["nearest"][scores["nearest"] >= 0])
    members, labels = truth["members"].astype(bool), truth["labels"]
    classes = np.unique(labels)
    of_pool, of_members, of_drawn = (
        [int((some == c).sum()) for c in classes] for some in (labels, labels[members], labels[drawn])
    )
    found = drawn_members(int(members[drawn].sum()), of_drawn, of_members, of_pool)
    return Control(
        "publish_subset", "members among the records nearest to real uploads, p < 0.001", found.p < CERTAIN,
        found.share, found.p, f"{int(members[drawn].sum())} of {len(drawn)} records, {found.expected:.1f} by chance",
    )  # fmt: skip


def overfit(targets: Targets, row: int, epochs: int, streams: Streams) -> Scores:
    """Confidence, in labels drawn at random, of a network trained for long on the pool's members with these labels.

    A label that was drawn can be known in no other way than by having been trained on.
    """
    parts = targets.parts
    pool = parts.images(targets.pool.positions)
    drawn = torch.randint(parts.dataset.num_classes, (len(pool),), generator=streams.generator("labels"))
    network, rng = parts.fresh()(streams.generator("init")), streams.generator("train")
    members = torch.from_numpy(np.flatnonzero(targets.pool.members(row)))
    images = Images(pool.pixels[members], drawn[members]).to(parts.device)
    train = TrainConfig(epochs=epochs, lr=0.05, weight_decay=0.0, batch_size=32, schedule="constant")
    fit(network, images, parts.normalise, train, rng, execution=parts.execution)
    with torch.no_grad():
        logits = network(parts.normalise(pool.pixels.to(parts.device))).double().cpu()
    own = logits.gather(1, drawn[:, None])[:, 0]
    others = logits.scatter(1, drawn[:, None], -torch.inf).logsumexp(1)
    return {"score": (own - others).numpy()}


def judge_overfit(scores: Scores, truth: Truth) -> Control:
    """The lower end of DeLong's interval has to lie above ½."""
    members = truth["members"].astype(bool)
    found = delong(scores["score"][members], scores["score"][~members], NEGATIVE_LEVEL)
    return Control(
        "overfit", "AUC of the loss of an overfitted network, 99.9% interval above 0.5", found.low > 0.5, found, None,
        "trained on the client's own records, under labels drawn at random",
    )  # fmt: skip


def single(targets: Targets, streams: Streams) -> Scores:
    """The algorithm's own client on one record of each class; is that record the nearest of its class to the upload?

    Candidates are the record and as many held-out ones of its class as there are, up to 99.
    """
    parts, client = targets.parts, targets.config.client
    algorithm, rng = parts.algorithm(), numpy_stream(streams.seed, "single")
    labels = parts.dataset.train.labels.numpy()
    held = parts.split.client[client]
    chosen = np.array([rng.choice(held[labels[held] == label]) for label in np.unique(labels[held])])
    setting = parts.setting
    broadcast = algorithm.broadcast(algorithm.init(setting), [client])[client]
    upload = algorithm.client(ClientView(client, setting, parts.images(chosen)), broadcast, streams)
    assert upload.synthetic is not None, "asked only of algorithms that upload sets"
    found, among = [], []
    shown = upload.synthetic.as_images()
    for record in chosen:
        label = labels[record]
        others = rng.permutation(parts.split.holdout[labels[parts.split.holdout] == label])[: AMONG - 1]
        candidates = parts.images(np.concatenate([[record], others]))
        mine = shown.take(torch.nonzero(shown.labels == int(label))[:, 0])
        index, distance = nearest_records(mine.pixels, mine.labels, candidates)
        found.append(bool(index[distance.argmin()] == 0))
        among.append(len(candidates))
    return {"identified": np.array(found), "among": np.array(among)}


def judge_single(scores: Scores, truth: Truth) -> Control:
    """Nine of ten have to be identified."""
    right, n = int(scores["identified"].sum()), len(scores["identified"])
    return Control(
        "single", "a record that is alone in its class is identified from the upload, 9 of 10", right >= 0.9 * n,
        clopper_pearson(right, n), None,
        f"{right} of {n} among {int(scores['among'].min())} candidates; by chance {np.mean(1 / scores['among']):.3f}",
    )  # fmt: skip


def judge_disjoint(findings: Sequence[Finding]) -> Control:
    """The attack's own confirmatory test must not be decided, at 0.1 %, on sets that were made without the pool."""
    found = next(one for one in findings if one.confirmatory)
    words = f"{found.metric} on another client's first sets, made without the pool: p above 0.001"
    if found.p is None:
        return Control("disjoint", words, True, found.estimate, None, f"not decided: {found.note}")
    seen = f"{found.estimate.value:.3f}" if found.estimate is not None else "no estimate"
    return Control("disjoint", words, found.p > CERTAIN, found.estimate, found.p, f"{found.id}: {seen}")


def judge_permuted(scores: Sequence[Scores], truths: Sequence[Truth], statistic: str) -> Control:
    """AUC of each target against membership drawn anew: its 99.9 % interval over pairs has to hold ½.

    Rows are drawn independently of the scores, so pairs are independent, which with the true rows they are not.
    """
    words = "AUC against membership drawn anew, 99.9% interval holds 0.5"
    areas = []
    for one, truth in zip(scores, truths, strict=True):
        members = truth["members"].astype(bool)
        areas.append(auc(one[statistic][members], one[statistic][~members]))
    found = over_pairs(np.array(areas), NEGATIVE_LEVEL, (0.0, 1.0))
    if isinstance(found, TooFew):
        return Control("permuted", words, True, None, None, f"not decided: {found}")
    return Control("permuted", words, found.low <= 0.5 <= found.high, found, None, f"over {len(areas)} targets")


def judge_coins(scores: Sequence[Scores], truths: Sequence[Truth], seed: int) -> list[Control]:
    """AUC of the decoded coins against coins thrown anew: its 99.9 % interval has to hold ½. None: nothing decoded."""
    if any("score" not in one for one in scores):
        return []
    values = np.concatenate([np.asarray(one["score"], np.float64) for one in scores])
    anew = numpy_stream(seed, "coins anew").random(len(values)) < 0.5
    found = delong(values[anew], values[~anew], NEGATIVE_LEVEL)
    words = "AUC of planted records against coins thrown anew, 99.9% interval holds 0.5"
    return [Control("coins", words, found.low <= 0.5 <= found.high, found, None, f"over {len(values)} planted records")]


def permuted(truths: Sequence[Truth], seed: int) -> list[Truth]:
    """Membership drawn anew within classes, in complementary pairs like the true one."""
    rng, found = numpy_stream(seed, "permuted"), []
    for row, truth in enumerate(truths):
        members, labels = truth["members"].astype(bool), truth["labels"]
        if row % 2:
            anew = ~found[-1]["members"]
        else:
            anew = members.copy()
            for label in np.unique(labels):
                where = np.flatnonzero(labels == label)
                anew[where] = rng.permutation(members[where])
        found.append({"members": anew, "labels": labels})
    return found
