"""Chat templates in the manner of real ones, for the tiny models' special tokens."""

# As Qwen3's: tools in front, calls and answers of tools, reasoning behind a switch, an empty block where it is off.
THINKING = (
    "{% if tools %}<|turn>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<turn|>\n{% endif %}"
    "{% for message in messages %}<|turn>{{ message.role }}\n"
    "{% if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif %}"
    "{% if message.tool_call_id %}[{{ message.tool_call_id }}]{% endif %}"
    "{% if message.name %}({{ message.name }}){% endif %}"
    "{{ message.content }}"
    "{% for call in message.tool_calls or [] %}"
    "<call>{{ call.function.name }} {{ call.function.arguments.city }}</call>{% endfor %}"
    "<turn|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)

# As multimodal models have it: the content is a list of parts.
PARTS = (
    "{% for message in messages %}<|turn>{{ message.role }}\n"
    "{% for part in message['content'] %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}"
    "<turn|>\n{% endfor %}{% if add_generation_prompt %}<|turn>assistant\n{% endif %}"
)
