"""What a notebook shows of a ticket and a population says what they are."""

from __future__ import annotations

import evoprune as ep
from tests.tiny import mlp


def test_a_ticket_and_a_population_are_shown_as_tables() -> None:
    problem = mlp("mlp:10-8")
    masks = [ep.random_mask(problem.space, sparsity=0.5, seed=seed) for seed in range(2)]
    generation = ep.Population(problem, masks, horizon=2, engine="loop", batch_size=18)
    assert "2 networks" in generation._repr_html_(), "before anything was trained, too"
    generation.train(1)
    shown = generation._repr_html_()
    assert "epoch 1 of 2" in shown
    assert shown.count("<tr>") >= 2
    ticket = generation.ticket(1)
    shown = ticket._repr_html_()
    assert f"{ticket.mask.count:,} of {problem.prunable:,} weights" in shown
    assert all(f"<td>{count:,}</td>" in shown for count in ticket.mask.counts)
