"""`corlld bench`: the learner beside its peers, and what the daemon around it costs, side by side in one run."""
