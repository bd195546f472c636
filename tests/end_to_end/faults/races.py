"""Races: two machines, each with a work folder of its own, and one warehouse."""

import random
import shutil
import time

from tests.end_to_end.faults.commands import fearec
from tests.end_to_end.faults.kills import left_for_ever
from tests.end_to_end.faults.tables import difference, tables_of, without_counts
from tests.end_to_end.faults.verdicts import RIGHT, Verdict, wrong
from tests.end_to_end.faults.world import Undisturbed, World


def race(world: World, undisturbed: Undisturbed, chance: random.Random) -> Verdict:
    """Run a command of `fearec` on two machines at once, and compare.

    One may be refused; run again, it completes.

    Args:
        world: Where.
        undisturbed: What is run, and what it should lead to.
        chance: By how much the second starts later, up to a fifth of the command's time.
    """
    world.restore(undisturbed.before or None)
    _copy_work(world)
    other = [*undisturbed.arguments, "--set", f"work_dir={world.place}/work-2"]
    machines = (undisturbed.arguments, other)
    running = []
    for arguments in machines:
        running.append(world.start(fearec, arguments, fresh=world.fresh))
        time.sleep(chance.uniform(0, undisturbed.seconds / 5))
    ended = [each.end() for each in running]
    refused = [each.error for each in ended if each.is_refusal]
    if any(each.code != 0 and not each.is_refusal for each in ended) or len(refused) == 2:
        return wrong(" | ".join(map(str, ended)))
    for each, arguments in zip(ended, machines, strict=True):
        if each.code != 0:
            again = world.run(fearec, arguments)
            if again.code != 0:
                return wrong(f"{each}, and again {again}")
    # Which of the two machines added the events is chance.
    found, expected = tables_of(world.warehouse), undisturbed.tables
    if other_rows := difference(without_counts(found), without_counts(expected)):
        return wrong(f"{' | '.join(map(str, ended))}: {other_rows}")
    if left := left_for_ever(world, undisturbed):
        return wrong(f"left for ever: {', '.join(sorted(left)[:3])}")
    return Verdict("refused", refused[0]) if refused else RIGHT


def _copy_work(world: World) -> None:
    """Give the second machine the work of earlier runs, as if it had done them itself."""
    one, two = world.place / "work", world.place / "work-2"
    if one.exists():
        shutil.copytree(one, two)
        for record in two.glob("run_date=*/*.json"):
            record.write_text(record.read_text().replace(f"{one}/", f"{two}/"))
