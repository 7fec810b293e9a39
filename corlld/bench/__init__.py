"""`corlld bench`: the learner beside its peers, and the costs of the daemon around it, all in one run."""
