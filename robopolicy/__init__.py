"""The workshop: command line, recipes, data, training and evaluation."""

import sys
from importlib import util
from importlib.machinery import PathFinder
from pathlib import Path

__version__ = "0.1.0"


def _claim_wings(home: str) -> None:
    """Bind ``policies``, ``real`` and ``sim`` to those installed beside this package, whatever else is on the path.

    These are common names: a folder called ``policies`` where the command is started, or one on ``PYTHONPATH``, would
    otherwise be imported instead of ours.

    Raises:
        ImportError: one line, if a package of that name that is not ours has been imported already.
    """
    for name in ("policies", "real", "sim"):
        spec = PathFinder.find_spec(name, [home])
        if spec is None or spec.loader is None or spec.origin is None:
            raise ImportError(f"robopolicy is damaged: its package {name!r} is not in {home}; install it again")
        present = sys.modules.get(name)
        if present is None:
            sys.modules[name] = module = util.module_from_spec(spec)
            spec.loader.exec_module(module)
        elif getattr(present, "__file__", None) is None or Path(present.__file__ or "").resolve() != Path(spec.origin).resolve():
            where = getattr(present, "__file__", None) or next(iter(getattr(present, "__path__", ())), "?")
            raise ImportError(f"a package {name!r} that is not robopolicy's was imported first, from {where}; remove that folder from the path")


_claim_wings(str(Path(__file__).resolve().parent.parent))
