"""Packages left out of a wheel, which `pyproject.toml` cannot say.

An editable install makes `study`, `experiments` and `analysis` importable, for the scripts of the
repository. A wheel installs `adacomcat` alone: at the top level of site-packages names as common as
these could hide a module of the user's, or be hidden by one.
"""

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildLibrary(build_py):
    """Builds the library; the packages of the repository are for editable installs."""

    def finalize_options(self) -> None:
        super().finalize_options()
        if not self.editable_mode:
            own = (name for name in self.packages or () if name.partition(".")[0] == "adacomcat")
            self.packages = list(own)
            self.package_data = {"adacomcat": self.package_data.get("adacomcat", [])}


setup(cmdclass={"build_py": BuildLibrary})
