"""YAML as this project reads and writes it: numbers as people write them, repeated keys and wide integers refused."""

from __future__ import annotations

import re
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from fedsim.types import UserError


class Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, but `1e-3` is a number, a date is text, keys are as written (`on` is no true), and a
    repeated key is an error, as is an integer that is not decimal."""


class Dumper(yaml.SafeDumper):
    """Quotes what `Loader` would take for a number."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag != "tag:yaml.org,2002:timestamp"]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _side in (Loader, Dumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)$|^[-+]?(\d+\.\d*|\.\d+)$"),
        list("-+0123456789."),
    )


DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
"""What YAML 1.1 reads otherwise is a trap: 010 is its 8, 1:30 its 90."""


def _mapping(loader: Loader, node: yaml.MappingNode) -> dict[str, Any]:
    names = [key.value for key, _ in node.value]
    for index, (key, _) in enumerate(node.value):
        if key.value in names[:index]:
            raise ConstructorError(problem=f"key '{key.value}' is given twice", problem_mark=key.start_mark)
    loader.flatten_mapping(node)
    if odd := [key for key, _ in node.value if not isinstance(key, yaml.ScalarNode) or not key.value]:
        raise ConstructorError(problem="a key is no word", problem_mark=odd[0].start_mark)
    return {key.value: loader.construct_object(value, deep=True) for key, value in node.value}


def _integer(loader: Loader, node: yaml.ScalarNode) -> int:
    if not DECIMAL.fullmatch(node.value):
        raise ConstructorError(problem=f"{node.value} is no decimal integer (quote it where text is meant)",
                               problem_mark=node.start_mark)  # fmt: skip
    number = loader.construct_yaml_int(node)
    if not -(2**63) <= number < 2**63:
        raise ConstructorError(problem="an integer has more than 64 bits", problem_mark=node.start_mark)
    return number


Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
Loader.add_constructor("tag:yaml.org,2002:int", _integer)


def parse_yaml(text: str, origin: str) -> Any:
    """The YAML value in `text`; `origin` names it in errors."""
    try:
        return yaml.load(text, Loader=Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise UserError(f"{origin} is not valid YAML: {problem}{where}; correct it there") from error
