"""Weights from the published folder layout, with an adapter and in 8 bits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from liveavatar.core.errors import EngineFailed
from liveavatar.loading import transformer as loading
from liveavatar.loading.lora import LoraMerge
from liveavatar.loading.quantize import Fp8Linear, Fp8Scheme, quantize, quantize_linears
from liveavatar.loading.transformer import load_transformer, shard_files
from liveavatar.models.s2v import S2VTransformer
from tests.parity.golden import relative_rms
from tests.s2v.tiny import TinyStream, tiny_model

CPU = torch.device("cpu")
QUERY = "blocks.0.self_attn.q"
RANK = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint in several files, with the index and config.json of the published one."""
    path = tmp_path_factory.mktemp("checkpoint")
    tiny_model().bfloat16().save_pretrained(path, max_shard_size="100KB")
    config_path = path / "config.json"
    config = json.loads(config_path.read_text())
    config |= {"_class_name": "WanModel_S2V", "an_entry_without_effect": 1024}
    config_path.write_text(json.dumps(config))
    return path


def adapter(module: str = QUERY, prefix: str = "", spelling: str = ".default") -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        f"{prefix}{module}.lora_A{spelling}.weight": torch.randn(RANK, 48, generator=generator),
        f"{prefix}{module}.lora_B{spelling}.weight": torch.randn(48, RANK, generator=generator),
    }


def test_from_pretrained_reads_the_folder_as_published(folder: Path) -> None:
    assert len(shard_files(folder)) > 2
    model = S2VTransformer.from_pretrained(folder, torch_dtype=torch.bfloat16, low_cpu_mem_usage=True)
    saved = tiny_model().bfloat16().state_dict()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())


def test_both_ways_of_loading_agree(folder: Path) -> None:
    model = load_transformer(folder, device=CPU).model
    other = S2VTransformer.from_pretrained(folder, torch_dtype=torch.bfloat16, device_map={"": "cpu"})
    assert torch.equal(TinyStream(model).run(0), TinyStream(other).run(0))


def test_a_missing_file_is_named(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    shard = shard_files(tmp_path)[0]
    tensors = load_file(shard)
    name, tensor = tensors.popitem()
    save_file(tensors | {"stranger": tensor.clone()}, shard)
    with pytest.raises(EngineFailed) as failure:
        load_transformer(tmp_path, device=CPU)
    assert name in failure.value.diagnosis.cause
    assert "stranger" in failure.value.diagnosis.cause


@pytest.mark.parametrize("prefix", ["", "base_model.model."])
@pytest.mark.parametrize("spelling", ["", ".default"])
def test_adapter_is_merged_while_loading(folder: Path, prefix: str, spelling: str) -> None:
    factors = adapter(prefix=prefix, spelling=spelling)
    loaded = load_transformer(folder, device=CPU, lora=LoraMerge(factors, alpha=2.0))
    factor_a, factor_b = factors.values()
    published = tiny_model().bfloat16().get_submodule(QUERY).weight
    expected = (published.float() + 2.0 / RANK * factor_b @ factor_a).to(torch.bfloat16)
    assert torch.equal(loaded.model.get_submodule(QUERY).weight, expected)
    assert loaded.lora is not None
    assert loaded.lora.merged == (f"{QUERY}.weight",)
    assert len(loaded.lora.untouched) == len(loaded.model.state_dict()) - 1
    assert loaded.lora.sentence().startswith("adapter merged into 1 weights")


def test_whole_tensors_in_the_adapter_replace_those_published() -> None:
    merge = LoraMerge(adapter() | {f"{QUERY}.base_layer.bias": torch.ones(48)}, alpha=1.0)
    merge.apply(f"{QUERY}.weight", torch.zeros(48, 48))
    assert torch.equal(merge.apply(f"{QUERY}.bias", torch.zeros(48)), torch.ones(48))
    assert merge.finish().replaced == (f"{QUERY}.bias",)


def test_adapter_for_unknown_modules_is_an_error(folder: Path) -> None:
    factors = adapter() | adapter("diffusion_model.blocks.9.self_attn.q")
    with pytest.raises(EngineFailed) as failure:
        load_transformer(folder, device=CPU, lora=LoraMerge(factors))
    assert failure.value.diagnosis.code == "lora_mismatch"
    assert "diffusion_model.blocks.9.self_attn.q.weight" in failure.value.diagnosis.cause


def test_an_adapter_that_changes_nothing_is_an_error() -> None:
    with pytest.raises(EngineFailed, match="change nothing"):
        LoraMerge({}).finish()


def test_half_an_adapter_is_an_error() -> None:
    factors = adapter()
    factors.popitem()
    with pytest.raises(EngineFailed, match="only one of the two factors"):
        LoraMerge(factors)


def test_an_adapter_of_another_width_is_an_error() -> None:
    with pytest.raises(EngineFailed, match=r"\[48, 48\] in the adapter and \[64, 64\] in the model"):
        LoraMerge(adapter()).apply(f"{QUERY}.weight", torch.zeros(64, 64))


def test_8_bit_loading_equals_8_bit_conversion_after_the_merge(folder: Path) -> None:
    loaded = load_transformer(folder, device=CPU, lora=LoraMerge(adapter()), fp8="per_row").model
    converted = load_transformer(folder, device=CPU, lora=LoraMerge(adapter())).model
    quantize_linears(converted, "per_row")
    for name, tensor in converted.state_dict().items():
        assert torch.equal(tensor.float(), loaded.state_dict()[name].float()), name


def test_named_blocks_are_placed_in_host_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device stands for a card: what is put there has no content. The blocks that stay on the host have theirs."""
    card = torch.device("meta")
    monkeypatch.setattr(loading, "_checkpoint_tensors", lambda folder, _device: _read(folder))
    model = load_transformer(folder, device=card, host_blocks=[1], fp8="per_row").model
    whole = load_transformer(folder, device=CPU, fp8="per_row").model.state_dict()
    for name, tensor in model.state_dict().items():
        assert tensor.device == (CPU if name.startswith("blocks.1.") else card), name
        if tensor.device == CPU:
            assert torch.equal(tensor.float(), whole[name].float()), name


def _read(folder: Path) -> Iterator[tuple[str, Tensor]]:
    for path in shard_files(folder):
        yield from load_file(path).items()


@pytest.mark.parametrize("scheme", ["per_row", "per_tensor"])
def test_8_bit_model_stays_near_the_full_one(scheme: Fp8Scheme) -> None:
    full = TinyStream(tiny_model()).run(0)
    model = tiny_model()
    quantize_linears(model, scheme)
    assert 0 < relative_rms(TinyStream(model).run(0), full) < 0.03


def test_rows_have_scales_of_their_own() -> None:
    linear = nn.Linear(32, 16, bias=False)
    linear.weight.data[3] *= 1000
    layer = Fp8Linear(linear, "per_row")
    restored = layer.weight.float() * layer.weight_scale
    assert relative_rms(restored[4:], linear.weight[4:]) < 0.04
    values, scale = quantize(torch.zeros(2, 8), "per_row")
    assert torch.isfinite(values.float()).all()
    assert torch.isfinite(scale).all()
