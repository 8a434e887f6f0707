"""Strict settings: one frozen class per section, read from one YAML with `key=value` overrides.

A section is a `Section`; where several kinds exist its `name` chooses one in the catalog (`Choice("model")`).
Everything outside a schema is an error with a suggestion. Every error is one line: what came, what is valid.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, SerializeAsAny, ValidationError
from pydantic_core import PydanticCustomError

from fedsim import catalog
from fedsim.types import UserError
from fedsim.yaml_text import Dumper, parse_yaml

Raw = dict[str, Any]
C = TypeVar("C", bound="Section")


class Section(BaseModel):
    """Base of every settings class: frozen, strictly typed, unknown keys refused, fields with docstrings."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
    later: ClassVar[tuple[str, ...]] = ()
    """Settings that came after others had run: no part of the hash while they are at their default."""


def Choice(kind: str) -> Any:  # noqa: N802 - reads as a type in annotations
    """The type of a section whose `name` is looked up in the catalog's `kind`."""

    def choose(value: Any) -> Any:
        if isinstance(value, Section):
            return value
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
            line = f"needs a name; valid: {', '.join(catalog.names(kind))}"
            raise PydanticCustomError("fedsim", "{line}", {"path": "", "line": line})
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
        others = len({_locate(schema, detail)[0] for detail in _details(error, schema)}) - 1
        more = f" ({others} more {'settings are' if others > 1 else 'setting is'} wrong)" if others else ""
        raise UserError((f"{path}: " if path else "") + line + more) from error


def first_error(error: ValidationError, schema: type[Section]) -> tuple[str, str]:
    """Dotted path and one-line text of the first thing pydantic refused; the path of a whole file is empty."""
    details = _details(error, schema)
    detail = details[0]
    path, owner = _locate(schema, detail)
    context, got = detail.get("ctx", {}), detail["input"]
    if detail["type"] == "fedsim":
        return (path + context["path"]).strip("."), context["line"]
    if detail["type"] == "value_error":
        return _own_words(path, owner, got, _lower(detail["msg"]))
    # Every branch of a union complains on its own; together they say what is valid.
    valid = dict.fromkeys(_lower(other["msg"]) for other in details if _locate(schema, other)[0] == path)
    line = f"got {_shown(got)}; {' or '.join(valid).replace(' or should be ', ' or ')}"
    if detail["type"] == "extra_forbidden":
        hint = catalog.suggest(str(detail["loc"][-1]), owner)
        line = f"unknown key{hint}; valid: {', '.join(owner)}"
    elif detail["type"] == "missing":
        line = "is required and was not given"
    elif detail["type"] == "model_type":
        line = f"got {_shown(got)}; should be a mapping with keys of: {', '.join(owner)}"
    elif detail["type"] == "dict_type" and got is None:
        line += ", {} where nothing is meant"
    return path, line


def _details(error: ValidationError, schema: type[Section]) -> list[Any]:
    """What pydantic refused, without what is no fault of its own; a key that is unknown before one that is missing.

    Items that are refused make a list too short, and a misspelt key makes the right one missing.
    """
    every, hints = error.errors(), []
    for one in (one for one in every if one["type"] == "extra_forbidden"):
        hints.append((one["loc"][:-1], catalog.suggest(str(one["loc"][-1]), _locate(schema, one)[1])))

    def follows(detail: Any) -> bool:
        place = detail["loc"]
        if detail["type"] == "too_short":
            return any(one["loc"][: len(place)] == place and one is not detail for one in every)
        return detail["type"] == "missing" and any(place[:-1] == at and f"'{place[-1]}'" in hint for at, hint in hints)

    found = [detail for detail in every if not follows(detail)]
    return sorted(found, key=lambda one: found[0]["type"] == "missing" and one["type"] != "extra_forbidden")


def _own_words(path: str, owner: Sequence[str], got: Any, message: str) -> tuple[str, str]:
    """Path and text where a validator of ours refused: it may say what came, or which key of a section it means."""
    key, colon, rest = message.partition(": ")
    if colon and key.partition("=")[0].partition(".")[0] in owner:
        return f"{path}.{key}".strip("."), rest
    told = message.startswith("got ") or isinstance(got, Mapping)
    return path, message if told else f"got {_shown(got)}; {message}"


def _locate(schema: Any, detail: Any) -> tuple[str, list[str]]:
    """Dotted path of an error without pydantic's tags of unions, and the keys of the last section on it."""
    path: list[str] = []
    inside: Any = None
    for part in detail["loc"]:
        field = getattr(schema, "model_fields", {}).get(part)
        if field is not None:
            path, inside, schema = [*path, part], field.annotation, _section_in(field.annotation)
        elif get_origin(inside) is dict and part != "[key]":
            path, inside = [*path, str(part)], get_args(inside)[1]
        elif isinstance(part, int) or (detail["type"] == "extra_forbidden" and part == detail["loc"][-1]):
            path.append(str(part))
    return ".".join(path), list(getattr(schema, "model_fields", {}))


def _section_in(annotation: Any) -> type[Section] | None:
    """The section class inside `X`, `X | None` or `tuple[X, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section_in(part))), None)


def _shown(value: Any) -> str:
    text = repr(value)
    text = text if len(text) <= 80 else f"{text[:77]}..."
    return "null" if value is None else f"{text} ({type(value).__name__})"


def _lower(message: str) -> str:
    message = message.removeprefix("Value error, ").removeprefix("Input ")
    message = message.replace("valid tuple", "list").replace("valid dictionary", "mapping")
    message = re.sub(r"^(Tuple|Dictionary) (should have .*?) after validation, not \d+$", r"\2", message)
    return message[:1].lower() + message[1:]


def read(path: Path, above: tuple[Path, ...] = ()) -> Raw:
    """The mapping in a YAML file, laid over the file that its `extends` names; `above` are those that name it."""
    path = Path(os.path.realpath(path))  # unlike Path.resolve, it does not raise on a loop of links
    if path in above:
        chain = " → ".join(file.name for file in (*above, path))
        raise UserError(f"config file {path} extends itself ({chain}); remove one of these extends")
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise UserError(f"config file {path} {what}; give one such as configs/quickstart/feddm_digits.yaml")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"config file {path} is not UTF-8 text; give a YAML file") from error
    raw = parse_yaml(text, f"config file {path}")
    if not isinstance(raw, dict):
        what = "is empty" if raw is None else f"holds a {type(raw).__name__}"
        raise UserError(f"config file {path} {what}; give a mapping of sections such as `model: convnet`")
    if "extends" not in raw:
        return raw
    base = raw.pop("extends")
    if not isinstance(base, str):
        raise UserError(f"config file {path}: extends is {_shown(base)}; give the name of one YAML file")
    return merge(read(path.parent / base, (*above, path)), raw)


def merge(base: Raw, over: Raw) -> Raw:
    """`over` laid on `base`, section by section; a section that changes its `name` starts from nothing."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        old = {"name": old} if isinstance(old, str) else old
        if isinstance(value, dict) and isinstance(old, dict) and value.get("name", old.get("name")) == old.get("name"):
            result[key] = merge(old, value)
        else:
            result[key] = value
    return result


def override(raw: Raw, assignments: Sequence[str]) -> Raw:
    """Apply `key=value` with dots, in order. `section=NAME` and `section.name=NAME` restart that section."""
    raw = json.loads(json.dumps(raw, default=repr))  # a copy in which YAML's aliases share nothing
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not all(key.split(".")):
            raise UserError(f"override '{assignment}' is not key=value; write for example method.ipc=5")
        value: Any = parse_yaml(text, f"override '{assignment}'")
        *parents, last = key.split(".")
        target: Raw = raw
        for parent in parents:
            inner: Any = target.get(parent)
            inner = {} if inner is None else {"name": inner} if isinstance(inner, str) else inner
            if not isinstance(inner, dict):
                raise UserError(f"override '{assignment}': {parent} is {_shown(inner)}; write {parent}=VALUE")
            target[parent] = inner
            target = inner
        if last == "name" and parents:
            target.clear()
        if isinstance(value, str) and isinstance(target.get(last), dict):
            value = {"name": value}
        target[last] = value
    return raw


def dump(config: Section) -> Raw:
    """Plain values of a resolved config, every default written out."""
    return config.model_dump(mode="json")


def to_yaml(config: Section) -> str:
    """The resolved config as a YAML file that can be run again."""
    return yaml.dump(dump(config), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=110)


def digest(config: Section) -> str:
    """12 hex digits over everything that may change the result, but for `name` and `seed`."""
    plain = config.model_dump(mode="json", exclude=_untouched(config))
    values = {key: value for key, value in plain.items() if key not in {"name", "seed"}}
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def _untouched(config: Section) -> dict[str, Any]:
    """Settings that came later and are at their default, as pydantic wants to be told."""
    fields = type(config).model_fields
    found: dict[str, Any] = {name: True for name in config.later if getattr(config, name) == fields[name].get_default()}
    inner = {name: _untouched(one) for name in fields if isinstance(one := getattr(config, name), Section)}
    return {name: inside for name, inside in inner.items() if inside} | found
