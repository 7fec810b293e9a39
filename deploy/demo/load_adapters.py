"""Loads each user's newest adapter with PEFT and lets the model continue a text, without it and with it."""

import sys
import warnings
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, logging

from corlld.learning.model_files import find_model_files
from corlld.settings import ModelSettings

PROMPT = "Message to the team about the new coffee machine.\n\n"
NEW_TOKENS = 24


def continuation(model: torch.nn.Module, tokenizer: AutoTokenizer) -> str:
    """The model's most likely continuation of the prompt, up to its first line's end."""
    ids = tokenizer(PROMPT, return_tensors="pt")
    with torch.no_grad():
        out = model.generate(**ids, max_new_tokens=NEW_TOKENS, do_sample=False)
    return tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True).strip().split("\n")[0]


def main(adapters: Path) -> None:
    """Print the base model's draft, and each user's."""
    logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)  # peft still uses a name that transformers deprecates
    base = find_model_files(ModelSettings(name="demo")).source
    tokenizer = AutoTokenizer.from_pretrained(base)
    print(f"The model continues: {PROMPT.strip()}")
    print(f"  base model          {continuation(AutoModelForCausalLM.from_pretrained(base), tokenizer)}")
    for user in sorted(adapters.iterdir()):
        newest = max(user.glob("v*"))
        model = AutoModelForCausalLM.from_pretrained(base)
        model = PeftModel.from_pretrained(model, newest)
        print(f"  {user.name[:12]} {newest.name}  {continuation(model, tokenizer)}")
    print(f"The adapters are in {adapters}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
