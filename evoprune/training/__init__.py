"""How a generation is trained: population, engines, trace, ledger, ticket."""
