"""Shares of a device's time by category, read from a profiler's trace.

Every event of a trace names an instruction of the compiled program. The program states
which operation that is, what is fused into it, and which module of the network it comes
from. This gives its category, on every backend.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

Profile = Any  # a jax.profiler.ProfileData

# attention: between the linear maps of queries, keys, values and output.
# products: all other matrix products.
# update: what is outside the gradient of the loss: clipping, optimizer, averages.
# input: from the host's memory to the device's.
# other: control flow, and what nothing is known of.
CATEGORIES = (
    "attention",
    "products",
    "convolutions",
    "norms",
    "elementwise",
    "update",
    "copies",
    "collectives",
    "input",
    "other",
)
IDLE = "idle"

_COLLECTIVE = re.compile(
    r"all-gather|all-reduce|reduce-scatter|all-to-all|collective|nccl", re.I
)
_COPIES = {
    *("copy", "copy-start", "copy-done", "transpose", "reshape", "bitcast", "slice"),
    *("dynamic-slice", "dynamic-update-slice", "concatenate", "pad", "gather"),
}
# Of an instruction with these nothing can be said, or it takes no time of its own.
_SILENT = {
    *("parameter", "constant", "tuple", "get-tuple-element", "broadcast", "iota"),
    *("bitcast", "convert", "compare", "select"),
}
_CONTROL = {"while", "conditional", "call"}
# What kernels and custom calls of libraries are called; the first that is found.
_NAMES = (
    ("attention", re.compile(r"fmha|flash|attention", re.I)),
    ("convolutions", re.compile(r"conv|wgrad|dgrad|fprop", re.I)),
    ("products", re.compile(r"gemm|matmul|dot|cutlass|nvjet|xmma", re.I)),
    ("input", re.compile(r"memcpy.?h(to|2)d", re.I)),
    ("copies", re.compile(r"memcpy|memset|transpose|copy", re.I)),
)


class Instruction(NamedTuple):
    """A line of a compiled program: opcode, where it arose, target, what it calls.

    names: the other instructions that it names, its operands among them.
    """

    opcode: str
    path: str
    target: str
    calls: str
    names: tuple[str, ...]


def categories(program: str) -> dict[str, str]:
    """Returns the category of every instruction.

    Args:
      program: the text of a compiled program (`jax.stages.Compiled.as_text`).
    """
    bodies = _parse(program)
    bodies = {name: _with_paths(body) for name, body in bodies.items()}
    return {
        name: _category(instruction, bodies)
        for body in bodies.values()
        for name, instruction in body.items()
    }


def shares(profile: Profile, table: Mapping[str, str]) -> dict[str, float]:
    """Returns the share of time of each category and of `IDLE`; they add up to 1.

    Time goes from the beginning of the first instruction to the end of the last. The
    device is idle where no instruction runs; the rest is divided among the categories
    in proportion to the time of their instructions, those inside them left out.

    Args:
      profile: a trace; of several devices, the first counts.
      table: from `categories`.

    Raises:
      ValueError: the trace holds no instruction of a device.
    """
    spent: dict[str, float] = defaultdict(float)
    spans = []
    for line in _lines(profile):
        events = [e for e in line if e[1] > 0]
        spans += [(start, start + duration) for start, duration, _, _ in events]
        for own, name, instruction in _own_times(events):
            spent[table.get(instruction) or _by_name(name)] += own
    if not spans:
        raise ValueError("the trace holds no instruction of a device")
    whole = max(end for _, end in spans) - min(start for start, _ in spans)
    busy = _covered(spans) / whole
    total = sum(spent.values())
    found = {name: spent[name] / total * busy for name in CATEGORIES}
    return {**found, IDLE: 1.0 - busy}


def read(folder: Path) -> Profile:
    """Returns the trace that `jax.profiler.trace` has left in a folder.

    Raises:
      ValueError: there is none, or more than one.
    """
    files = sorted(folder.rglob("*.xplane.pb"))
    if len(files) != 1:
        raise ValueError(f"{folder} must hold one trace, found {len(files)}")
    return jax.profiler.ProfileData.from_file(str(files[0]))


# `%name = type opcode(`: types hold no lower-case word before a parenthesis.
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(?.*\{$")
_OPCODE = re.compile(r"(?:^|[\s)}\]])([a-z][a-z0-9\-]*)\(")


def _parse(program: str) -> dict[str, dict[str, Instruction]]:
    """Returns the instructions by name, of each computation by name."""
    bodies: dict[str, dict[str, Instruction]] = {}
    body: dict[str, Instruction] = {}
    for line in program.splitlines():
        head = _HEAD.match(line)
        if head and " = " not in line.split("{")[0].split("(")[0]:
            body = bodies.setdefault(head[1], {})
            continue
        match = _LINE.match(line)
        opcode = _OPCODE.search(match[2]) if match else None
        if match and opcode:
            body[match[1]] = Instruction(
                opcode[1],
                _find(r'op_name="([^"]*)"', line),
                _find(r'custom_call_target="([^"]*)"', line),
                _find(r"(?:calls|to_apply)=%?([\w.\-]+)", line),
                tuple(re.findall(r"%([\w.\-]+)", match[2])),
            )
    return bodies


def _with_paths(body: Mapping[str, Instruction]) -> dict[str, Instruction]:
    """Gives an instruction without a path that of its first user.

    A compiler that rewrites an instruction, such as a product over a batch, may forget
    where it arose.
    """
    used: dict[str, str] = {}
    found = {}
    for name, it in reversed(body.items()):  # users stand below what they use
        found[name] = it = it._replace(path=it.path or used.get(name, ""))
        if it.path:
            used |= {operand: it.path for operand in it.names}
    return {name: found[name] for name in body}


def _find(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match[1] if match else ""


def _category(it: Instruction, bodies: Mapping[str, Mapping]) -> str:
    if _COLLECTIVE.match(it.opcode):
        return "collectives"
    if it.opcode in _CONTROL:
        return "other"
    if it.opcode == "custom-call":
        kind = _by_name(it.target)
        if kind == "other" and _in_attention(it.path):  # kernels of our own on TPU
            kind = "attention"
        return _product(it.path) if kind == "products" else kind
    if it.opcode == "convolution":
        # Some backends make convolutions of plain products.
        plain = "dot_general" in it.path
        return _product(it.path) if plain else "convolutions"
    if it.opcode == "dot":
        return _product(it.path)
    if it.opcode in _COPIES:
        return "copies"
    inner = bodies.get(it.calls, {}) if it.opcode != "reduce" else {}
    return _of_fused(inner.values(), bodies) or _elementwise(it.path)


def _of_fused(
    inner: Iterable[Instruction], bodies: Mapping[str, Mapping]
) -> str | None:
    """Returns what a fusion is: a product if it holds one, or what most of it is."""
    kinds = Counter(_category(i, bodies) for i in inner if i.opcode not in _SILENT)
    for kind in ("collectives", "convolutions", "products"):
        if kinds[kind]:
            return kind
    work = {k: n for k, n in kinds.items() if k != "copies"}
    if work:
        return max(work, key=lambda kind: work[kind])
    return "copies" if kinds else None


# Linear maps and norms inside the module called attention.
_AROUND_ATTENTION = re.compile(r"(^|/)attention/(qkv|out|norm\w*)(/|$)")


def _product(path: str) -> str:
    return "attention" if _in_attention(path) else "products"


def _in_attention(path: str) -> bool:
    return "/attention/" in path and not _AROUND_ATTENTION.search(path)


def _elementwise(path: str) -> str:
    if re.search(r"(^|/)norm(_\w+)?/", path):
        return "norms"
    if _in_attention(path):
        return "attention"
    # The gradient of the loss is traced by jvp, all of it; the update is not.
    return "elementwise" if "jvp(" in path or not path else "update"


def _by_name(name: str) -> str:
    if _COLLECTIVE.search(name):
        return "collectives"
    return next((kind for kind, known in _NAMES if known.search(name)), "other")


Event = tuple[float, float, str, str]  # start, duration, name, instruction


def _lines(profile: Profile) -> Iterator[list[Event]]:
    """Yields the events of each queue of the first device, or of the host as one."""
    planes = sorted(profile.planes, key=lambda plane: plane.name)
    for plane in planes:
        if re.match(r"/device:(GPU|TPU)", plane.name):
            yield from _of_device(list(plane.lines))
            return
    for plane in planes:
        if plane.name == "/host:CPU":
            yield _of_host(plane.lines)


def _of_device(lines: list) -> Iterator[list[Event]]:
    # On TPU, the line that has each instruction once; on GPU, the streams.
    chosen = [v for v in lines if v.name == "XLA Ops"]
    for line in chosen or [v for v in lines if v.name.startswith("Stream")]:
        events = []
        for event in line.events:
            stats = dict(event.stats)
            # TPUs name the event itself so, as a line of the program.
            instruction = stats.get("hlo_op") or event.name.split(" = ")[0].lstrip("%")
            events.append(
                (event.start_ns, event.duration_ns, event.name, str(instruction))
            )
        yield events


_END = "end: "


def _of_host(lines: Iterable) -> list[Event]:
    """Returns the instructions of a program on CPU.

    An instruction may hand its work to other threads and return: it has ended where an
    event says so, its own says only how long that took.
    """
    starts, ends = defaultdict(list), defaultdict(list)
    for line in lines:
        for event in line.events:
            if event.name.startswith(_END):
                name = event.name.removeprefix(_END)
                ends[name].append(event.start_ns + event.duration_ns)
            elif any(key == "hlo_op" for key, _ in event.stats):
                starts[event.name].append(event.start_ns)
    return [
        (start, end - start, name, name)
        for name in starts
        for start, end in zip(sorted(starts[name]), sorted(ends[name]), strict=False)
    ]


def _own_times(events: list[Event]) -> Iterator[tuple[float, str, str]]:
    """Yields the time of each event without that of the events inside it."""
    open_events: list[list] = []  # end, own time, name, instruction
    for start, duration, name, instruction in sorted(
        events, key=lambda e: (e[0], -e[1])
    ):
        while open_events and open_events[-1][0] <= start:
            yield tuple(open_events.pop()[1:])
        if open_events:
            open_events[-1][1] -= min(duration, open_events[-1][0] - start)
        open_events.append([start + duration, duration, name, instruction])
    for event in reversed(open_events):
        yield tuple(event[1:])


def _covered(spans: list[tuple[float, float]]) -> float:
    """Returns the length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
