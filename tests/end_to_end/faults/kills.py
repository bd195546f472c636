"""Kills: a command ended by SIGKILL at a random moment, then run again."""

import random

from pipeline.schema import INTERACTIONS, RECOMMENDATIONS, VOCABULARY
from tests.end_to_end.faults.commands import Ended, fearec
from tests.end_to_end.faults.small_logs import NEXT
from tests.end_to_end.faults.tables import (
    Tables,
    difference,
    make_old,
    names_in,
    neither,
    output_of,
    results_of,
    tables_of,
)
from tests.end_to_end.faults.verdicts import RIGHT, Verdict, wrong
from tests.end_to_end.faults.world import Undisturbed, World

# Every fourth kill hits a command before its first change, while it starts.
_EARLY = 4
# Of the tables, those that one commit changes; the quarantine is changed by several.
_AT_ONCE = (INTERACTIONS, VOCABULARY, RECOMMENDATIONS)


def kill_and_run_again(
    world: World, undisturbed: Undisturbed, number: int, chance: random.Random
) -> Verdict:
    """Kill the command of an undisturbed run once, run it again, and compare.

    Args:
        world: Where.
        undisturbed: What is killed, and what it should lead to.
        number: Of the kill.
        chance: Its moment.
    """
    early = number % _EARLY == 0
    low = 0.0 if early else undisturbed.first_change
    high = undisturbed.first_change if early else undisturbed.seconds
    moment = chance.uniform(low, high)
    while True:
        world.restore(undisturbed.before or None)
        running = world.start(undisturbed.command, undisturbed.arguments, fresh=world.fresh)
        code = running.code(moment)
        if code is None:
            running.kill()
            break
        if code != 0:
            return wrong(running.end())
        moment *= 0.8  # it had ended already
    found = tables_of(world.warehouse)
    if mixture := mixture_of(found, undisturbed):
        return wrong(f"killed after {moment:.2f} s, {mixture}")
    again = world.run(undisturbed.command, undisturbed.arguments)
    verdict = compared(world, undisturbed, again)
    return (
        verdict
        if verdict == RIGHT
        else Verdict("wrong", f"killed after {moment:.2f} s: {verdict.why}")
    )


def mixture_of(found: Tables, undisturbed: Undisturbed) -> str:
    """The first table that is as no commit of an undisturbed run left it; empty for none."""
    at_once: Tables = {name: rows for name, rows in found.items() if name in _AT_ONCE and rows}
    if at_once.get(INTERACTIONS) in undisturbed.steps:
        del at_once[INTERACTIONS]
    return neither(at_once, undisturbed.tables_before, undisturbed.tables)


def compared(
    world: World,
    undisturbed: Undisturbed,
    ended: Ended,
    damaged: Tables | None = None,
) -> Verdict:
    """The verdict on a command that was to leave what an undisturbed one left.

    Args:
        world: Where it ran.
        undisturbed: What it was to leave.
        ended: How it ended.
        damaged: The tables after the damage; None where nothing was damaged.
    """
    found, expected = tables_of(world.warehouse), undisturbed.tables
    if ended.is_refusal:
        mixture = neither(found, damaged or undisturbed.tables_before, expected)
        return wrong(mixture) if mixture else Verdict("refused", ended.error)
    if ended.code != 0 or "Traceback" in ended.err:
        return wrong(ended)
    if other := difference(found, expected):
        return wrong(other)
    results, expected = results_of(world.work), undisturbed.results
    if other := difference(results, expected):
        return wrong(other)
    if output_of(world.out) != undisturbed.output:
        return wrong(f"{world.out.name}: other rows")
    if left := left_for_ever(world, undisturbed):
        return wrong(f"left for ever: {', '.join(sorted(left)[:3])}")
    return RIGHT


def left_for_ever(world: World, undisturbed: Undisturbed) -> set[str]:
    """The files that an undisturbed run would not leave and that later runs do not remove.

    Data files that a killed writer of a Delta table did not commit are left to Delta's vacuum.
    """
    left = names_in(world.place) - undisturbed.names
    for command, arguments in (
        (undisturbed.command, undisturbed.arguments),
        (fearec, world.nightly(NEXT)),
    ):
        if left:
            make_old(world.place)
            world.run(command, arguments)
            left &= names_in(world.place)
    return left
