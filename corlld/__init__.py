"""corlld: a streaming online-learning daemon that learns, per user, from how drafts are edited."""

__version__ = "0.1.0"
