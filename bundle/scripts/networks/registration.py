"""Make a class of this bundle known to MONAI's component locator by its bare name (docs/adr/0001)."""

from __future__ import annotations

import sys
from types import ModuleType


def register_with_monai(network: type, module_name: str) -> None:
    """Let ``"_target_": "<class name>"`` in a config find `network`, as it finds MONAI's own networks.

    MONAI looks for classes whose ``__module__`` starts with ``monai`` in modules that are loaded; pickling and
    TorchScript need that module to exist and to know its file. Doing it again, after this package was unloaded and
    imported anew, puts the new class in the place of the old one.

    Args:
        network: the class.
        module_name: dotted name under an imported package of MONAI, e.g. ``monai.networks.nets.bioatt``.
    """
    import monai.networks.nets  # noqa: F401 (the parent has to be loaded)

    parent_name, _, leaf = module_name.rpartition(".")
    module = ModuleType(module_name, network.__doc__)
    module.__file__ = sys.modules[network.__module__].__file__ if network.__module__ in sys.modules else None
    setattr(module, network.__name__, network)
    network.__module__ = module_name
    sys.modules[module_name] = module
    setattr(sys.modules[parent_name], leaf, module)
    setattr(sys.modules[parent_name], network.__name__, network)
