"""Condensation methods. The package is called like a function too: `fedsim.distill(data, "dm", ipc=5)`.

Python puts a subpackage in the place of its parent's attribute of that name, in whatever order the two are imported;
so the package itself answers the call, with `fedsim.api.distill`.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **settings: Any) -> Any:
        return importlib.import_module("fedsim.api").distill(*args, **settings)


sys.modules[__name__].__class__ = _CallablePackage
