"""Where the time of a trace goes, recipes as plain values, and the script on CPU."""

import collections
import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from benchmarks import devices, recipe, shares
from simple_diffusion.build import network
from simple_diffusion.configs import imagenet64, imagenet512
from simple_diffusion.nets import position
from simple_diffusion.nets.transformer import Block
from simple_diffusion.nets.uvit import STYLE

ROOT = Path(__file__).parents[2]


def trace(*streams: list[tuple[str, int, int]]) -> shares.Profile:
    """Returns a trace of a GPU: of each stream, (instruction, start, end) in µs."""
    names = sorted({name for stream in streams for name, _, _ in stream})
    numbers = {name: k + 1 for k, name in enumerate(names)}
    text = 'planes { name: "/device:GPU:0"\n'
    for k, stream in enumerate(streams):
        text += f'lines {{ id: {k} name: "Stream #{k}(compute)" timestamp_ns: 0\n'
        for name, start, end in stream:
            text += (
                f"events {{ metadata_id: {numbers[name]} offset_ps: {start * 10**6} "
                f"duration_ps: {(end - start) * 10**6} "
                f"stats {{ metadata_id: 1 ref_value: {numbers[name] + 1} }} }}\n"
            )
        text += "}\n"
    text += 'stat_metadata { key: 1 value { id: 1 name: "hlo_op" } }\n'
    for name, number in numbers.items():
        value = f'value {{ id: {number} name: "{name}" }}'
        text += f"event_metadata {{ key: {number} {value} }}\n"
        value = f'value {{ id: {number + 1} name: "{name}" }}'
        text += f"stat_metadata {{ key: {number + 1} {value} }}\n"
    of = jax.profiler.ProfileData
    return of.from_serialized_xspace(of.text_proto_to_serialized_xspace(text + "}"))


TABLE = {"dot.1": "products", "conv.1": "convolutions", "while.1": "other"}


def found(*streams: list[tuple[str, int, int]]) -> dict[str, float]:
    result = shares.shares(trace(*streams), TABLE)
    assert sum(result.values()) == pytest.approx(1.0)
    return {name: share for name, share in result.items() if share > 1e-9}


def test_what_no_instruction_covers_is_idle():
    result = found([("dot.1", 0, 30), ("conv.1", 50, 100)])
    assert result == pytest.approx({"products": 0.3, "convolutions": 0.5, "idle": 0.2})


def test_the_time_inside_a_loop_is_its_body_s():
    result = found([("while.1", 0, 100), ("dot.1", 10, 50), ("dot.1", 50, 90)])
    assert result == pytest.approx({"products": 0.8, "other": 0.2})


def test_two_streams_at_once_are_busy_once_and_divide_the_time():
    # 100 µs, of which 40 are idle; products have 60 of 80 µs of work.
    result = found([("dot.1", 0, 60)], [("conv.1", 20, 40), ("dot.1", 100, 100)])
    assert result == pytest.approx({"products": 0.75, "convolutions": 0.25})
    result = found([("dot.1", 0, 60)], [("conv.1", 80, 100)])
    assert result == pytest.approx({"products": 0.6, "convolutions": 0.2, "idle": 0.2})


def test_a_kernel_that_names_no_instruction_is_known_by_its_own_name():
    result = found([("MemcpyH2D", 0, 10), ("ncclDevKernel_AllGather", 10, 40)])
    assert result == pytest.approx({"input": 0.25, "collectives": 0.75})


def test_a_trace_without_a_device_is_refused():
    with pytest.raises(ValueError, match="no instruction"):
        shares.shares(trace([]), TABLE)


# As programs for GPUs are written: products and convolutions are calls of libraries.
GPU = """
HloModule jit_train_step

%fused_add (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  %m.1 = f32[8]{0} multiply(%p, %p), metadata={op_name="jit(f)/jvp(N)/norm_1/mul"}
  %m.2 = f32[8]{0} multiply(%m.1, %p), metadata={op_name="jit(f)/jvp(N)/norm_1/mul"}
  ROOT %a = f32[8]{0} add(%m.2, %p), metadata={op_name="jit(f)/jvp(N)/add"}
}

%fused_copy (p.1: f32[8,8]) -> f32[8,8] {
  %p.1 = f32[8,8]{1,0} parameter(0)
  %t = f32[8,8]{0,1} transpose(%p.1), dimensions={1,0}
  ROOT %c = f32[8,8]{1,0} copy(%t)
}

ENTRY %main (x: f32[8,8]) -> f32[8,8] {
  %x = f32[8,8]{1,0} parameter(0)
  %gemm.1 = (f32[8,8]{1,0}, s8[64]{0}) custom-call(%x, %x), \
custom_call_target="__cublas$lt$matmul", metadata={op_name="N/attention/qkv/dot"}
  %gemm.2 = (f32[8,8]{1,0}, s8[64]{0}) custom-call(%x, %x), \
custom_call_target="__cublas$gemm", metadata={op_name="N/attention/dot_general"}
  %fmha = (bf16[8,8]{1,0}, u8[0]{0}) custom-call(%x, %x), \
custom_call_target="__cudnn$fmhaSoftmax", metadata={op_name="N/attention/x"}
  %cudnn-conv.3 = (f32[8,8]{1,0}, u8[0]{0}) custom-call(%x, %x), \
custom_call_target="__cudnn$convForward", metadata={op_name="N/conv_1/conv"}
  %all-gather-start.1 = (f32[8,8]{1,0}, f32[8,8]{1,0}) all-gather-start(%x)
  %loop_fusion = f32[8]{0} fusion(%x), kind=kLoop, calls=%fused_add, \
metadata={op_name="jit(f)/jvp(N)/add"}
  %copy_fusion = f32[8,8]{1,0} fusion(%x), kind=kLoop, calls=%fused_copy
  %adam = f32[8,8]{1,0} multiply(%x, %x), metadata={op_name="jit(train_step)/mul"}
  %w.1 = (f32[8,8]{1,0}) while(%x), condition=%c.1, body=%b.1
  ROOT %silu = f32[8,8]{1,0} multiply(%x, %x), metadata={op_name="jvp(N)/silu/mul"}
}
"""


@pytest.mark.parametrize(
    "instruction, category",
    [
        ("gemm.1", "products"),
        ("gemm.2", "attention"),
        ("fmha", "attention"),
        ("cudnn-conv.3", "convolutions"),
        ("all-gather-start.1", "collectives"),
        ("loop_fusion", "norms"),
        ("copy_fusion", "copies"),
        ("adam", "update"),
        ("w.1", "other"),
        ("silu", "elementwise"),
    ],
)
def test_an_instruction_is_what_it_computes_where_it_arose(instruction, category):
    assert shares.categories(GPU)[instruction] == category


def test_attention_is_told_from_the_maps_around_it_in_a_compiled_network():
    net = Block(heads=2, style=STYLE)
    x, emb = jnp.ones((2, 4, 4, 16)), jnp.ones((2, 8))

    def loss(params, x):
        return net.apply({"params": params}, x, emb).sum()

    params = net.init(jax.random.key(0), x, emb)["params"]
    text = jax.jit(jax.grad(loss)).lower(params, x).compile().as_text()
    table = shares.categories(text)
    dots = re.findall(r"%([\w.\-]+) = \S+ dot\(", text)
    kinds = collections.Counter(table[name] for name in dots)
    # Queries times keys, weights times values, and two gradients of each; all else are
    # linear maps.
    assert kinds["attention"] == 6
    assert set(kinds) == {"attention", "products"}


@pytest.mark.parametrize("variant", ["unet", "uvit", "sid2"])
def test_a_recipe_of_plain_values_builds_the_network_of_its_config(variant):
    config = imagenet512.get_config(variant)
    tree = recipe.load(f"configs/imagenet512.py:{variant}")
    plain = recipe.sections(json.loads(json.dumps(tree)))
    scale = position.Scale(512, None, "log2")
    wanted = network.build_module(config.model, (512, 512), 1000, scale)
    assert network.build_module(plain.model, (512, 512), 1000, scale) == wanted


def test_changes_are_values_or_words_and_reach_only_keys_that_exist():
    tree = recipe.load("configs/imagenet512.py")
    texts = ["trunk_blocks=2", "remat=none", "data.num_classes=None"]
    changed = recipe.changed(tree, recipe.changes(texts, "model"))
    assert changed["model"]["trunk_blocks"] == 2
    assert changed["model"]["remat"] == "none"
    assert changed["data"]["num_classes"] is None
    assert tree["model"]["trunk_blocks"] == 36
    with pytest.raises(ValueError, match="no key model.depth"):
        recipe.changed(tree, {"model.depth": 2})
    with pytest.raises(ValueError, match="key=value"):
        recipe.changes(["remat"])


@pytest.mark.parametrize("size, patch", [(128, 1), (256, 2), (512, 4)])
def test_the_peer_of_an_imagenet_recipe_has_its_widths_at_its_resolutions(size, patch):
    given = recipe.peer_arguments(recipe.load(f"configs/imagenet{size}.py:uvit"))
    widths = [given["dim"] * k for k in (1, *given["dim_mults"])]
    assert widths == [128, 256, 512, 2048]
    assert given["patch_size"] == patch
    assert given["attn_heads"] * given["attn_dim_head"] == 2048


def test_a_peer_of_a_network_that_it_has_not_is_refused():
    tree = json.loads(imagenet64.get_config("unet").to_json_best_effort())
    with pytest.raises(ValueError, match="no model.name='unet'"):
        recipe.peer_arguments(tree)


@pytest.mark.parametrize(
    "kind, name",
    [
        ("TPU v5 lite", "v5e"),
        ("TPU v5p", "v5p"),
        ("TPU v5", "v5p"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("cpu", None),
    ],
)
def test_a_device_is_found_by_what_it_calls_itself(kind, name):
    assert devices.of_kind(kind) == name


# A program in which what accelerator machines may lack cannot be imported.
WITHOUT = """
import runpy, sys
for name in ("ml_collections", "tensorflow", "clu", "tensorflow_datasets"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__")
"""
TINY = "model.trunk_blocks=2 model.channels=[16] model.trunk_channels=32 "
TINY += "model.base_channels=16 model.emb_channels=32 model.blocks=[1]"
SMALL = "--backend=cpu --dtype=float32 --batch=2 --matmul=64 --rounds=1 --steps=1"


@pytest.mark.slow
def test_the_step_of_a_recipe_is_measured_where_configs_cannot_be_read(tmp_path):
    module, described = "benchmarks.accelerator", str(tmp_path / "recipe.json")
    command = [sys.executable, "-m", module, "--config=configs/quickstart.py"]
    command += ["--set", *TINY.split(), "data.num_classes=3", "--describe", described]
    subprocess.run(command, cwd=ROOT, check=True)

    command = [sys.executable, "-c", WITHOUT, module, "--config", described]
    command += SMALL.split() + ["--traced=2", "--json", str(tmp_path / "figures.json")]
    command += ["--programs", "remat=none", "remat=full", "attention=cudnn"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    product, *ours = figures["rows"]
    assert product["flops"] == 2 * 64**3
    assert [row["name"] for row in ours] == ["ours, remat=none", "ours, remat=full"]
    # The compiler also counts elementwise work, a good part of so small a network.
    for row in ours:
        assert 1.0 < row["compiler_flops"] / row["flops"] < 1.5
        assert sum(row["shares"].values()) == pytest.approx(1.0)
        assert row["shares"]["convolutions"] > 0.05
        assert row["shares"]["attention"] > 0
    # A program that cannot run is told, and costs the others nothing.
    assert list(figures["failed"]) == ["attention=cudnn"]
