"""Judge two sides' responses blind: on a page, ``make judge``, or by a model."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from tools.compare.files import WORKING_TREE
from tools.judge.model import Server, judge_all
from tools.judge.page import KEYS, Questions, build_page
from tools.judge.pairs import BASE, PEOPLE, Pairing, pair_up, read_sides
from tools.judge.votes import VOTES, Ballot
from tools.local_page import add_port, import_gradio, serve
from tuning.pages.words import counted
from tuning.run.errors import UserError
from tuning.run.process import run_stage


def main() -> None:
    """Pair the two sides, then serve the page, or ask the model."""
    args = parse_arguments()
    if args.judge is None:
        import_gradio()
        if not args.name:
            raise UserError("A judge needs a name: make judge NAME=ann.")
    else:
        url, model = args.judge
        server = Server(url, model, os.environ.get("OPENAI_API_KEY", "").strip())
    pairing = pair_up(*read_sides(args.a, args.b))
    print(f"judge: {described(pairing)}")
    if args.judge is None:
        ballot = Ballot(args.votes, pairing, args.name, is_model=False, seed=args.seed)
        questions = Questions(ballot)
        questions.current()  # a file that cannot be read is said here, and not on the page
        serve(build_page(questions), "judge", args.port, head=KEYS)
        return
    ballot = Ballot(args.votes, pairing, model, is_model=True, seed=args.seed)
    num_without = judge_all(server, ballot)
    if num_without:
        times = counted(num_without, "time")
        print(f"judge: {model} gave no answer {times}; the same command asks for these again")
    print(f"judge: the votes of {model} are in {args.votes}; python -m tools.judgements reads them")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.judge",
        description=f"{__doc__} A side is a revision, {WORKING_TREE}, {BASE} (the base model) or "
        f"{PEOPLE} (what people said in these places).",
    )
    parser.add_argument("a", metavar="A", nargs="?", default=BASE, help="%(default)s")
    parser.add_argument("b", metavar="B", nargs="?", default=WORKING_TREE, help="%(default)s")
    parser.add_argument("--name", default=os.environ.get("USER", ""), help="who judges ($USER)")
    parser.add_argument(
        "--judge",
        nargs=2,
        metavar=("URL", "MODEL"),
        help="a model judges, asked at URL/chat/completions with the key in OPENAI_API_KEY; the "
        "dialogues are sent there",
    )
    parser.add_argument("--seed", type=int, default=0, help="draws order and sides (%(default)s)")
    parser.add_argument("--votes", type=Path, default=VOTES, help="appended to (%(default)s)")
    add_port(parser, 7861)
    args = parser.parse_args()
    args.name = args.name.strip()
    return args


def described(pairing: Pairing) -> str:
    """Say how much there is to judge; which side wrote what is said nowhere."""
    said = f"{counted(len(pairing.pairs), 'pair')} to judge"
    if pairing.num_identical:
        places = counted(pairing.num_identical, "place")
        said += f"; in {places} more both sides say the same, which is a tie by itself"
    return said


if __name__ == "__main__":
    run_stage("judge", main)
