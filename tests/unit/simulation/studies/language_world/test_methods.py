"""The methods that are compared."""

from corlld.simulation.studies.language_world.methods import COMPARED, described


def test_every_method_has_as_many_settings_to_choose_from() -> None:
    assert len({len(method.tried) for method in COMPARED}) == 1
    for method in COMPARED:
        values = {tuple(described(method, tried).items()) for tried in method.tried}
        assert len(values) == len(method.tried)
