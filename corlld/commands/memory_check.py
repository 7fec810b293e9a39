"""The part of `corlld check` that says how many users fit into memory."""

from typing import TYPE_CHECKING

from corlld.errors import ConfigurationError
from corlld.system.plurals import counted

if TYPE_CHECKING:
    from corlld.learning.memory_plan import MemoryPlan


def check_memory(plan: "MemoryPlan", slots: int) -> str:
    """Describe the plan. Raises ConfigurationError if no user, no step or fewer than `slots` users fit.

    Args:
        plan: of this model on this device.
        slots: `adapter.device_slots`.
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
