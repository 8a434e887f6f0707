"""Words of the section on central backdoors: settings read off the kept parts, the paper's, and tries that were not kept."""

from __future__ import annotations

from central_cases import Case, settings_text


def setting(found: list[Case]) -> str:
    """What was done, as the kept parts say."""
    again, steps = settings_text(found, "every"), " or ".join(dict.fromkeys(str(case.victim_steps) for case in found))
    return (
        f"Whoever condenses stamps a share of {settings_text(found, 'portion')} of {settings_text(found, 'records')} records with a "
        f"{settings_text(found, 'size')}×{settings_text(found, 'size')} square (white: NaiveAttack) and calls them class {settings_text(found, 'target')}; "
        f"{settings_text(found, 'method', 'ipc')} images a class; ConvNets of width {settings_text(found, 'width')} without norm, with the released 192 hidden "
        "units (`convnet_hidden`), where no other network is named. `success` is over test images not of class 0; `lift` is success "
        "minus that of networks trained on the unpoisoned set of the same seed under the same trigger, so that what a trigger does "
        "by itself is no success; `control trigger` is, on the poisoned networks, noise of bytes in the trigger's place (invisible: random signs "
        "of the bound), or, of one that left the box, its own values shuffled over its square. In the box: trigger and "
        "set are bytes; out of it: float32, as in the released code, which never clamps. Clean labels: in the box, records of class 0 "
        "are stamped, as many, and no label is wrong. Invisible: in the box, the trigger is added to the whole image within a bound "
        "(`attacks/invisible.py`; for NaiveAttack random signs of it). `levels` are grey levels of the trigger; `carried`, for each "
        "seed, is the share of a square in the class-0 image that holds most of it, which says little of a white one, since bright "
        f"corners resemble it. The first trigger takes up to {settings_text(found, 'first_steps')} Adam steps on a network that the attacker trained on "
        f"{settings_text(found, 'seen')} records, and `updates` times {settings_text(found, 'trigger_steps')} more on another such network, every {again} steps of the "
        f"condensation. Intervals and two ends are over seeds, of the mean of {settings_text(found, 'networks')} victims each, trained for {steps} steps, on {settings_text(found, 'test')} test images. "
        "Of one seed: Wilson's over these images, each counted once, for shares; changes and lifts of one seed have none."
    )


PAPER = (
    "What is the paper's here, and what is not. The paper condenses with `dc` from noise, 1,000 networks of ten outer steps, on all "
    "records; that was out of reach on one core. `dm`, which it does not have, is in its place; all sets of a seed start from the same random "
    "clean records. On a newly initialised network α a₀ is within the release's tolerance of the start and the trigger stays, hence "
    "the attacker's own networks (the release: up to 1,000 Adam steps after each of thousands of outer steps, on the network in "
    "training; at one image per class it never updates the trigger at all, here it does). Networks this narrow learn little of a hundred "
    "CIFAR-10 images and differ by seed: the change of accuracy is known only to its interval. The release's invisible trigger has "
    "a penalty in the place of a bound and is added again at every update; it has no clean labels. The release also counts images of the target "
    "class and so grants a clean model 10 %."
)
TRIED = (
    "Tried before, not kept; the choice is not free of it, and a rerun changes nothing in this paragraph. On val, one seed, one to "
    "three victims: `dc` with the trigger updated after each outer step as released, 20 Adam steps a time from random pixels, 30 "
    "outer steps: lift 0; with 1,000 steps first, 20 outer steps: 13 points. `dc` is not reproduced. `dm`, 100 steps of 0.1, trigger of 200 Adam "
    "steps: 46 points, that trigger four times as far from grey 128: 100; from records that may be stamped ones, trigger of 1,000 "
    "steps: 99 (80 steps of 0.1), 95 (80 of 0.3), 97 (160 of 0.15). On test images, three victims, the same start: 80 steps of 0.1, two seeds: 93, "
    "57; 120 of 0.2, three seeds: 90, 79, 15. Sets of seeds 0 and 2 held records stamped from the start (lifts 90 and 15; why they "
    "differ was not looked into); so the start was made clean, the image step 0.25, the first trigger 2,000 steps, untried, and the table is of test "
    "images after the first 4,000, apart from those of these tries (the first and the last 2,000). In the box, 80 steps of 0.1, one "
    "seed: NaiveAttack −12, DOORPING −12. MNIST at one image per class with the 40 epochs of ten, which are 40 steps there, one seed: victims of "
    "10 to 11 % accuracy, lift 0, which says nothing; hence as many steps as at ten. The forms with clean labels and the invisible one took these settings as they were; nothing "
    "was tried for them."
)
