"""Prints what the sweep found as a table, and writes it to the page that $CORLLD_TEST_FAMILIES names."""

import os
from pathlib import Path

import pytest

HEAD = """\
# Families of models

`make test-families` writes this page. It builds a tiny model of each family with transformers, starts corlld on it,
learns two updates of two users, publishes, and loads what was published with PEFT. Policy and PEFT give the same
log-probabilities (1e-5, float32), and a text's do not depend on what else is in its row (1e-6). A family that can't be
trained so is refused at the start.

The sweep is in float32. *bfloat16*: the adapted modules if the model is in bfloat16, in which it starts and learns too.
Its start compares policy and PEFT as well, as closely as bfloat16 allows.

*packed*: users' texts lie end to end in a row, and share prompts. *padded*: each text is a row of its own, which takes
about twice the work.

Families with several kinds of rotary positions, by `rope_type` in the model's config.json:

- `longrope` (Phi-3, Phi-3.5, Phi-4): a text has at most `original_max_position_embeddings` tokens. That is also vLLM's
  default of `--max-model-len` for them. With a larger one vLLM uses other frequencies for all texts than were trained.
- `dynamic` (InternLM 3): as transformers computes them. vLLM uses the frequencies of the longest text for all texts.

| family | class | rows | adapted modules | left out | bfloat16 |
|---|---|---|---|---|---|
"""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = terminalreporter.getreports("passed")
    rows = sorted(str(value) for report in reports for name, value in report.user_properties if name == "family")
    if not rows:
        return
    page = HEAD + "\n".join(rows) + "\n"
    terminalreporter.write(page)
    if path := os.environ.get("CORLLD_TEST_FAMILIES"):
        Path(path).write_text(page, "utf-8")
