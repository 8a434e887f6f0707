"""What `fedsim describe NAME` prints: the file's own docstring and the settings with their defaults."""

from __future__ import annotations

import importlib
import inspect
import json
from typing import Any, get_args

from pydantic_core import PydanticUndefined

from fedsim import catalog
from fedsim.audit.schema import AuditRun, ControlsConfig, GradientsConfig
from fedsim.config import Section
from fedsim.schema import Distillation, FederatedRun
from fedsim.sweep_schema import Sweep
from fedsim.types import UserError

FILES: dict[str, type[Section]] = {"run": FederatedRun, "distill": Distillation, "sweep": Sweep}
"""Command → what its file holds; that of an audit is described with the section of its name."""


def describe(name: str) -> str:
    """Docstring of the part's module and one line per setting: name = default, and what it means.

    `audit` is both what a run reserves and the file of `fedsim audit run`.
    `name` is one of the catalog, a method of the user's own (`pkg.module:Class`), a section or a key of a config file
    such as `server`, `curve` or `run` itself.
    """
    sections = _sections()
    if name in sections:
        lines = [f"section {name}", "", inspect.cleandoc(sections[name].__doc__ or ""), "", *_settings(sections[name])]
        return "\n".join([*lines, *(_audit_file() if name == "audit" else [])])
    if any(name in schema.model_fields for schema in FILES.values()):
        lines = [line for schema in FILES.values() for line in _setting(schema, name)]
        return "\n".join([f"key {name}", "", *dict.fromkeys(lines)])
    kinds = [kind for kind, section in catalog.CATALOG.items() if name in section] or ["method"] * (":" in name)
    if not kinds:
        every = [*sections, *(word for section in catalog.CATALOG.values() for word in section)]
        raise UserError(
            f"unknown name '{name}'{catalog.suggest(name, every)}; fedsim list KIND prints the names, "
            "fedsim describe run, distill, sweep and audit all keys of a file"
        )
    kind = kinds[0]
    schema = catalog.resolve(kind, name).Config
    module = importlib.import_module(catalog.place(kind, name).partition(":")[0])
    lines = [
        f"{kind} {name}   ({catalog.place(kind, name)})",
        "",
        (module.__doc__ or "").strip(),
        "",
    ]
    return "\n".join([*lines, *_settings(schema)])


def _sections() -> dict[str, type[Section]]:
    """Sections of the config files that are no choice of the catalog, and the files themselves."""
    found: dict[str, type[Section]] = dict(FILES)
    for schema in (FederatedRun, Distillation):
        for key, field in schema.model_fields.items():
            for kind in (field.annotation, *get_args(field.annotation)):
                if isinstance(kind, type) and issubclass(kind, Section) and kind is not Section:
                    found[key] = kind
    return found


def _audit_file() -> list[str]:
    """The file of `fedsim audit run`, which has the name of the section, and its own sections."""
    lines = ["", "file of fedsim audit run", "", *_settings(AuditRun)]
    for key, schema in {"controls": ControlsConfig, "gradients": GradientsConfig}.items():
        lines += ["", f"{key} of that file: {(schema.__doc__ or '').strip()}", *_settings(schema)[1:]]
    return lines


def _settings(schema: type[Section]) -> list[str]:
    lines = ["Settings"]
    return [*lines, *(line for key in schema.model_fields for line in _setting(schema, key))]


def _setting(schema: type[Section], key: str) -> list[str]:
    """One key, its default and what it means; nothing where the schema has no such key."""
    if (field := schema.model_fields.get(key)) is None:
        return []
    lines = [f"  {key} = {_default(field.get_default(call_default_factory=True))}"]
    return [*lines, f"      {' '.join(field.description.split())}"] if field.description else lines


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "(required)"
    return json.dumps(value.model_dump(mode="json") if isinstance(value, Section) else value, default=list)
