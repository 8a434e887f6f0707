"""Write docs/results.md from what is kept: `python benchmarks/tables.py`. Numbers in its tables are never typed.

Words are: what was tried and not kept is told as it was.
"""

from __future__ import annotations

from pathlib import Path

from afterwards_tables import afterwards
from audit_tables import audits
from backdoor_tables import backdoors
from central_tables import central
from evidence_tables import evidence
from federated_cells import FEDMK_ON_MNIST
from federated_tables import ablations, comparison, grids, private
from gradient_tables import gradients
from model_defence_tables import model_defences
from result_tables import architectures, curves, distillation, fedavg, federated, shelf
from ticket_training_tables import tickets
from transfer_page import transfers
from utility_tables import sections

PAGE = Path(__file__).parent.parent / "docs" / "results.md"

HOUR = (
    "The published settings (`configs/paper/`: real start, SGD, fresh networks, 256 real images a class, DSA; `dsa` with ten "
    "matching steps a network and 50 epochs after each), in bfloat16, for as many iterations as about an hour of one core of "
    "a busy machine allowed; nothing is extrapolated. One set, scored by three networks after 300 epochs; intervals are over "
    "networks of that set. The images are a JPEG copy of CIFAR-10. Iteration 0 is the real start. The first "
    "1,965 steps of `dm` (54 minutes) and 100 of `dsa` (23 minutes) were taken by runs set for more steps, whose checkpoints runs of "
    "2,000 and 100 went on from: the steps are the same, the minutes given are of the rest. Scores on the way are on "
    "the test split and nothing was chosen by them. A GPU was not at hand: the full table was not run."
)


def federations() -> list[str]:
    """Runs of a federation."""
    feddm = "Ten clients, {}, noise start, {} per class, ConvNet-3 of width 32, three rounds; hard labels, test once."
    grid = "The same clients and rounds, SGD without momentum, no augmentation (FedDM's server has DSA). Learning rate and epochs are chosen on val after round 3; the test figure is read for the choice only."
    dirichlet, two = "Dirichlet 0.5", "two classes per client"
    return [
        federated("FedDM on digits (`make demo`)", "digits_feddm", "Ten clients, Dirichlet 0.5, noise start, five images per "
                  "class, three rounds. One upload holds a third as many images as its client has real ones: here the "
                  "control is nearly the whole data set."),
        federated("FedDM on MNIST, Dirichlet 0.5", "mnist_feddm", feddm.format(dirichlet, "ten images")),
        federated("FedDM on MNIST, Dirichlet 0.5, one image per class", "mnist_feddm_ipc1", feddm.format(dirichlet, "one image") + " The "
                  "control is the better set already after round 1: ten clients' synthetic images of a class are near copies of its "
                  "mean (mean pairwise cosine of pixels 0.76), as many random real ones are not (0.53)."),
        fedavg("FedAvg on MNIST, Dirichlet 0.5", "mnist_fedavg", grid),
        federated("FedDM on MNIST, two classes per client", "mnist_feddm_2classes", feddm.format(two, "ten images")),
        fedavg("FedAvg on MNIST, two classes per client", "mnist_fedavg_2classes", grid),
    ]  # fmt: skip


def comparisons() -> list[str]:
    """All federated algorithms on the same clients, FedMK's parts, privacy and its price."""
    digits = (
        "Ten clients, three rounds (FedMK two, one-shot one), ConvNet-2-32, five local epochs or condensation of five images per "
        "class; `configs/federated/digits_comparison.yaml`. Settings from the grid above. FLOPs count passes as `Algorithm.passes` "
        "does (an upper bound for CAFE only), with those of FedMK's generator; seconds are of one process on a machine with other "
        "work, controls included."
    )
    mnist = (
        "Ten clients, ten rounds, ConvNet-3-16, one local epoch or condensation of ten images per class "
        "(`configs/federated/mnist_comparison.yaml`). Learning rates as chosen on the digits, nothing tuned on MNIST but "
        "FedMK's condensation (the grid above). The server of those that upload images augments them (DSA); local training does not. "
        "Seconds as above."
    )
    return [
        grids("Grids of the federated algorithms, digits, Dirichlet 0.5", "digits_federated_grid", "Four trials each, seed 0, val "
              "after the last round (144 images, so that equals are common: the mean of three seeds decides between them). Grids "
              "are of equal size, not of equal reach: the algorithms with a step of the server try two local rates, 0.1 and 0.2, "
              "with two of these. Many choices lie at an end of their grid."),
        comparison("Federated algorithms on digits, Dirichlet 0.5", "digits_federated", digits),
        comparison("Federated algorithms on digits, Dirichlet 0.05", "digits_federated_skewed", digits + " They were chosen at "
                   "Dirichlet 0.5."),
        ablations("FedMK's mechanisms, digits", "digits_fedmk_ablations", "`configs/quickstart/fedmk_digits.yaml` (five clients, "
                  "Dirichlet 0.5, two rounds) whole and with one mechanism left out, paired by seed. Where the interval holds zero, "
                  "the mechanism is not shown to do anything here."),
        grids("FedMK's condensation on MNIST, two classes per client", "mnist_fedmk_grid", "From noise, and from random real images "
              "(`fedmk_real_start`: what leaves a client then began as private pixels): seed 0, val after ten rounds. In "
              "bold what was chosen of a whole grid; it stands in the next two tables.", FEDMK_ON_MNIST),
        comparison("Federated algorithms on MNIST, Dirichlet 0.1", "mnist_federated", mnist),
        comparison("Federated algorithms on MNIST, two classes per client", "mnist_federated_two_classes", mnist),
        private("Differential privacy on MNIST", "mnist_private", "Ten clients, Dirichlet 0.5, one record of one client, δ = 1e-5, "
                "seeded noise (a simulation), ConvNet-3-32 (`configs/federated/mnist_private.yaml`). `noisy class means` is the "
                "control at equal ε: pixel class sums noised once, and then trained on as the run's server trains, with DSA and weights "
                "by noisy counts, which was not tuned for it: less noise gives it less accuracy here. Settings of `features` chosen on val of seed 0, in "
                "trials that were not kept. DP-FedAvg takes 60 local steps in all, of 270 images on average, with two learning "
                "rates for each number of rounds, seed 0 alone, and does not augment."),
    ]  # fmt: skip


def condensations() -> list[str]:
    """Central condensations."""
    budget = (
        "All 60,000 images, ConvNet-3-128, {} per class, minutes on one core: settings in `benchmarks/cells.py` (`SHELF`), chosen "
        "beforehand and tuned on nothing; noise start; selections look through a network trained for two epochs. Every set is "
        "scored by three networks (random: five sets, one network each), 300 epochs, DSA, bfloat16; the interval is over networks of "
        "ONE set, so it does not hold the spread over sets. Published figures are of thousands of steps, other starts and each "
        "paper's own evaluation."
    )
    return [
        shelf("The shelf on digits, one image per class", "digits_shelf", "Each quickstart at `method.ipc=1`: five sets, two "
              "networks each, beside ten random subsets (Welch's interval)."),
        shelf("Options of the shelf on digits, one image per class", "digits_options", "The same quickstarts with one thing "
              "changed: whitened images, learned frequencies, learned soft labels (scored with and without them), labels of a "
              "teacher for the set and for its random subsets. Nothing was tuned for them."),
        shelf("The shelf on MNIST, one image per class", "mnist_shelf_ipc1", budget.format("one image")),
        shelf("The shelf on MNIST, ten images per class", "mnist_shelf_ipc10", budget.format("ten images")),
        architectures("Other architectures, MNIST, one image per class", "mnist_architectures", "Sets condensed with "
                      "ConvNet-3-128 (the first row) as above, scored by two networks of each architecture beside as many "
                      "networks on random subsets, 300 epochs, DSA; intervals over networks of one set."),
        curves("CIFAR-10 for an hour, ten images per class", "cifar10_hour", HOUR),
        distillation("Dataset Condensation on MNIST, one image per class", "mnist_dc", "The published settings "
                     "(`configs/paper/dc_mnist_ipc1.yaml`: noise start, SGD, 1,000 networks, no augmentation) but for 64 real images a "
                     "class and step in place of 256, one set, three networks, bfloat16. Published: 91.7 (20 networks on each of 5 "
                     "sets)."),
        distillation("Distribution Matching on MNIST, ten images per class", "mnist_dm", "All 60,000 images, ConvNet-3-128, "
                     "noise start, a pool of 30 networks, DSA while condensing and while evaluating (500 epochs). Published: "
                     "97.5 (Zhao and Bilen, WACV 2023; real start, DSA, 20,000 fresh networks, 20 networks on each of 5 sets). "
                     "Step size, pool size and augmentation were compared on 6,000 held-out training images with a network of "
                     "width 32 and 1,000 steps: no augmentation 95.1, DSA 95.8; with DSA: pool of 60 95.9, step size 0.05 94.7, "
                     "0.5 95.5."),
        distillation("Distribution Matching on MNIST without augmentation", "mnist_dm_plain", "The same with a pool of 20, no "
                     "augmentation anywhere, 300 epochs: the first try, kept for comparison."),
    ]  # fmt: skip


def page() -> str:
    """The whole of docs/results.md."""
    return "\n".join([
        "# Results\n\nMade by `python benchmarks/tables.py` from the cells kept under `benchmarks/results/`; intervals are 95%, "
        "over seeds unless it says otherwise; of fewer than three seeds there is none (in parentheses: the least and the largest), nor "
        "where all seeds agree. `+ changes` after a commit: the checkout held files that were not committed, kept results among them. `upload_real_subset` is the control: the same rounds with random real images "
        "uploaded, as many per client and class.\n",
        *federations(),
        *comparisons(),
        *condensations(),
        *audits(),
        *gradients(),
        *evidence(),
        *central(),
        *sections(),
        *backdoors(),
        *afterwards(),
        *model_defences(),
        *transfers(),
        *tickets(),
    ])  # fmt: skip


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE.relative_to(PAGE.parent.parent))
