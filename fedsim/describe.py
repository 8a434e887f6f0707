"""What `fedsim describe NAME` prints: the file's own docstring and the settings with their defaults."""

from __future__ import annotations

import importlib
import json
from typing import Any

from pydantic_core import PydanticUndefined

from fedsim import catalog
from fedsim.config import Section
from fedsim.types import UserError


def describe(name: str) -> str:
    """Docstring of the part's module and one line per setting: name = default, and what it means."""
    kinds = [kind for kind, section in catalog.CATALOG.items() if name in section]
    if not kinds:
        every = [word for section in catalog.CATALOG.values() for word in section]
        raise UserError(f"unknown name '{name}'{catalog.suggest(name, every)}; fedsim list KIND prints the names")
    kind = kinds[0]
    module = importlib.import_module(catalog.place(kind, name).partition(":")[0])
    schema: type[Section] = catalog.resolve(kind, name).Config
    lines = [
        f"{kind} {name}   ({catalog.place(kind, name)})",
        "",
        (module.__doc__ or "").strip(),
        "",
        "Settings",
    ]
    for key, field in schema.model_fields.items():
        lines.append(f"  {key} = {_default(field.get_default(call_default_factory=True))}")
        if field.description:
            lines.append(f"      {field.description}")
    return "\n".join(lines)


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "(required)"
    return json.dumps(value.model_dump(mode="json") if isinstance(value, Section) else value, default=list)
