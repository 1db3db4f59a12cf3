"""Has the kernels compiled while a wheel or an editable installation is made, where that goes."""

from __future__ import annotations

import importlib.util
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_BUILD = Path("bge_m3_integrations/encoders/torch/native/build.py")


class KernelsHook(BuildHookInterface):  # type: ignore[type-arg]
    """A wheel with kernels is for one platform and any Python; one without is for all."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """See hatchling."""
        del version
        # by its path: importing the package would need what is not installed yet
        spec = importlib.util.spec_from_file_location("build_kernels", Path(self.root) / _BUILD)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.app.display_info(module.build_if_wanted())
        if module.LIBRARY.exists():
            system = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"py3-none-{system}"
            build_data["pure_python"] = False
