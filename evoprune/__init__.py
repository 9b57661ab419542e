"""evoprune: evolutionary search of sparse neural networks at initialization."""
