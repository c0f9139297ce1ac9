"""The fine-tuned model's README.md, in the form of Hugging Face's model cards.

Source of the form: https://huggingface.co/docs/hub/model-cards. Every figure comes from the run's
own metrics and receipt; what the pipeline cannot know (licences of other people's data, what the
model is for) is said to be unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pprint import pformat
from textwrap import indent
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from tuning.release.example import Example
from tuning.release.origins import Source
from tuning.release.served_chat import ServedChat
from tuning.report.call_shares import call_rows
from tuning.report.headlines import (
    HEADLINES,
    WHAT_A_VERDICT_SAYS,
    HeadlineRow,
    headline_rows,
    what_was_declared,
)
from tuning.report.parts import rows_of_parts
from tuning.report.scored import what_was_scored
from tuning.run.visible import JOINER, visible

_USE = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
{chat}
inputs = tokenizer.apply_chat_template(
    {arguments}add_generation_prompt=True, return_tensors="pt", return_dict=True
)
written = model.generate(**inputs, max_new_tokens=60, do_sample=True, {sampling})
print(tokenizer.decode(written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```"""
SAMPLING = {"temperature": 0.7, "top_p": 0.9}
SHOWS_A_DIALOGUE = "The chat is a validation dialogue's."
_HELLO = ServedChat(messages=[{"role": "user", "content": "Hi! How was your weekend?"}])
"""Where no validation dialogue can be shown."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything that a run reports and the card repeats."""

    base: Source
    """The base model's origin and licence."""
    corpus: Source
    """The dialogues' origin and licence."""
    example: Example | None
    """A chat of the validation dialogues, if one can be shown."""
    usage: str
    """Instructions for writing chats for the model, in the words of its template."""
    params: Mapping[str, Any]
    """Nested sections of parameters."""
    scores: Mapping[str, Any]
    """``metrics/eval.json``."""
    test: Mapping[str, Any]
    """``metrics/test.json``."""
    generation: Mapping[str, Any]
    """``metrics/generation.json``."""
    ledger: Mapping[str, Any]
    """``metrics/prep.json``."""
    tokens: Mapping[str, Any]
    """``metrics/encode.json``."""
    training: Mapping[str, Any]
    """``metrics/train.json``."""


def model_card(facts: Facts, prompts: str) -> str:
    """Return the card, section by section; ``prompts`` is a line on what engines are fed."""
    num_trained = _num_dialogues(facts, "train")
    return f"""---
{_metadata(facts.base, facts.corpus, facts.scores)}
---

# {facts.base.title}, fine-tuned on dialogues

{facts.base.title} after {facts.training["num_steps"]:,} optimizer steps on \
{num_trained:,} dialogues of
{facts.corpus.title}.

## Use

`folder` is the folder of this file.

{use_section(facts.example)}

{facts.usage.strip()}

## Data

{_data(facts)}

## Training

{_training(facts)}

## Numbers

{_numbers(facts)}

## Intended use and limits

- Made to study fine-tuning on dialogues and to continue chats like those of its data. It was not
  aligned or filtered for safety: what it says can be false, rude or harmful.
- It knows what its base model knows, and talks like its data; {num_trained:,} dialogues
  stand for few people and few subjects. The numbers above say nothing about other data.
- Turns beyond {facts.params["encoding"]["max_length"]} tokens were seen only in windows of that \
length.

## Receipt

`receipt.json` holds the SHA-256 of every file of this folder, of the data, base weights, code and
parameters that it was made from. Engines were asked, too, what they make of the messages before
trained turns; token for token as in training are, of the

- {prompts}.

In the project, `make verify` takes and compares all of it again.
"""


def use_section(example: Example | None) -> str:
    """Return a program that asks the model, and below it what data and model answer there."""
    chat = example.chat if example else _HELLO
    values = _assigned("chat", chat.messages)
    arguments = ["chat"]
    if chat.tools:
        values += "\n" + _assigned("tools", chat.tools)
        arguments.append("tools=tools")
    arguments += (f"{name}={value!r}" for name, value in chat.settings.items())
    sampling = ", ".join(f"{name}={value}" for name, value in SAMPLING.items())
    asked = "".join(f"{one}, " for one in arguments)
    use = _USE.format(chat=values, arguments=asked, sampling=sampling)
    if example is None:
        return use
    use += f"\n\n{SHOWS_A_DIALOGUE} There, the data goes on with:\n\n"
    use += _said(example.answer)
    if example.written is not None:
        use += "\n\nand the model, where it takes the likeliest tokens, with:\n\n"
        use += _said(example.written)
    return use


def _assigned(name: str, values: Sequence[Mapping[str, Any]]) -> str:
    """A statement that makes a list of values, one after another."""
    rows = (f"{pformat(value, width=92, sort_dicts=False)}," for value in values)
    return f"{name} = [\n{indent(chr(10).join(rows), '    ')}\n]"


def _said(text: str) -> str:
    """A text as a block of Markdown."""
    return indent(visible(text, keep=f"\n{JOINER}") or "(nothing)", "    ")


def _num_dialogues(facts: Facts, side: str) -> int:
    """Count the dialogues of a side without those that the tokenizer could not give back."""
    count: int = facts.ledger["num_dialogues"][side] - facts.tokens["num_not_encodable"][side]
    return count


def _data(facts: Facts) -> str:
    num_tokens = facts.tokens["num_tokens"]
    num_trained, num_held_out = (_num_dialogues(facts, side) for side in ("train", "validation"))
    return f"""| | |
|---|---|
| source | {facts.corpus.title} |
| licence of the data | {facts.corpus.licence or "not known to the pipeline: see its source"} |
| training | {num_trained:,} dialogues, {num_tokens["trained"]:,} tokens |
| validation | {num_held_out:,} dialogues, {num_tokens["validation"]:,} tokens |
| split | by a keyed hash of each dialogue's content; no near duplicate on both sides |\
{_sources(facts)}"""


def _sources(facts: Facts) -> str:
    """A row for each source of a mixture."""
    num_tokens = facts.tokens["num_trained_tokens_of_sources"]
    return "".join(
        f"\n| of these, {name} | {found['num_dialogues']['train']:,} dialogues for training, "
        f"with weight {facts.params['data']['sources'][name]['weight']:g}: "
        f"{num_tokens.get(name, 0):,} tokens trained per epoch |"
        for name, found in facts.ledger["sources"].items()
    )


def _training(facts: Facts) -> str:
    params, training, base = facts.params, facts.training, facts.base
    train = params["train"]
    lora = train["lora"]
    tuned = "low-rank adapters, merged" if lora["rank"] else f"all weights, {train['weights']}"
    if lora["quantization"]:
        tuned += f"; the base model's weights beside them in {lora['quantization']}"
    moments = {"adamw": ""}.get(train["optimizer"], ", moments of 8 bits")
    published = ""
    if "sample_loss_published" in training:
        published = f"""
| loss on a sample, as trained and as published | {training["sample_loss_trained"]:.4f}, \
{training["sample_loss_published"]:.4f} nats per token |"""
    return f"""| | |
|---|---|
| base model | {base.title}{base.detail} |
| licence of the base model | {base.licence or "not known to the pipeline: see its source"} |
| trained | {tuned} |
| optimizer | AdamW{moments}, learning rate {train["learning_rate"]:g}, \
{train["lr_scheduler_type"]} |
| batch | {train["batch_size"]} rows x {train["gradient_accumulation_steps"]} accumulated, of \
{params["encoding"]["max_length"]} tokens |
| epochs | {train["epochs"]} |
| device, precision | {training["device"]}, {training["precision"]} |
| loss, first step and last epoch | {training["first_loss"]:.3f}, \
{training["last_epoch_loss"]:.3f} nats per token |{published}
| seed | {params["seed"]} |"""


def _numbers(facts: Facts) -> str:
    about, generation = facts.scores["set"], facts.generation
    return f"""{what_was_scored(about)}.
None was trained on. Intervals (95 %) from resampling whole dialogues.

{_table(headline_rows(facts.scores))}

{what_was_declared(facts.scores)} {WHAT_A_VERDICT_SAYS}
{_test(facts.test)}{_also(facts.scores)}

What it writes, beside what people wrote in the same {generation["counted"]["num_places"]:,} places:

{_writing(generation)}
{_calls(facts)}
Evaluation text `{about["text_sha256"][:12]}`, metric version {about["metric_version"]}."""


def _test(test: Mapping[str, Any]) -> str:
    """The figures of the test set, if there is one."""
    if "tuned" not in test:
        return ""
    return f"""
On the test set, which chose nothing and is read at a release alone:
{what_was_scored(test["set"], "test")}.

{_table(headline_rows(test))}
"""


def _also(scores: Mapping[str, Any]) -> str:
    """The figures of further evaluation sets, if there are any."""
    rows = [
        replace(row, title=f"{name}: {row.title}")
        for name, found in rows_of_parts(scores, "also").items()
        for row in found
    ]
    if not rows:
        return ""
    return f"""
On texts of other kinds, where what was forgotten shows:

{_table(rows)}
"""


def _metadata(base: Source, corpus: Source, scores: Mapping[str, Any]) -> str:
    """The YAML that hubs read."""
    about = scores["set"]
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type="dialogues",
            dataset_name=f"validation dialogues {about['text_sha256'][:12]}",
            metric_type=headline.name,
            metric_value=round(scores["tuned"][headline.name], headline.decimals),
        )
        for headline in HEADLINES
        if headline.name in scores["tuned"]
    ]
    data = ModelCardData(
        base_model=next(iter(base.hub_ids), None),
        datasets=list(corpus.hub_ids) or None,
        language=corpus.language,
        library_name="transformers",
        license=base.licence.lower() if base.licence else None,
        model_name="fine-tuned on dialogues",
        pipeline_tag="text-generation",
        tags=["dialogue", "conversational"],
        eval_results=results,
    )
    return str(data.to_yaml())


def _table(rows: Sequence[HeadlineRow]) -> str:
    lines = ["| | base | fine-tuned | change | dialogues | verdict |", "|---|---|---|---|---|---|"]
    for row in rows:
        cells = " | ".join(f"{value} ({low} … {high})" for value, low, high in row.cells)
        lines.append(f"| {row.title} | {cells} | {row.num_dialogues:,} | {row.meaning} |")
    return "\n".join(lines)


def _calls(facts: Facts) -> str:
    """The shares of right calls, where the data calls tools."""
    if why := facts.scores["tuned"].get("calls_not_read"):
        return f"\nIts calls of tools were not measured: {why}.\n"
    if not (rows := call_rows(facts.generation)):
        return ""
    num_places = facts.generation["calls"]["set"]["num_call_places"]
    return f"""
Its calls, in {num_places:,} places where the data's assistant calls tools:

{_table(rows)}
"""


def _writing(generation: Mapping[str, Any]) -> str:
    columns = {
        "base, sampled": generation["base"]["sampled"],
        "fine-tuned, sampled": generation["tuned"]["sampled"],
        "people": generation["people"]["said"],
    }
    names = dict.fromkeys(name for values in columns.values() for name in values)
    rows = [f"| | {' | '.join(columns)} |", "|---|---|---|---|"]
    for name in names:
        values = (column.get(name) for column in columns.values())
        cells = " | ".join("–" if value is None else f"{value:.3f}" for value in values)
        rows.append(f"| {name.replace('_', ' ')} | {cells} |")
    return "\n".join(rows)
