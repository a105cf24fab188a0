"""The S2V transformer against recorded prefills and streaming forwards."""

from __future__ import annotations

from torch import Tensor

from liveavatar.models.s2v import S2VTransformer, TokenGrid, routing_masks
from liveavatar.models.s2v.kv_cache import KVCache
from liveavatar.models.s2v.rope import Rotary, apply_rotary
from tests.parity.golden import GoldenCase, relative_error, relative_rms

KINDS: tuple[str, ...] = ("transformer", "transformer_bf16")


def run_case(case: GoldenCase) -> dict[str, float]:
    """Return the relative error of every output.

    For bfloat16 it is the distance to the float32 reference over the distance of the recorded bfloat16 output, once
    by the largest difference and once by the root mean square: 1 is as good as the record.
    """
    model = build_model(case)
    grid, capacity_blocks = cache_geometry(case)
    (cache,) = model.allocate_caches(grid, 1, capacity_blocks=capacity_blocks)
    text = model.encode_text(case.io["in.context"])
    model.prefill(case.io["in.ref_latents"][0], case.io["in.motion_latents"][0], text, [cache])
    errors = {} if case.kind == "transformer_bf16" else _sink_errors(case, cache)
    for call in case.manifest["calls"]:
        prefix = f"call{call['call']}"
        output = stream_call(model, case, call, text, cache)
        if case.kind == "transformer_bf16":
            reference = case.io[f"{prefix}.out_fp32_reference"]
            recorded = case.io[f"{prefix}.out"]
            for measure, distance in (("max", relative_error), ("rms", relative_rms)):
                excess = distance(output, reference) / distance(recorded, reference)
                errors[f"{prefix}.out {measure}, times the recorded"] = excess
        else:
            errors[f"{prefix}.out"] = relative_error(output, case.io[f"{prefix}.out"])
    return errors if case.kind == "transformer_bf16" else errors | _window_errors(case, cache)


def build_model(case: GoldenCase) -> S2VTransformer:
    """Return the model of a case with its weights, in the dtype of the case."""
    model = S2VTransformer(**case.config["model"]).eval()
    model.load_state_dict(case.weights, assign=True)
    return model


def cache_geometry(case: GoldenCase) -> tuple[TokenGrid, int]:
    """Return the token grid and the number of blocks in the window."""
    height, width = case.config["lat_hw"]
    grid = TokenGrid(latent_height=height, latent_width=width)
    return grid, case.config["kv_cache_tokens"] // grid.block_tokens


def stream_call(
    model: S2VTransformer, case: GoldenCase, call: dict[str, float], text: list[object], cache: KVCache
) -> Tensor:
    """Run one recorded streaming forward and return its output."""
    prefix = f"call{call['call']}"
    pose = case.io.get(f"{prefix}.cond_states", case.io.get("in.cond_states"))
    mask = case.io.get(f"{prefix}.mask")
    output: Tensor = model(
        case.io[f"{prefix}.x"],
        model.encode_time(call["t"]),
        text,
        model.encode_audio(case.io[f"{prefix}.audio_input"]),
        cache.locate(int(call["block_index"]), int(call["rope_jitter"])),
        cache,
        pose_CFhw=None if pose is None else pose[0],
        actor_masks_AFS1=None if mask is None else routing_masks(mask),
    )
    return output


def _sink_errors(case: GoldenCase, cache: KVCache) -> dict[str, float]:
    """Compare the sink: recorded keys are unrotated, the cache keeps all but the reference's rotated."""
    errors = {}
    rotary: Rotary = cache.sink_rotary()
    sink = cache.grid.sink_tokens
    for name, recorded in case.io.items():
        if not name.startswith("prefill."):
            continue
        layer = cache.layers[int(name.split(".")[1].removeprefix("layer"))]
        if name.endswith("cond_v"):
            errors[name] = relative_error(layer.v_THK[:sink], recorded[0])
        else:
            errors[name] = relative_error(layer.k_THK[:sink], apply_rotary(recorded[0], rotary))
            reference = recorded[0, : cache.grid.frame_tokens]
            errors[f"{name}.reference"] = relative_error(layer.reference_k_SHK, reference)
    return errors


def _window_errors(case: GoldenCase, cache: KVCache) -> dict[str, float]:
    """Compare the ring as the last call left it."""
    errors = {}
    for name, recorded in case.io.items():
        if name.startswith("final."):
            layer = cache.layers[int(name.split(".")[1].removeprefix("layer"))]
            rows = layer.k_THK if name.endswith(".k") else layer.v_THK
            errors[name] = relative_error(rows[cache.grid.sink_tokens :], recorded[0])
    return errors
