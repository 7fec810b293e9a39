"""`corlld simulate theory`: do the rule and its classical ancestor keep the bounds that are proved for them?

In the world of `tabular_world` the best text is known. For drafts that are the policy's most likely text (argmax), and
for feedback with gain_t >= alpha gap_t - xi_t, with |phi| <= R = 1 and |w*| = 1:

    preference perceptron  REG_T <= (1/(alpha T)) sum xi_t + 2 R |w*| / (alpha sqrt T)
    CoRLL by SGD           REG_T <= (2/(alpha T)) sum xi_t + 4 R |w*| / (alpha sqrt T)

The first bound is that of Shivaswamy & Joachims 2012. The second is the same proof for steps weighted by
sigma(-beta h): with a uniform reference an argmax draft has h <= 0, so the weights are between 1/2 and 1. No bound is
known for sampled drafts; they are reported apart.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from corlld.simulation.studies.contract import Figure, Options, Row, Study, Unit
from corlld.simulation.studies.theory.course import WAYS, Way, learn, rows_of
from corlld.simulation.studies.theory.pictures import plot_plateaus, plot_regret
from corlld.simulation.studies.theory.report import ALPHAS, DRAWS, EPSILONS, NOISES, figures_of
from corlld.simulation.studies.theory.tabular_world import UserKind, make_worlds

ROUNDS = 4096
QUICK_ROUNDS = 256
KINDS = tuple(
    UserKind(alpha, epsilon, noise)
    for alpha in ALPHAS
    for epsilon, noise in ((0.0, NOISES[0]), *((e, n) for n in NOISES for e in EPSILONS))
)


class Theory:
    """The study."""

    name = "theory"
    question = "Do the rule and the preference perceptron keep the classical bounds, and where does noise stop them?"
    budget_minutes = 3.0
    seeds = tuple(range(1, 16))

    def units(self, options: Options) -> Sequence[Unit]:
        """Return one unit per way to learn and way to draft."""
        rounds = QUICK_ROUNDS if options.quick else ROUNDS

        def unit(way: Way, draws: str) -> Unit:
            def run() -> list[Row]:
                course = learn(make_worlds(options.seeds), options.seeds, KINDS, way, draws, rounds)
                return rows_of(course, options.seeds, KINDS, way, draws)

            return Unit(f"{way.name}, {draws} drafts", run)

        return [unit(way, draws) for draws in DRAWS for way in WAYS]

    def report(self, rows: Sequence[Row], folder: Path, options: Options) -> Mapping[str, Figure]:
        """Return the figures, and draw `regret.png` and `plateaus.png`."""
        plot_regret(folder / "regret.png", rows)
        plot_plateaus(folder / "plateaus.png", rows)
        return figures_of(rows)


STUDY: Study = Theory()
