"""Steps that are not computed: their velocities are extrapolated from those before.

Between two steps of a schedule a velocity changes little, and nearly on a line. With a *step cache* of n an edit
computes one step in n, and those between go where the line through its last two computed velocities points; after a
refresh, which corrects what they were off by, where its velocity points until another one is computed. So it is a
multistep method on the schedule of all steps: its template's records, which are of that schedule, serve it as they are.
Masked compute takes tokens away from steps, a step cache takes steps away: what they save multiplies. Pure,
without torch.
"""

from __future__ import annotations

from collections.abc import Collection

MAX_STEP_CACHE = 10
# So many steps are all computed. They settle what the picture shows, and their velocities bend most.
FIRST_STEPS = 3


def extrapolated_steps(step_cache: int, steps: int, refresh_steps: Collection[int] = ()) -> frozenset[int]:
    """The steps that are not computed: after the first ones all but each `step_cache`-th, and but refreshes.

    Args:
        step_cache: one step of so many is computed, from 1, which leaves none out.
        refresh_steps: are always computed.
    """
    later = range(FIRST_STEPS, steps)
    between = (step for step in later if (step - FIRST_STEPS + 1) % step_cache != 0)
    return frozenset(step for step in between if step not in refresh_steps)


def next_computed(step: int, extrapolated: Collection[int]) -> int:
    """The first step from this one on that is computed; the number of steps where none is."""
    while step in extrapolated:
        step += 1
    return step
