"""Environments without this package, in which nothing but the named distributions can be imported."""

import importlib.metadata as metadata
import sysconfig
import venv
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROGRAM = Path(__file__).with_name("bare_program.py")


def find_distributions(names):
    """The distributions `names` and all that they require (`list[importlib.metadata.Distribution]`)."""
    found, waiting = {}, [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            if name in names:
                raise
            continue
        for text in found[name].requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(canonicalize_name(requirement.name))
    return list(found.values())


def make_environment(folder, *names):
    """A virtual environment with links to the distributions `names`, and to what they require, as installed here.

    Args:
        folder (`Path`): to be made.

    Returns:
        `Path` of its interpreter.
    """
    venv.create(folder, symlinks=True)
    link_libraries(Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)})), *names)
    return folder / "bin" / "python"


def link_libraries(packages, *names):
    """Links in the folder `packages` (`Path`) to the distributions `names`, and to what they require."""
    packages.mkdir(exist_ok=True)
    for distribution in find_distributions(names):
        tops = {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}
        for top in tops:
            place, origin = packages / top, Path(distribution.locate_file(top))
            if origin.exists() and not place.exists():
                place.symlink_to(origin)
