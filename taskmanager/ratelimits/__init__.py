"""Counts requests across the processes of one host, for the library `limits`. Knows no Flask.

The library's own storages need Redis, or count in each process alone (docs/decisions/0006).
Importing this package imports the library, without what only its asynchronous half needs: see
docs/decisions/0042.
"""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


def _mark(*args: Any, **kwargs: Any) -> Callable[[Any], Any]:
    """What the library's `versionadded` and `versionchanged` do apart from documenting."""
    return lambda marked: marked


def _import_limits() -> None:
    """Imports `limits` beside stand-ins for modules that load asyncio."""
    stand_ins = {name: ModuleType(name) for name in ("deprecated.sphinx", "limits.aio")}
    stand_ins["deprecated.sphinx"].__dict__.update(versionadded=_mark, versionchanged=_mark)
    sys.modules |= stand_ins
    try:
        import limits.storage
        import limits.strategies  # noqa: F401
    except ImportError:  # another version of it, which wants more of them
        for name in [name for name in sys.modules if name.partition(".")[0] == "limits"]:
            del sys.modules[name]
    finally:
        for name in stand_ins:
            sys.modules.pop(name, None)


if not {"limits", "deprecated"} & sys.modules.keys():
    _import_limits()
