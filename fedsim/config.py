"""Strict settings: one frozen class per section, read from one YAML with `key=value` overrides.

A section is a `Section`; where several kinds exist its `name` chooses one in the catalog (`Choice("model")`).
Everything outside a schema is an error with a suggestion. Every error is one line: what came, what is valid.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, SerializeAsAny, ValidationError
from pydantic_core import PydanticCustomError

from fedsim import catalog
from fedsim.types import UserError

Raw = dict[str, Any]
C = TypeVar("C", bound="Section")


class Section(BaseModel):
    """Base of every settings class: frozen, strictly typed, unknown keys refused, every field with a docstring."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def Choice(kind: str) -> Any:  # noqa: N802 - reads as a type in annotations
    """The type of a section whose `name` is looked up in the catalog's `kind`."""

    def choose(value: Any) -> Any:
        if isinstance(value, Section):
            return value
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
            options = ", ".join(catalog.names(kind))
            raise PydanticCustomError("fedsim", "{line}", {"path": "", "line": f"needs a name; valid: {options}"})
        try:
            schema = catalog.resolve(kind, value["name"]).Config
        except UserError as error:
            raise PydanticCustomError("fedsim", "{line}", {"path": ".name", "line": str(error)}) from error
        try:
            return schema.model_validate(dict(value))
        except ValidationError as error:
            path, line = first_error(error, schema)
            raise PydanticCustomError("fedsim", "{line}", {"path": f".{path}", "line": line}) from error

    return Annotated[SerializeAsAny[Section], BeforeValidator(choose)]


def validate(schema: type[C], raw: Raw) -> C:
    """`raw` as an instance of `schema`, or a `UserError` of one line that names the key."""
    try:
        return schema.model_validate(raw)
    except ValidationError as error:
        path, line = first_error(error, schema)
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise UserError(f"{path}: {line}{more}") from error


def first_error(error: ValidationError, schema: type[Section]) -> tuple[str, str]:
    """Dotted path and one-line text of the first thing pydantic refused."""
    detail = error.errors()[0]
    path = ".".join(str(part) for part in detail["loc"])
    context = detail.get("ctx", {})
    if detail["type"] == "fedsim":
        return (path + context["path"]).strip("."), context["line"]
    if detail["type"] == "extra_forbidden":
        owner = _owner(schema, detail["loc"][:-1])
        hint = catalog.suggest(str(detail["loc"][-1]), owner)
        return path, f"unknown key{hint}; valid: {', '.join(owner)}"
    if detail["type"] == "missing":
        return path, "is required and was not given"
    got = detail["input"]
    return path, f"got {got!r} ({type(got).__name__}); {_lower(detail['msg'])}"


def _owner(schema: Any, path: Sequence[str | int]) -> list[str]:
    """Field names of the section at `path` inside `schema`."""
    for part in path:
        field = getattr(schema, "model_fields", {}).get(str(part))
        if field is not None and isinstance(field.annotation, type):
            schema = field.annotation
    return list(getattr(schema, "model_fields", {}))


def _lower(message: str) -> str:
    message = message.removeprefix("Value error, ").removeprefix("Input ")
    return message[:1].lower() + message[1:]


# --- reading -------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, except that `1e-3` is a number and a repeated key is an error."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)$|^[-+]?(\d+\.\d*|\.\d+)$"),
    list("-+0123456789."),
)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> Raw:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            raise UserError(f"key '{key}' is given twice{node.start_mark}")
    return {str(key): value for key, value in loader.construct_mapping(node, deep=True).items()}


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def parse_yaml(text: str, origin: str) -> Any:
    """The YAML value in `text`; `origin` names it in errors."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{origin} is not YAML: {' '.join(str(error).split())}") from error


def read(path: Path) -> Raw:
    """The mapping in a YAML file, laid over the file that its `extends` names (relative to it)."""
    return _read(path, ())


def _read(path: Path, above: tuple[Path, ...]) -> Raw:
    path = path.resolve()
    if path in above:
        raise UserError(f"{path} extends itself through {' → '.join(str(file.name) for file in above)}")
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"config file {path} {what}; give a YAML file such as configs/quickstart/feddm_digits.yaml")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"config file {path} is not UTF-8 text; give a YAML file") from error
    raw = parse_yaml(text, f"config file {path}")
    if not isinstance(raw, dict):
        raise UserError(f"config file {path} holds {type(raw).__name__}, not a mapping of sections")
    if "extends" in raw:
        base = _read(path.parent / str(raw.pop("extends")), (*above, path))
        return merge(base, raw)
    return raw


def merge(base: Raw, over: Raw) -> Raw:
    """`over` laid on `base`, section by section; a section that changes its `name` starts from nothing."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        if isinstance(value, dict) and isinstance(old, dict) and value.get("name", old.get("name")) == old.get("name"):
            result[key] = merge(old, value)
        else:
            result[key] = value
    return result


def override(raw: Raw, assignments: Sequence[str]) -> Raw:
    """Apply `key=value` with dots, in order. `section=NAME` and `section.name=NAME` restart that section."""
    raw = json.loads(json.dumps(raw))
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise UserError(f"override '{assignment}' is not key=value; write for example method.ipc=5")
        value = parse_yaml(text, f"override '{assignment}'")
        *parents, last = key.split(".")
        target = raw
        for parent in parents:
            if isinstance(target.get(parent), str):
                target[parent] = {"name": target[parent]}
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise UserError(f"override '{assignment}': {parent} is not a section")
        if last == "name":
            target.clear()
        if isinstance(value, str) and isinstance(target.get(last), dict):
            value = {"name": value}
        target[last] = value
    return raw


# --- writing -------------------------------------------------------------------------------------------------


def dump(config: Section) -> Raw:
    """Plain values of a resolved config, every default written out."""
    return config.model_dump(mode="json")


def to_yaml(config: Section) -> str:
    """The resolved config as a YAML file that can be run again."""
    return yaml.safe_dump(dump(config), sort_keys=False, allow_unicode=True, width=110)


def digest(config: Section) -> str:
    """12 hex digits over everything that may change the result, but for `name` and `seed`."""
    values = {key: value for key, value in dump(config).items() if key not in {"name", "seed"}}
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]
