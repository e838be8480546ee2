"""Writes metric_goldens.json: what other libraries say of the features used in tests.

Run from the root of the repository in an environment of its own, which has torch 2.13,
torch-fidelity 0.4.0, clean-fid 0.1.35, prdc 0.2 and SciPy 1.17 (and torchvision, which
some of these import, but nothing here uses):

    python -m tests.evaluation.make_metric_goldens

The features come from a seed, so only the results are stored. The tests import
`features`, `logits` and `CASES` from here and need none of these libraries.
"""

import json
import pathlib

import numpy as np

GOLDENS = pathlib.Path(__file__).with_name("metric_goldens.json")
# Name: (generated, real, dimensions).
CASES = {"many": (700, 500, 48), "few": (90, 120, 160)}
SUBSETS, SUBSET_SIZE, SEED = 20, 60, 2020
NEIGHBOURS = (3, 5)


def features(case):
    """Returns generated and real features, correlated, of differing distributions."""
    n, m, d = CASES[case]
    # This generator's stream never changes.
    rng = np.random.RandomState(n)
    mixing = rng.normal(size=(d, d)) / np.sqrt(d)
    x = rng.normal(size=(n, d)) @ mixing + 0.1
    y = rng.normal(size=(m, d)) @ (mixing + 0.3 * np.eye(d))
    return x, y


def logits(n=1003, classes=12):
    rng = np.random.RandomState(7)
    return rng.normal(0, 3, (n, classes)) + rng.normal(0, 2, classes)


def main():
    import cleanfid.fid
    import prdc
    import torch
    from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc

    goldens = {}
    for case in CASES:
        x, y = features(case)
        tx, ty = torch.from_numpy(x), torch.from_numpy(y)
        moments = [(f.mean(0), np.cov(f, rowvar=False)) for f in (x, y)]
        fidelity = metric_fid.fid_statistics_to_metric(
            *({"mu": mean, "sigma": sigma} for mean, sigma in moments), verbose=False
        )
        kid = metric_kid.kid_features_to_metric(
            tx,
            ty,
            kid_subsets=SUBSETS,
            kid_subset_size=SUBSET_SIZE,
            rng_seed=SEED,
            verbose=False,
        )
        # Its subsets come from the global generator, those of the second set first.
        np.random.seed(SEED)
        clean_kid = cleanfid.fid.kernel_distance(y, x, SUBSETS, SUBSET_SIZE)
        goldens[case] = {
            "torch_fidelity": {
                **fidelity,
                **kid,
                **metric_prc.prc_features_to_metric(
                    tx,
                    ty,
                    prc_neighborhood=3,
                    prc_batch_size=10000,
                    save_cpu_ram=False,
                    verbose=False,
                ),
            },
            "clean_fid": {
                "kernel_distance": clean_kid,
                "frechet_distance": float(
                    cleanfid.fid.frechet_distance(*moments[0], *moments[1])
                ),
            },
            "prdc": {
                str(k): {
                    name: float(value)
                    for name, value in prdc.compute_prdc(y, x, k).items()
                }
                for k in NEIGHBOURS
            },
        }
    goldens["logits"] = metric_isc.isc_features_to_metric(
        torch.from_numpy(logits()), splits=10, shuffle=True, rng_seed=SEED
    )
    GOLDENS.write_text(json.dumps(goldens, indent=2) + "\n")


if __name__ == "__main__":
    main()
