"""Puts the bundles and overlays into the wheel; everything else about the package is in setup.cfg."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithShare(build_py):
    """Copies ``bundles/`` and ``configs/`` to ``medssl_monai/_share`` of what is built."""

    def run(self) -> None:
        """Build the package, then add the shared folders; an editable install finds them beside the package."""
        super().run()
        if self.editable_mode:
            return
        root = Path(__file__).parent
        for name in ("bundles", "configs"):
            target = Path(self.build_lib) / "medssl_monai" / "_share" / name
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(
                root / name, target, ignore=shutil.ignore_patterns("models", "eval", "__pycache__", "*.pyc")
            )


setup(cmdclass={"build_py": BuildWithShare})
