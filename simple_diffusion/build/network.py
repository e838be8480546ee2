"""The section `model`: from the columns of a level table to a network."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from simple_diffusion.build.conditioning import field_conditions
from simple_diffusion.core.options import Config, pick, training_size
from simple_diffusion.core.types import ApplyFn, Conditioning, Key, Params
from simple_diffusion.diffusion import parameterization, process
from simple_diffusion.nets import (
    layers,
    patching,
    position,
    residual_uvit,
    safa,
    unet,
    uvit,
)
from simple_diffusion.nets.conditioning import specs
from simple_diffusion.nets.conditions import Embedding
from simple_diffusion.nets.layers import Level, Style

Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Network:
    """A network, and the process it denoises.

    apply, init: the network as pure functions.
    size: height, width and channels of the training images.
    num_classes: 0 for a network without labels.
    kind, family: what it predicts, and the scale of its input.
    knows_place: whether it is trained on patches of images of many sizes and uses
      `Conditioning.box`.
    largest: side in pixels of the largest training images; None means no limit.
    aspect: largest aspect ratio of the training images.
    conditions: what it needs in `Conditioning.fields`.
    """

    apply: ApplyFn
    init: Callable[[Key], Params]
    size: tuple[int, int, int]
    num_classes: int
    kind: str
    family: process.Family
    knows_place: bool
    largest: int | None = None
    aspect: float = 1.0
    conditions: tuple[specs.Spec, ...] = ()

    @property
    def is_conditional(self) -> bool:
        """Whether it can be guided by dropping what it is conditioned on."""
        return self.num_classes > 0 or bool(self.conditions)


def build_network(
    config: Config, num_classes: int, conditions: Sequence[specs.Spec] | None = None
) -> Network:
    """Returns the network of a config, without parameters.

    Args:
      config: the whole config.
      num_classes: 0 for a network without labels.
      conditions: further ones; None: those of the section `conditions`.

    Raises:
      ValueError: a name is unknown, two conditions do not go together, or the network
        does not support the resolution.
    """
    size, patches = training_size(config), config.data.patches
    channels = config.data.channels
    smallest, largest = min(size), None
    if patches is not None:
        smallest, largest = patches.smallest, patches.largest
    kinds = {"log2": "log2", "inverse": "inverse"}
    kind = pick(kinds, config.model.scale_input, "model.scale_input")
    scale = position.Scale(smallest, largest, kind)
    if patches is not None and config.model.position in ("learned", "sincos"):
        raise ValueError(
            f"model.position={config.model.position!r} is a table that treats every "
            "patch as a full image; with data.patches use rope or none"
        )
    further = tuple(
        field_conditions.build_specs(config) if conditions is None else conditions
    )
    ways = {"embedding": False, "token": bool(num_classes)}
    by_token = pick(ways, config.model.class_condition, "model.class_condition")
    all_specs = further
    if by_token:
        width = config.model.class_token_width
        all_specs = (specs.ClassToken(num_classes, width), *further)
    try:
        specs.check(all_specs)
    except ValueError as error:
        raise ValueError(f"conditions: {error}") from None
    net = build_module(
        config.model, size, 0 if by_token else num_classes, scale, all_specs
    )

    def apply(
        params: Params,
        z_t: jax.Array,
        logsnr: jax.Array,
        cond: Conditioning,
        dropout_key: Key | None = None,
    ) -> jax.Array:
        cond = _move_label(cond) if by_token else cond
        train = dropout_key is not None
        rngs = {"dropout": dropout_key} if train else None
        variables = {"params": params}
        output: Any = net.apply(variables, z_t, logsnr, cond, train, rngs=rngs)
        return output

    def init(key: Key) -> Params:
        label = jnp.zeros(1, jnp.int32) if num_classes else None
        z_t = jnp.zeros((1, *size, channels))
        cond = Conditioning(label=label, fields=specs.examples(further, 1, size))
        cond = _move_label(cond) if by_token else cond
        return net.init(key, z_t, jnp.zeros(1), cond)["params"]

    kinds = {kind: kind for kind in parameterization.KINDS}
    families = {"vp": process.VP, "flow": process.FLOW}
    return Network(
        apply=apply,
        init=init,
        size=(*size, channels),
        num_classes=num_classes,
        kind=pick(kinds, config.diffusion.prediction, "diffusion.prediction"),
        family=pick(families, config.diffusion.family, "diffusion.family"),
        knows_place=patches is not None and _knows_place(config.model),
        largest=largest,
        # Images that keep their own aspect ratio may have any.
        aspect=1.0 if patches is None else patches.aspect or math.inf,
        conditions=further,
    )


def _move_label(cond: Conditioning) -> Conditioning:
    """Returns the conditioning with its class as a field; the null class stays one."""
    return dataclasses.replace(
        cond, label=None, fields={**cond.fields, "class": cond.label}
    )


def _knows_place(m: Config) -> bool:
    knows_scale = m.scale_embedding or any(kind != "none" for kind in m.safa)
    return m.place_bands > 0 or knows_scale or m.position == "rope"


def build_module(
    m: Config,
    size: Size,
    num_classes: int,
    scale: position.Scale,
    conditions: tuple[specs.Spec, ...] = (),
) -> nn.Module:
    """Returns the linen module of a `model` section for inputs of this size.

    `scale` has the range of sides of their full images.
    """
    networks = {"unet": _unet, "uvit": _uvit, "residual_uvit": _residual_uvit}
    make = pick(networks, m.name, "model.name")
    try:
        patching.parse(m.patching)
    except ValueError as error:
        raise ValueError(f"model.{error}") from None
    gates = {gate: gate for gate in safa.GATES}
    gate = pick(gates, m.safa_gate, "model.safa_gate")
    mixture = safa.Mixture(scale, m.safa_experts, gate=gate)
    activations = {name: name for name in layers.ACTIVATIONS}
    net = make(
        m,
        size,
        mixture,
        embedding=Embedding(
            channels=m.emb_channels,
            sinusoid_channels=m.base_channels,
            num_classes=num_classes,
            input=m.logsnr_input,
            scale=scale if m.scale_embedding else None,
            activation=pick(activations, m.emb_activation, "model.emb_activation"),
        ),
        patching=m.patching,
        normalise_bands=m.normalise_bands,
        dtype=_dtype(m.dtype),
        remat=None if m.remat == "none" else m.remat,
        conditions=conditions,
    )
    # Check here rather than in the first call, so that the error names the key.
    try:
        patching.check_size(size, m.patching, len(net.levels))
    except ValueError as error:
        shown = size[0] if size[0] == size[1] else f"{size[0]}x{size[1]}"
        raise ValueError(f"data.resolution={shown}: {error}") from None
    for k, level in enumerate(net.levels):
        if _has_attention(level) and level.channels % level.heads:
            heads, channels = f"model.heads[{k}]", f"model.channels[{k}]"
            if m.name == "uvit":
                heads = "model.trunk_heads"
                is_trunk = k + 1 == len(net.levels)
                channels = "model.trunk_channels" if is_trunk else channels
            raise ValueError(
                f"{heads}={level.heads} must divide {channels}={level.channels}"
            )
    return net


def _has_attention(level: Level) -> bool:
    return level.attention or level.kind == "transformer"


def _dtype(name: str | None) -> Any:
    if name is None:
        # bfloat16 takes half the time on accelerators and twice the time on CPUs.
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    names = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
    return pick(names, name, "model.dtype")


def _style(m: Config, mixture: safa.Mixture, **optional: Any) -> Style:
    paddings = {"zeros": "zeros", "edge": "edge"}
    return Style(
        padding=pick(paddings, m.padding, "model.padding"),
        bands=m.place_bands,
        mixture=mixture,
        conv_norm=m.conv_norm,
        activation=m.activation,
        qk_norm=m.qk_norm,
        position=m.position,
        rope_fastest=m.rope_fastest,
        attention=m.attention,
        **optional,
    )


def _unet(m: Config, size: Size, mixture: safa.Mixture, **common: Any) -> nn.Module:
    # The shorter side names the level, as `attention_resolutions` counts.
    finest = min(size) // patching.parse(m.patching).factor
    levels = []
    columns = dict(channels=m.channels, blocks=m.blocks, heads=m.heads, safa=_safa(m))
    for k, row in enumerate(_rows(**columns)):
        resolution = finest // 2**k
        level = Level(
            **row,
            blocks_up=row["blocks"] + m.extra_up_blocks,
            attention=resolution in m.attention_resolutions,
            dropout=m.dropout if resolution <= m.dropout_resolution else 0.0,
        )
        levels.append(level)
    resamplings = {"linear": "linear", "residual": "residual"}
    return unet.UNet(
        tuple(levels),
        style=_style(m, mixture, skip=m.skip),
        resampling=pick(resamplings, m.resampling, "model.resampling"),
        **common,
    )


def _uvit(m: Config, size: Size, mixture: safa.Mixture, **common: Any) -> nn.Module:
    kinds = m.kinds or ("conv",) * len(m.channels)
    rows = _rows(channels=m.channels, kind=kinds, blocks=m.blocks, safa=_safa(m))
    levels = [
        Level(
            **row,
            blocks_up=row["blocks"] + m.extra_up_blocks,
            heads=m.trunk_heads,
            dropout=m.trunk_dropout if row["kind"] == "transformer" else 0.0,
        )
        for row in rows
    ]
    trunk = Level(
        m.trunk_channels,
        m.trunk_blocks,
        kind="transformer",
        heads=m.trunk_heads,
        dropout=m.trunk_dropout,
    )
    return uvit.UViT(
        (*levels, trunk),
        training_size=size,
        style=_style(m, mixture, skip=m.skip, token_norm=m.token_norm, film=m.film),
        scan_unroll=m.scan_unroll,
        **common,
    )


def _residual_uvit(
    m: Config, size: Size, mixture: safa.Mixture, **common: Any
) -> nn.Module:
    rows = _rows(
        channels=m.channels,
        kind=m.kinds,
        blocks=m.blocks,
        heads=m.heads,
        dropout=m.dropout,
        safa=_safa(m),
    )
    return residual_uvit.ResidualUViT(
        tuple(Level(**v, blocks_up=v["blocks"] + m.extra_up_blocks) for v in rows),
        training_size=size,
        style=_style(m, mixture, token_norm=m.token_norm, film=m.film),
        scan_unroll=m.scan_unroll,
        **common,
    )


def _safa(m: Config) -> Sequence[str]:
    """Returns the column `safa` of the level table; empty is "none" at every level."""
    return m.safa or ("none",) * len(m.channels)


def _rows(**columns: Sequence) -> list[dict[str, Any]]:
    """Returns the columns of a level table as rows."""
    if len({len(column) for column in columns.values()}) != 1:
        keys = {"kind": "kinds"}  # fields with another name than their key
        lengths = ", ".join(
            f"{len(v)} in model.{keys.get(name, name)}" for name, v in columns.items()
        )
        raise ValueError(f"each level needs one entry in each key, got {lengths}")
    return [
        dict(zip(columns, row, strict=True))
        for row in zip(*columns.values(), strict=True)
    ]
