"""A single value in words: what is allowed, by its JSON schema, and what was found. Knows no setting by name."""

import json
from typing import Any

Schema = dict[str, Any]

_BOUNDS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
_LONGEST_SHOWN = 60


def described(schema: Schema) -> str:
    """Describe the values that a JSON schema allows: the values themselves, or a type with bounds."""
    if "allowed" in schema:
        return str(schema["allowed"])
    if "anyOf" in schema:
        return " or ".join(described(choice) for choice in schema["anyOf"] if choice.get("type") != "null")
    if "const" in schema or "enum" in schema:
        return ", ".join(json.dumps(value) for value in schema.get("enum", [schema.get("const")]))
    bounds = [f"{sign} {schema[bound]:g}" for bound, sign in _BOUNDS.items() if bound in schema]
    match schema["type"]:
        case "boolean":
            return "true or false"
        case "integer" | "number" as kind:
            return " ".join(["an integer" if kind == "integer" else "a number", " and ".join(bounds)]).strip()
        case "array":
            each = schema.get("items", {}).get("allowed", "texts")
            return f"a list of {each}" + (", not empty" if schema.get("minItems") else "")
        case _ if schema.get("format") == "path":
            return "a path"
        case _:
            least = schema.get("minLength", 0)
            return "a text" if not least else "a text, not empty" if least == 1 else f"at least {least} characters"


def shown(value: object) -> str:
    """Return the value as people write it, cut if it is long."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "..."
