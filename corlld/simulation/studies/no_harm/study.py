"""`corlld simulate no-harm`: what users do to an adapter, and to its plain English.

Four users of one taste edit drafts in a closed loop, each with an adapter of its own:

- the honest user writes the wanted text;
- the noisy user's edits are noise: half of them are the wanted text, half spoil the draft;
- the pasting user writes the same words over everything;
- the leaping user writes signs that are as unlikely as can be, to force the largest step.

Rule and guard are the daemon's defaults. Variants have another guard or another rule.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from corlld.errors import ExitCode, FatalError
from corlld.simulation.studies.contract import Figure, Options, Row, Study, Unit
from corlld.simulation.studies.no_harm.cell import Cell
from corlld.simulation.studies.no_harm.harmful_users import KINDS
from corlld.simulation.studies.no_harm.pictures import plot_harm
from corlld.simulation.studies.no_harm.report import BAND_SEEDS, NOISE_BAND, figures_of
from corlld.simulation.studies.no_harm.variants import DEFAULTS, FULL, QUICK, UNGUARDED, UNREHEARSED, Scale, Variant
from corlld.simulation.studies.workshop import Workshop


class NoHarm:
    """The study. scale: the amount of work of a whole run."""

    name = "no-harm"
    question = "What harm do noisy and hostile users do to an adapter, and what stops them?"
    budget_minutes = 75.0
    seeds = (12, 13, 14)  # rehearsal was chosen on other users

    def __init__(self, scale: Scale = FULL) -> None:
        self._scale = scale

    def units(self, options: Options) -> Sequence[Unit]:
        """Return one unit per seed with the defaults, then the variants.

        Raises FatalError for a seed that the bands were stated from.
        """
        if stated := sorted(set(options.seeds) & set(BAND_SEEDS)):
            raise FatalError(
                f"--seeds: {stated[0]} is a seed that the bands were stated from; name others", ExitCode.USAGE
            )
        scale = QUICK if options.quick else self._scale
        workshop = Workshop(options.model)

        def unit(seed: int, variant: Variant) -> Unit:
            return Unit(f"seed {seed}, {variant.name}", lambda: Cell(workshop, scale, variant, seed).run())

        first = options.seeds[0]
        # The leaping user's texts are the longest. That user is run for the first seed alone, to save time.
        plain = [Variant(DEFAULTS, KINDS if seed == first else KINDS[:-1], scale.edits) for seed in options.seeds]
        return [
            *(unit(seed, variant) for seed, variant in zip(options.seeds, plain, strict=True)),
            *(
                unit(seed, variant)
                for variant in scale.variants
                for seed in (options.seeds if variant.every_seed else (first,))
            ),
        ]

    def report(self, rows: Sequence[Row], folder: Path, options: Options) -> Mapping[str, Figure]:
        shown = [row for row in rows if row["variant"] == DEFAULTS]
        shown += [
            row | {"user": f"{row['user']}, {row['variant']}"}
            for row in rows
            if row["variant"] in (UNGUARDED, UNREHEARSED)
        ]
        plot_harm(folder / "harm.png", shown, NOISE_BAND)
        return figures_of(rows)


STUDY: Study = NoHarm()
