"""Map the top-level folders to `bgevis.*`; everything else is in pyproject.toml.

Generic top-level names (`model`, `validation`) would collide in site-packages, and an explicit
list of packages would silently lose a new family, so the packages are found.
"""

from setuptools import find_packages, setup

FOLDERS = ("converter", "exporters", "model", "validation")

setup(
    packages=[f"bgevis.{name}" for name in find_packages(include=[p for f in FOLDERS for p in (f, f"{f}.*")])],
    package_dir={f"bgevis.{folder}": folder for folder in FOLDERS},
    package_data={"bgevis.converter.report": ["*.j2"], "bgevis.converter.use": ["*.txt"]},
)
