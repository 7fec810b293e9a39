"""vLLM behind two pipes: `vllm_worker.py MODEL ADAPTERS` reads a request as a line of JSON, and answers with a line.

It runs in the engine's own environment, and imports nothing of corlld. ADAPTERS is how many adapters vLLM keeps in
memory: one more evicts the least recently used, which is read from its folder again when it is asked for.

A request has `ids` (token ids) or `messages` (a chat, rendered by vLLM). It may have `adapter`: name, number, folder.
The answer has `ids`, what the model was given, and `logps`, the log-probability in nats of each id but the first.
A request `unload` (a number) forgets an adapter. An error is answered by its name, and ends the worker.
"""

import json
import os
import sys
from typing import Any

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
MAX_RANK = 8  # of the adapters


def main(model: str, adapters: int) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # vLLM logs to stdout

    from vllm import LLM

    llm = LLM(
        model=model,
        dtype="float32",
        enforce_eager=True,
        max_model_len=512,
        max_num_seqs=1,
        enable_lora=True,
        max_lora_rank=MAX_RANK,
        max_loras=1,
        max_cpu_loras=adapters,
    )
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        try:
            answer = answered(llm, json.loads(line))
        except Exception as error:
            print(json.dumps({"error": type(error).__name__}), file=answers, flush=True)
            raise
        print(json.dumps(answer), file=answers, flush=True)


def answered(llm: Any, request: dict[str, Any]) -> dict[str, Any]:
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest

    if "unload" in request:
        return {"unloaded": llm.llm_engine.remove_lora(request["unload"])}
    adapter = request.get("adapter")
    lora = LoRARequest(adapter["name"], adapter["number"], adapter["folder"]) if adapter else None
    parameters = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0)
    if "messages" in request:
        (output,) = llm.chat(request["messages"], parameters, lora_request=lora, use_tqdm=False)
    else:
        prompt = {"prompt_token_ids": request["ids"]}
        (output,) = llm.generate(prompt, parameters, lora_request=lora, use_tqdm=False)
    ids = output.prompt_token_ids
    # The first id has no log-probability: nothing predicts it.
    rows = zip(ids[1:], output.prompt_logprobs[1:], strict=True)
    return {"ids": list(ids), "logps": [row[token].logprob for token, row in rows]}


if __name__ == "__main__":  # vLLM's own process imports this file again
    main(sys.argv[1], int(sys.argv[2]))
