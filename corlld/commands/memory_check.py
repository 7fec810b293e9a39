"""The memory that a run will use, as `corlld check` prints it, and what of it there is no room for."""

from typing import TYPE_CHECKING

from corlld.errors import ConfigurationError
from corlld.system.plurals import counted

if TYPE_CHECKING:
    from corlld.learning.memory_plan import MemoryPlan


def judged(plan: "MemoryPlan", slots: int) -> str:
    """Return the plan in words.

    slots: the setting `adapter.device_slots`.

    Raises ConfigurationError if a user, a step or the slots do not fit: with the plan, and what to set.
    """
    start = f"start adapter {_megabytes(plan.start)}, " if plan.start else ""
    found = (
        f"base model {_megabytes(plan.base)}, {start}a step of {counted(plan.row_tokens, 'token')} and "
        f"{counted(plan.step_users, 'user')} {_megabytes(plan.step)}, a user {_megabytes(plan.state)}; room for "
        f"{plan.host_users:,} of them in host memory (state.host_memory_bytes)"
    )
    if not plan.host_users:
        raise ConfigurationError(f"{found}: state.host_memory_bytes is too small for one user")
    if not plan.step_fits:
        raise ConfigurationError(
            f"{found}: a step is larger than the {_megabytes(plan.device_free)} that are free beside the model; "
            "set a smaller learning.max_row_tokens or batching.max_users_per_step"
        )
    if plan.device_users is None:
        return found
    found += f", and for {plan.device_users:,} on the device beside model and step (adapter.device_slots: {slots})"
    if plan.device_users < slots:
        raise ConfigurationError(f"{found}: adapter.device_slots is larger than the number of users that fit")
    return found


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count < 1e7 else f"{count / 1e6:,.0f} MB"
