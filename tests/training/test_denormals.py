"""Numbers too small to matter become zero, since a CPU computes slowly with them."""

from __future__ import annotations

from tests.training.test_population import population


def test_a_momentum_that_fades_becomes_zero() -> None:
    generation = population(horizon=30).train(1)
    for slots in generation.optimizer.state.values():
        slots["momentum_buffer"].fill_(1e-29)
    generation.train(22, gradients=False)  # past step 64
    assert not any(slots["momentum_buffer"].any() for slots in generation.optimizer.state.values())
