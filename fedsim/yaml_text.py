"""YAML as this project reads and writes it: numbers as people write them, repeated keys and wide integers refused."""

from __future__ import annotations

import re
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from fedsim.types import UserError


class Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, but `1e-3` is a number, a date is text, and a repeated key is an error."""


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


def _mapping(loader: Loader, node: yaml.MappingNode) -> dict[str, Any]:
    names = [key.value for key, _ in node.value]
    for index, (key, _) in enumerate(node.value):
        if key.value in names[:index]:
            raise ConstructorError(problem=f"key '{key.value}' is given twice", problem_mark=key.start_mark)
    return {str(key): value for key, value in loader.construct_mapping(node, deep=True).items()}


def _integer(loader: Loader, node: yaml.ScalarNode) -> int:
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
