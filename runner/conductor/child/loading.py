"""Importing an app by the name that its user gave: ``module:attribute`` or ``path/to/file.py:attribute``."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from conductor.app import Conductor
from conductor_protocol.errors import UsageError


def load(name: str, paths: Iterable[str] = ()) -> Conductor:
    """Import an app.

    :param paths: folders put before ``sys.path``.
    :raises UsageError: if the name is none, or nothing has it.
    :raises BaseException: whatever the app's module raises while it is imported.
    """
    sys.path[:0] = [path for path in paths if path not in sys.path]
    place, colon, attribute = name.rpartition(":")
    if not (colon and place and attribute):
        raise UsageError(
            'app: expected module:attribute or path/file.py:attribute, such as "shop.tasks:app", '
            f'got "{name}"'
        )
    module = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
    return _find(module, place, attribute)


def _import_module(name: str) -> ModuleType:
    if name.startswith("."):
        raise UsageError(f'app: "{name}" is no module name: expected the whole name, such as "shop.tasks"')
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there, and something that it imports is not
        file = Path(*re.split("[./]", name)).with_suffix(".py")
        hint = f'; for the file write "{file}:..."' if file.exists() else ""
        raise UsageError(
            f'app: there is no module "{name}" on the path, which begins with {sys.path[0] or "."}{hint}'
        ) from None


def _import_file(path: Path) -> ModuleType:
    """Import a file as Python itself would: within its package, if it lies in one."""
    if not path.is_file():
        raise UsageError(f"app: there is no file {path.resolve()}")
    path = path.resolve()
    folder, parts = path.parent, [path.stem]
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    if parts[-1] == "__init__" and len(parts) > 1:
        parts.pop()
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    module = importlib.import_module(".".join(parts))
    found = getattr(module, "__file__", None)
    if found is None or Path(found).resolve() != path:
        raise UsageError(
            f'app: {path} cannot be imported, because another module is named "{".".join(parts)}": {found}; '
            "rename the file"
        )
    return module


def _find(module: ModuleType, place: str, attribute: str) -> Conductor:
    found = getattr(module, attribute, None)
    if isinstance(found, Conductor):
        return found
    apps = sorted(name for name, value in vars(module).items() if isinstance(value, Conductor))
    hint = (
        f"write {' or '.join(f'{place}:{app}' for app in apps)}"
        if apps
        else f"it holds no app; write in it: {attribute} = Conductor()"
    )
    if found is None:
        raise UsageError(f'app: {place} has no attribute "{attribute}"; {hint}')
    raise UsageError(
        f'app: expected a Conductor, but "{attribute}" in {place} is a {type(found).__qualname__}; {hint}'
    )
