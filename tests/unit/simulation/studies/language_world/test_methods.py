"""The methods that are compared."""

from corlld.settings.sections import LearningSettings
from corlld.simulation.studies.language_world.methods import COMPARED, CORLL, described


def test_every_method_has_as_many_settings_to_choose_from() -> None:
    assert len({len(method.tried) for method in COMPARED}) == 1
    for method in COMPARED:
        values = {tuple(described(method, tried).items()) for tried in method.tried}
        assert len(values) == len(method.tried)


def test_no_two_methods_are_the_same_rule_whatever_the_daemons_defaults_are() -> None:
    """The daemon's default imitates. Of the methods only the daemon's rule does."""
    tried = [(method.feedback, learning) for method in COMPARED for learning in method.tried]
    assert all(tried.count(one) == 1 for one in tried)
    assert {learning.imitation_weight for method in COMPARED if method != CORLL for learning in method.tried} == {0.0}


def test_the_method_that_is_called_corll_is_the_daemons_rule() -> None:
    today = LearningSettings()
    for learning in CORLL.tried:
        assert (learning.margin, learning.imitation_weight) == (today.margin, today.imitation_weight)
