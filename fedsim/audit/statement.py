"""What a card says beside its numbers: what the audit could not have seen, and who said otherwise."""

from __future__ import annotations

from fedsim.audit.schema import AuditRun
from fedsim.audit.types import Subject

CITATIONS = (
    "Membership advantage near zero on distilled data is claimed by Dong, Zhao, Lyu, Privacy for Free: How does "
    "Dataset Condensation Help Privacy?, ICML 2022, arXiv 2206.00240.",
    "It is contested by Carlini, Feldman, Nasr, No Free Lunch in 'Privacy for Free: How does Dataset Condensation Help "
    "Privacy', arXiv 2209.14987: no statistically significant evidence over a naive baseline.",
    "LiRA: Carlini et al., Membership Inference Attacks From First Principles, IEEE S&P 2022, arXiv 2112.03570.",
    "RMIA: Zarifzadeh, Liu, Shokri, Low-Cost High-Power Membership Inference Attacks, ICML 2024, arXiv 2312.03262.",
    "Bounds on ε by planted records: Steinke, Nasr, Jagielski, Privacy Auditing with One (1) Training Run, NeurIPS "
    "2023, arXiv 2305.08846.",
)


def limits(config: AuditRun, candidates: int) -> list[str]:
    """What this audit could not have seen, in words; `candidates`: of the membership rows, 0 where there are none."""
    found = [
        "An attack that finds nothing shows what this attack finds, with this many runs; a better one may find more.",
        "No number here is an upper bound, and none is an ε: that is the accountant's, or the one-run test's.",
    ]
    if candidates:
        shared = f"All {config.rows} runs share one pool of {candidates} records: intervals are for further runs on it."
        found.insert(1, shared)
    if Subject.ROWS not in config.subjects:
        found.append("The controls of membership were not run: no attack here asks who was a member.")
    if config.finished is not None:
        found.append(
            "The run was finished before: no record was held out for this, and nothing registered. Gradients and "
            "updates are those of its records one case at a time, at the weights that gradients.at names; it need not "
            "have sent such."
        )
    if Subject.CANARIES in config.subjects:
        found.append(
            "Records were planted in one run and not in the others: what is said of ε is of that run, with the same "
            "settings. 'Consistent' with the accountant's ε is no proof of it."
        )
    if any(getattr(attack, "release", "client_sets") != "client_sets" for attack in config.attacks):
        found.append(
            "For a release that holds what the audited client sent the negative control of disjoint data is none."
        )
    if config.run.algorithm.name != "one_shot" and config.run.rounds > 1:
        found.append("Sets of later rounds depend on the server's weights, which other clients' uploads enter.")
    return found
