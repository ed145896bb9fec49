"""Claims of a paper, tested: each says what it would take to falsify it, and ends in a verdict."""
