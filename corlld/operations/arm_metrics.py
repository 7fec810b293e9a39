"""The metrics of the experiment's arms: the same figures as of all users, by arm, and users' outcomes."""

from collections.abc import Mapping, Sequence

from corlld.operations.declarations import Declarations, Labels
from corlld.settings.learning_rule import RETIRED_ARM
from corlld.statistics import DraftOrigin


class ArmMetrics:
    """The arms of the experiment, as the edits of this process show them. `corlld experiment` reads states instead.

    Users in no arm are not counted. `retired`: users of arms that are gone, or had another rule when they joined, and
    users who began from another start adapter than new users do.
    """

    def __init__(self, declare: Declarations, arms: Mapping[str, bool], drop_nats: Sequence[float]) -> None:
        of_drafts: Labels = {"arm": (*arms, RETIRED_ARM) if arms else (), "draft": DraftOrigin}
        of_arms: Labels = {"arm": of_drafts["arm"]}
        self.users = declare.counter("corlld_arm_users_total", "Users who joined an arm of the experiment.", of_arms)
        self.edit_ratio = declare.summary(
            "corlld_arm_edit_ratio", "Share of a draft that its user changed, by arm.", of_drafts
        )
        self.accepted = declare.counter(
            "corlld_arm_drafts_accepted_total", "Drafts accepted without a change, by arm.", of_drafts
        )
        self.repetition = declare.summary(
            "corlld_arm_repetition_ratio", "Share of repeated words in a draft, by arm.", of_arms
        )
        self.plain_text_drop = declare.histogram(
            "corlld_arm_plain_text_drop_nats",
            "Forgetting, as corlld_plain_text_drop_nats, by arm.",
            drop_nats,
            of_arms,
        )
        self.outcome = declare.summary(
            "corlld_arm_outcome_edit_ratio",
            "Mean edit ratio of a user's drafts after the first ones (experiment.drafts): one observation per user.",
            {"arm": (), "learns": ()},
        )
        self.outcome_squares = declare.counter(
            "corlld_arm_outcome_squares_total",
            "Squares of corlld_arm_outcome_edit_ratio, for its standard error.",
            {"arm": (), "learns": ()},
        )
        for arm, learns in arms.items():
            for metric in (self.outcome, self.outcome_squares):
                metric.labels(arm, str(learns).lower())
