"""bench/run: Mosquitto with the plugin against the same Mosquitto without it, and against a bare producer.

What is compared takes turns, and each ratio is made of two turns next to each other, so that a machine whose speed
drifts bends both sides alike. The commands that only read results need nothing but Python.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))

import compare  # noqa: E402
import plan  # noqa: E402
import plot  # noqa: E402
import report  # noqa: E402
from results import Results  # noqa: E402

_ROOT = Path(__file__).resolve().parents[1]

_USAGE = """\
bench/run [options]                 measure, and print tables
       bench/run compare OLD NEW           is it slower than it was?
       bench/run show FILE                 print the tables of a file of results again
       bench/run plot FILE PICTURE.svg     draw them
       bench/run append [--dir DIR] [--seconds N] [--max-mib N] [--limit MIB]
                                           what an append into the spool costs, without a broker"""

_EPILOG = """\
exit codes: 0 good; 1 a message is missing, or compare found something worse; 2 wrong use. bench/README.md explains
what the rows mean."""


def measuring_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench/run", usage=_USAGE, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    how_much = parser.add_mutually_exclusive_group()
    how_much.add_argument("--quick", action="store_true", help="some minutes instead of half an hour and more")
    how_much.add_argument(
        "--tiny", action="store_true", help="a few messages each: does it still run? The figures say nothing"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument(
        "--add", action="store_true", help="leave in FILE what it has of other rows: for a run in pieces"
    )
    parser.add_argument(
        "--rounds", type=int, help=f"instead of {plan.FULL.rounds}, or {plan.QUICK.rounds} with --quick"
    )
    parser.add_argument("--only", action="append", choices=plan.ALL_GROUPS, help="a part of it")
    parser.add_argument("--row", action="append", metavar="TEXT", help="only rows whose name holds this")
    parser.add_argument("--list", action="store_true", help="say what would be measured, and measure nothing")
    parser.add_argument("--floor", action="store_true", help="measure a plugin that does nothing but own a thread, too")
    parser.add_argument(
        "--backlog",
        type=int,
        metavar="MIB",
        help=f"size of the backlog that drains, instead of {plan.FULL.backlog // plan.MIB}",
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of the plugin, in all measurements, such as kafka_workers=2; {dir} is the broker's directory",
    )
    parser.add_argument("--kafka", metavar="HOST:PORT", help="a Kafka that is there, instead of one on this machine")
    parser.add_argument(
        "--mosquitto-2.1", dest="mosquitto21", action="store_true", help="fetch Debian sid's broker, and measure that"
    )
    parser.add_argument(
        "--work", type=Path, help="where Kafka and the brokers keep their files (the temporary directory)"
    )
    return parser


def parse_measuring(argv: list[str]) -> argparse.Namespace:
    parser = measuring_parser()
    arguments = parser.parse_args(argv)
    if any("=" not in option for option in arguments.option):
        parser.error("--option takes NAME=VALUE")
    for name in ("rounds", "backlog"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            parser.error(f"--{name} takes a number from 1")
    if arguments.json is not None and not arguments.json.absolute().parent.is_dir():
        parser.error(f"--json {arguments.json}: there is no such directory")
    if arguments.add and arguments.json is None:
        parser.error("--add needs --json FILE")
    return arguments


def chosen_plan(arguments: argparse.Namespace) -> plan.Plan:
    chosen = plan.TINY if arguments.tiny else plan.QUICK if arguments.quick else plan.FULL
    backlog = arguments.backlog * plan.MIB if arguments.backlog else chosen.backlog
    return replace(chosen, rounds=arguments.rounds or chosen.rounds, backlog=backlog)


def measure(argv: list[str]) -> int:
    arguments = parse_measuring(argv)
    the_plan = chosen_plan(arguments)
    contests = plan.contests(the_plan, arguments.only or plan.ALL_GROUPS, arguments.row or (), arguments.floor)
    if not contests:
        print("bench: --row leaves nothing to measure; --list shows the rows", file=sys.stderr)
        return 2
    if arguments.list:
        for contest in contests:
            for case in contest.cases:
                print(f"{contest.group}: {case}")
        return 0
    before = Results.read(arguments.json) if arguments.add and arguments.json.exists() else Results()
    n_kept = 0

    def keep(results: Results) -> None:
        nonlocal n_kept
        if arguments.json:
            before.merged(results).write(arguments.json)
            n_kept += 1

    # Only now: what follows needs what the tests need.
    sys.path.insert(0, str(_ROOT / "test" / "integration"))
    from run import run

    results = run(arguments, the_plan, contests, keep)
    if results is None:
        # Nor do the rounds before that count.
        if n_kept and before.cells:
            before.write(arguments.json)
        elif n_kept:
            arguments.json.unlink()
        return 1
    print("\n" + report.report(results))
    if arguments.json:
        print(f"\nall figures: {arguments.json}")
    return 0


def compare_files(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="bench/run compare", description=compare.__doc__)
    parser.add_argument("old", type=Path, metavar="OLD", help="a file that bench/run --json has written")
    parser.add_argument("new", type=Path, metavar="NEW")
    parser.add_argument(
        "--margin", type=float, default=0.0, metavar="PERCENT", help="of each figure, at least; they have their own"
    )
    parser.add_argument("--all", action="store_true", help="show all figures, not only those that have changed")
    arguments = parser.parse_args(argv)
    old, new = Results.read(arguments.old), Results.read(arguments.new)
    for title, results in (("old", old), ("new", new)):
        print(f"{title}: {report.about_text(results)}")
        if compare.busy(results):
            print("     other work ran on that machine: rates and times are not judged")
    for line in compare.differences(old, new):
        print(f"not the same: {line}")
    if not compare.same_machine(old, new):
        print("so only ratios are compared")
    missing = [row for row in old.rows() if row not in new.rows()]
    if missing:
        print(f"only in {arguments.old}: {', '.join(missing)}")
    found = compare.verdicts(old, new, arguments.margin / 100)
    if not found:
        print("compare: the two have nothing in common", file=sys.stderr)
        return 2
    n_unjudged = sum(not verdict.judged for verdict in found)
    if n_unjudged:
        print(f"{n_unjudged} figures are not judged: too few rounds (three are needed), or a busy machine")
    told = [verdict for verdict in found if arguments.all or verdict.worse or verdict.better]
    if told:
        print("\n" + compare.verdict_table(told))
    n_worse = sum(verdict.worse for verdict in found)
    n_better = sum(verdict.better for verdict in found)
    print(f"\n{len(found)} figures: {n_worse} worse, {n_better} better, the rest within the noise")
    return 1 if n_worse else 0


def show(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="bench/run show", description="Print the tables of a file of results.")
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--markdown", action="store_true", help="for a document")
    arguments = parser.parse_args(argv)
    print(report.report(Results.read(arguments.file), arguments.markdown))
    return 0


def draw(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="bench/run plot", description="Draw a file of results.")
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("picture", type=Path, metavar="PICTURE.svg")
    arguments = parser.parse_args(argv)
    arguments.picture.write_text(plot.svg(Results.read(arguments.file)))
    return 0


def main(argv: list[str]) -> int:
    commands = {"compare": compare_files, "show": show, "plot": draw}
    try:
        if argv and argv[0] in commands:
            return commands[argv[0]](argv[1:])
        return measure(argv)
    except (OSError, ValueError) as problem:
        print(f"bench: {problem}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
