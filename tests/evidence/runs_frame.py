"""A frame of made-up runs, as `load_runs` gives one."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd


def runs_frame(
    methods: dict[str, float], sparsities: tuple[float, ...] = (0.9, 0.95), seeds: int = 3, **columns: Any
) -> pd.DataFrame:
    """Scores `value - 0.1·sparsity + 0.01·seed`; `dense` and `dropout` once a seed, at sparsity 0; NaN comes out as 87%."""
    rows = []
    for method, value in methods.items():
        unpruned = method in ("dense", "dropout")
        for sparsity in (0.0,) if unpruned else sparsities:
            for seed in range(seeds):
                obtained = 0.87 if math.isnan(sparsity) else sparsity
                score = value - 0.1 * obtained + 0.01 * seed
                row = {"method": method, "sparsity": sparsity, "sparsity_obtained": obtained, "seed": seed, "metric": "accuracy"}
                row |= {"survivors": round(1000 * (1 - obtained)), "val_score": score, "test_score": score - 0.02}
                row |= {"dense_equivalent_epochs": 2.0, "data": "digits", "model": "mlp:16", "epochs": 3}
                rows.append(row | columns)
    return pd.DataFrame(rows)
