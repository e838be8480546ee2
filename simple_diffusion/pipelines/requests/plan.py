"""The section `sample`: which images to sample, and what they are to show."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from simple_diffusion.build import diffusion, image_geometry, sampling
from simple_diffusion.build.conditioning.kinds import CONDITIONS
from simple_diffusion.build.conditioning.lexicon import Lexicon
from simple_diffusion.build.network import Network
from simple_diffusion.core.options import Config
from simple_diffusion.core.types import Batch, Request
from simple_diffusion.pipelines.requests import readers
from simple_diffusion.pipelines.requests.readers import Answer, Ask
from simple_diffusion.pipelines.trained import Examples
from simple_diffusion.sampling import generate

Size = tuple[int, int]
_TEXT = {"text", "text_features"}  # conditions whose values are prompts


@dataclasses.dataclass(frozen=True)
class Plan:
    """The images to sample.

    request: what the images are to show.
    batch_size: number of images per batch.
    groups: which images have one value of the conditions, or one class without
      conditions, [count].
    prompts: the text of each image; () for a model without text.
    titles: of the images; () if the class of each is its title.
    """

    request: Request
    batch_size: int
    groups: np.ndarray
    prompts: tuple[str, ...] = ()
    titles: tuple[str, ...] = ()


def read_plan(
    config: Config,
    net: Network,
    class_names: tuple[str, ...],
    lexicon: Lexicon | None = None,
    *,
    given: Mapping[str, Any] | None = None,
    examples: Examples | None = None,
    size: Size | None = None,
    counts_values: bool = False,
) -> Plan:
    """Returns the images that `config.sample` asks for.

    Args:
      config: the whole config.
      net: the model.
      class_names: its classes.
      lexicon: words and names that its conditions know.
      given: values of conditions, by keys of `sample`, in place of those of the config.
      examples: held-out examples, which decide where no condition is asked for.
      size: height and width of the images in pixels, in place of `sample.size`.
      counts_values: whether there is one image per value, in place of `sample.count`.

    Raises:
      ValueError: a class does not exist, the value of a condition is missing or
        invalid, or the model has no such condition.
      OSError: a file cannot be read.
    """
    c, lexicon = config.sample, lexicon or Lexicon()
    if size is None:
        reference = diffusion.reference_size(config)
        size = image_geometry.parse_size(c.size, reference)
    answers = _read_answers(config, net, lexicon, given or {}, size)
    classes = sampling.parse_classes(c.classes, class_names, net.num_classes)
    if answers and c.classes is None:
        classes = [net.num_classes]  # the other conditions alone decide
    count = c.count
    if counts_values and answers:
        count = max(answer.count for answer in answers.values())
    labels = np.asarray(generate.balanced_labels(classes, count))
    if not net.conditions:
        return Plan(Request(labels), c.batch_size, labels)
    if not answers:
        return _plan_of_examples(config, net, lexicon, labels, examples, size)
    return _plan_of_answers(config, labels, answers, size)


def _read_answers(
    config: Config,
    net: Network,
    lexicon: Lexicon,
    given: Mapping[str, Any],
    size: Size,
) -> dict[str, Answer]:
    """Returns the values of the conditions that are asked for, by name."""
    values = {key: given.get(key, config.sample[key]) for key in readers.KEYS}
    values = {key: value for key, value in values.items() if value is not None}
    names = [spec.name for spec in net.conditions if spec.name in readers.READERS]
    known = {key for name in names for key in readers.READERS[name].keys}
    for key, value in values.items():
        if key not in known:
            users = [n for n, reader in readers.READERS.items() if key in reader.keys]
            shown = f"={value!r}" if isinstance(value, str) else ""
            raise ValueError(
                f"sample.{key}{shown} is for a model that was trained with "
                f"{' or '.join(f'conditions.{name}' for name in users)}; this one was "
                "not"
            )
    answers = {}
    for name in names:
        reader = readers.READERS[name]
        selected = {
            key: readers.select(key, values[key], name)
            for key in reader.keys
            if key in values
        }
        own = {key: value for key, value in selected.items() if value is not None}
        if own:
            answers[name] = reader.read(Ask(name, config, own, lexicon, size))
    return answers


def _plan_of_answers(
    config: Config, labels: np.ndarray, answers: dict[str, Answer], size: Size
) -> Plan:
    """Returns the plan for values, of which each condition repeats its own in turn."""
    count, fields = len(labels), {}
    for name, answer in answers.items():
        n = answer.count
        blank = np.zeros((n, *size, config.data.channels), np.uint8)
        batch = Batch(
            image=blank if answer.images is None else answer.images,
            label=np.zeros(n, np.int32),
            box=np.tile(np.array([0, 0, 1, 1], np.float32), (n, 1)),
            mask=np.ones(n, bool),
            fields=answer.arrays,
        )
        found = CONDITIONS[name].fields(config.conditions[name], batch)
        rows = np.arange(count) % n
        fields |= {key: np.asarray(value)[rows] for key, value in found.items()}
    titled = (answer.titles for answer in answers.values() if answer.titles)
    titles = next(titled, ())
    titles = tuple(titles[k % len(titles)] for k in range(count)) if titles else ()
    lengths = [answer.count for answer in answers.values()]
    groups = np.arange(count) % np.lcm.reduce(lengths)
    has_text = bool(_TEXT & answers.keys())
    if has_text and len(answers) == 1:  # two equal prompts are one
        numbers = {text: k for k, text in enumerate(dict.fromkeys(titles))}
        groups = np.array([numbers[text] for text in titles])
    return Plan(
        Request(labels, fields),
        config.sample.batch_size,
        groups,
        titles if has_text else (),
        titles,
    )


def _plan_of_examples(
    config: Config,
    net: Network,
    lexicon: Lexicon,
    labels: np.ndarray,
    examples: Examples | None,
    size: Size,
) -> Plan:
    """Returns the plan for the conditions of held-out examples."""
    if examples is None:
        names = [spec.name for spec in net.conditions]
        keys = [readers.READERS[name].keys for name in names if name in readers.READERS]
        wanted = " or ".join(" and ".join(f"sample.{k}" for k in own) for own in keys)
        raise ValueError(
            f"{wanted} must be set: this model is conditioned on {', '.join(names)}, "
            "and without its data source there are no held-out examples to take them "
            "from"
        )
    request = examples(len(labels), size)
    if config.sample.classes is not None:
        request = request._replace(label=labels)
    elif not net.num_classes:
        request = request._replace(label=np.zeros(len(labels), np.int32))
    texts: tuple[str, ...] = ()
    if "text" in request.fields and lexicon.tokenizer is not None:
        texts = tuple(map(lexicon.tokenizer.decode, request.fields["text"]))
    groups = np.arange(len(labels))
    return Plan(request, config.sample.batch_size, groups, texts, texts)
