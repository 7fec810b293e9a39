"""The studies by name."""

from importlib import import_module

from corlld.simulation.studies.contract import Study


def find_study(name: str) -> Study:
    """A study by its name on the command line: `STUDY` of the module of that name, so that one's needs are its own."""
    study: Study = import_module(f"corlld.simulation.studies.{name.replace('-', '_')}.study").STUDY
    return study
