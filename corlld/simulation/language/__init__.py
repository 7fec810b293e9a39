"""A small made-up language, a transformer that speaks it, and users whose wishes are known to the last word."""
