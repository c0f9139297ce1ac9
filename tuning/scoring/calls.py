"""Calls of tools: what a model writes in places where the data's assistant calls one.

A call is right if it is the data's: the same function with the same arguments, as JSON values. So
does the Berkeley Function-Calling Leaderboard's AST match (Patil et al. 2025), which takes several
values of an argument and calls in any order; here the data has one answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from tuning.dialogue import Turn
from tuning.evaluation_set.places import Place, Response
from tuning.results.dialogue_table import Column, count_per_dialogue
from tuning.scoring.measure import Findings, Subject
from tuning.tokens.call_text import CallText
from tuning.writing.decoding import Reply, only_reply


def call_findings(
    subject: Subject, replies: Sequence[Sequence[Reply]], said: Sequence[Response]
) -> Findings:
    """Count what is right, per dialogue; nothing where the data calls no tool.

    Args:
        subject: The model, what it is measured on, and the template whose calls are read.
        replies: What it wrote in the plan's places of calls, in their order.
        said: Its greedy responses in the plan's other places, in their order.
    """
    plan, template = subject.plan, subject.template
    if not plan.call_places:
        return Findings()
    form = template.calls
    if form is None:
        why = f"the {template.name} template writes calls in a form that cannot be read back"
        return Findings(figures={"calls_not_read": why})

    def turn_at(place: Place) -> Turn:
        return subject.dialogues[place.dialogue].turns[place.turn]

    called = []
    for place, turns in zip(plan.call_places, replies, strict=True):
        reply = only_reply(turns)
        text = template.text_of(reply.ids)
        called.append(judge_call(form, text, turn_at(place), is_cut=reply.ending == "cut"))
    # Where people speak, or a call is wanted, none is needless.
    in_words = [
        (place, one.text)
        for place, one in zip(plan.places, said, strict=True)
        if turn_at(place).role == "assistant" and not turn_at(place).tool_calls
    ]
    spoken = [{"needless_calls": bool(form.read(text))} for _, text in in_words]
    num_dialogues = len(subject.dialogues)
    word_places = [place for place, _ in in_words]
    return Findings(
        columns=_columns(subject.name, "num_call_places", plan.call_places, called, num_dialogues)
        | _columns(subject.name, "num_word_places", word_places, spoken, num_dialogues)
    )


def judge_call(form: CallText, text: str, wanted: Turn, *, is_cut: bool) -> dict[str, bool]:
    """Say what is right of a text where the data's assistant calls tools.

    A turn of several calls is right if all are, in the data's order. Each is only if the one before
    it is: a text that is cut is not well-formed, one that is not has no names.

    Args:
        form: The form of calls.
        text: What a model wrote.
        wanted: The data's turn.
        is_cut: Whether the model wrote as many tokens as it may, and did not end.
    """
    found = [] if is_cut else form.read(text)
    names = [call.name for call in wanted.tool_calls]
    has_names = [name for name, _ in found] == names
    arguments = [json.loads(call.arguments) for call in wanted.tool_calls]
    return {
        "well_formed_calls": bool(found),
        "right_call_names": has_names,
        "right_calls": has_names and same_value([one for _, one in found], arguments),
        "cut_calls": is_cut,
    }


def same_value(one: object, other: object) -> bool:
    """Tell whether two JSON values are equal: keys in any order, 1 is 1.0, true is not 1."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_value(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_value, one, other))
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _columns(
    model: str,
    total: str,
    places: Sequence[Place],
    rows: Sequence[Mapping[str, bool]],
    num_dialogues: int,
) -> dict[str, Column]:
    """Count places, and what is true of what the model wrote there, per dialogue."""
    if not places:
        return {}
    dialogues = np.array([place.dialogue for place in places], dtype=np.int64)

    def count(values: Sequence[bool]) -> Column:
        return count_per_dialogue(dialogues, np.array(values, dtype=np.int64), num_dialogues)

    return {total: count([True] * len(places))} | {
        f"{model}_{name}": count([row[name] for row in rows]) for name in rows[0]
    }
