"""The studies by name."""

from importlib import import_module

from corlld.simulation.studies.contract import Study


def find_study(name: str) -> Study:
    """Return the study with this name on the command line: `STUDY` in the `study` module of its folder.

    Only that folder is imported, so that a study needs no package that only another study uses.
    """
    study: Study = import_module(f"corlld.simulation.studies.{name.replace('-', '_')}.study").STUDY
    return study
