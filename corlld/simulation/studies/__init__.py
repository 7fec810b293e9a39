"""Does it learn, and does it do harm? A module a study; `study` says what one is, `run` runs it."""
