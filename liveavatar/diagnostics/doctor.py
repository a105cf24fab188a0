"""Is this folder a whole S2V checkpoint? Answers from file headers, in seconds, without torch.

Each part of the checkpoint is looked at on its own and reports what it found or one problem with a remedy; a folder
that is something else altogether gets one problem that says what it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from liveavatar.core.errors import Diagnosis
from liveavatar.loading.checkpoint import CheckpointLayout, DamagedFile, Headers, read_headers
from liveavatar.loading.file_headers import TensorHeader

REPOSITORY = "Wan-AI/Wan2.2-S2V-14B"
LORA_REPOSITORY = "Quark-Vision/Live-Avatar"

# Tensors that only the S2V transformer has; every other Wan model lacks them.
_S2V_TENSORS = ("casual_audio_encoder.weights", "frame_packer.proj.weight", "trainable_cond_mask.weight")
_OTHER_MODELS = {
    "t2v": "Wan text-to-video",
    "i2v": "Wan image-to-video",
    "ti2v": "Wan text-and-image-to-video",
    "flf2v": "Wan first-last-frame-to-video",
    "vace": "Wan VACE",
    "animate": "Wan Animate",
}


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of the checkpoint: what its files hold, and what is wrong with them."""

    name: str
    tensors: Headers
    problems: tuple[Diagnosis, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.num_bytes for tensor in self.tensors.values())

    @property
    def num_parameters(self) -> int:
        """How many numbers all tensors hold."""
        return sum(tensor.num_elements for tensor in self.tensors.values())

    @property
    def precision(self) -> str:
        """The types of its tensors, the most bytes first."""
        num_bytes: dict[str, int] = {}
        for tensor in self.tensors.values():
            num_bytes[tensor.dtype] = num_bytes.get(tensor.dtype, 0) + tensor.num_bytes
        return ", ".join(sorted(num_bytes, key=lambda dtype: -num_bytes[dtype]))


@dataclass(frozen=True, kw_only=True)
class CheckpointReport:
    """What the folder holds."""

    folder: Path
    parts: tuple[Part, ...]

    @property
    def problems(self) -> tuple[Diagnosis, ...]:
        """Everything that is wrong, most basic first."""
        return tuple(problem for part in self.parts for problem in part.problems)

    @property
    def is_usable(self) -> bool:
        """Whether a video can be made with it."""
        return not self.problems

    def part(self, name: str) -> Part:
        """Return one part by its name."""
        return next(part for part in self.parts if part.name == name)


def inspect_checkpoint(folder: Path, lora: Path | None = None) -> CheckpointReport:
    """Look at every file's header. Never raises for what it finds in the folder."""
    wrong = _wrong_folder(folder)
    if wrong is not None:
        return CheckpointReport(folder=folder, parts=(Part(name="folder", tensors={}, problems=(wrong,)),))
    layout = CheckpointLayout.find(folder, lora)
    parts = (
        _transformer(layout),
        _text_encoder(layout),
        _tokenizer(layout),
        _vae(layout),
        _audio_encoder(layout),
        _lora(layout),
    )
    return CheckpointReport(folder=folder, parts=parts)


def _wrong_folder(folder: Path) -> Diagnosis | None:
    """Return what a folder is that is not even an incomplete checkpoint, or None."""
    command = f"hf download {REPOSITORY} --local-dir Wan2.2-S2V-14B"
    fetch = f"Fetch the checkpoint with: {command}"
    if not folder.is_dir():
        return Diagnosis(
            code="no_such_folder",
            title=f"“{folder}” is not a checkpoint folder.",
            cause="It is a file." if folder.exists() else "It does not exist.",
            remedy=fetch,
            facts={"folder": str(folder), "command": command},
        )
    layout = CheckpointLayout(folder=folder)
    if layout.transformer_config.exists() or layout.transformer_index.exists() or layout.vae.exists():
        return _other_model(layout)
    inner = [
        path for path in sorted(folder.glob("*/")) + sorted(folder.glob("snapshots/*/")) if _has_index(path)
    ]
    if inner:
        return Diagnosis(
            code="checkpoint_one_deeper",
            title="The checkpoint lies one folder deeper.",
            cause=f"“{folder}” only contains it.",
            remedy=f"Name {inner[0]} instead.",
            facts={"folder": str(folder), "inner": str(inner[0])},
        )
    if (folder / "model_index.json").exists():
        return Diagnosis(
            code="diffusers_checkpoint",
            title="This is another kind of checkpoint.",
            cause="It is a model in the Diffusers format; the checkpoint is needed in the original format.",
            remedy=fetch,
            facts={"command": command},
        )
    if (folder / "liveavatar.safetensors").exists():
        return Diagnosis(
            code="lora_folder",
            title="This is the LoRA's folder.",
            cause="It holds the LiveAvatar LoRA, which is merged into the checkpoint.",
            remedy=fetch,
            facts={"command": command},
        )
    return Diagnosis(
        code="wrong_folder",
        title=f"“{folder}” is not a checkpoint folder.",
        cause="None of the checkpoint's files is in it.",
        remedy=fetch,
        facts={"folder": str(folder), "command": command},
    )


def _has_index(folder: Path) -> bool:
    return CheckpointLayout(folder=folder).transformer_index.exists()


def _other_model(layout: CheckpointLayout) -> Diagnosis | None:
    try:
        model_type = layout.read_transformer_config().get("model_type")
    except (DamagedFile, FileNotFoundError):
        return None
    if model_type in (None, "s2v"):
        return None
    name = _OTHER_MODELS.get(str(model_type), f"a “{model_type}”")
    command = f"hf download {REPOSITORY} --local-dir Wan2.2-S2V-14B"
    return Diagnosis(
        code="wrong_model",
        title=f"This is the checkpoint of {name}, not of the speech model.",
        cause=f"config.json says model_type “{model_type}”; it must be “s2v”.",
        remedy=f"Fetch {REPOSITORY} into a folder of its own: {command}",
        facts={"model_type": str(model_type), "command": command},
    )


def _transformer(layout: CheckpointLayout) -> Part:
    problems: list[Diagnosis] = []
    try:
        config = layout.read_transformer_config()
    except (DamagedFile, FileNotFoundError) as error:
        return _part("transformer", {}, [_file_problem(layout, layout.transformer_config, error)])
    try:
        shards = layout.transformer_shards()
    except (DamagedFile, FileNotFoundError) as error:
        return _part("transformer", {}, [_file_problem(layout, layout.transformer_index, error)])
    tensors: dict[str, TensorHeader] = {}
    for path, expected in shards.items():
        found, problem = _read(layout, path)
        if problem is None and not expected <= found.keys():
            absent = sorted(expected - found.keys())
            problem = _file_problem(
                layout, path, DamagedFile(f"lacks {len(absent)} tensors, e.g. “{absent[0]}”")
            )
        problems += [problem] if problem else []
        tensors.update(found)
    if not problems:
        problems += _content_problems(tensors, int(config.get("num_layers", 40)))
    return _part("transformer", tensors, problems)


def _content_problems(names: Iterable[str], num_layers: int) -> list[Diagnosis]:
    names = set(names)
    blocks = {name.split(".")[1] for name in names if name.startswith("blocks.")}
    absent = [name for name in _S2V_TENSORS if name not in names]
    if not absent and len(blocks) == num_layers:
        return []
    cause = (
        f"It lacks “{absent[0]}”."
        if absent
        else f"It has {len(blocks)} blocks, config.json says {num_layers}."
    )
    command = f"hf download {REPOSITORY} --include 'diffusion_pytorch_model*' config.json"
    return [
        Diagnosis(
            code="wrong_weights",
            title="The transformer's files do not belong to the speech model.",
            cause=cause,
            remedy=f"Fetch them again: {command}",
            facts={"command": command},
        )
    ]


def _text_encoder(layout: CheckpointLayout) -> Part:
    return _single_file(layout, "text encoder", layout.text_encoder, "token_embedding.weight")


def _vae(layout: CheckpointLayout) -> Part:
    return _single_file(layout, "video autoencoder", layout.vae, "decoder.conv1.weight")


def _tokenizer(layout: CheckpointLayout) -> Part:
    path = layout.tokenizer / "tokenizer.json"
    problem = None if path.is_file() else _file_problem(layout, path, FileNotFoundError())
    return _part("tokenizer", {}, [problem] if problem else [])


def _audio_encoder(layout: CheckpointLayout) -> Part:
    config = layout.audio_encoder / "config.json"
    if not config.is_file():
        return _part("audio encoder", {}, [_file_problem(layout, config, FileNotFoundError())])
    return _single_file(
        layout, "audio encoder", layout.audio_encoder_weights, "wav2vec2.feature_projection.projection.weight"
    )


def _lora(layout: CheckpointLayout) -> Part:
    command = f"hf download {LORA_REPOSITORY} liveavatar.safetensors --local-dir LiveAvatar"
    if layout.lora is None or not layout.lora.is_file():
        missing = Diagnosis(
            code="missing_lora",
            title="The LiveAvatar LoRA is not there.",
            cause="Without it the model needs many more steps and does not stream.",
            remedy=f"Fetch it with: {command}",
            facts={"command": command},
        )
        return _part("LoRA", {}, [missing])
    tensors, problem = _read(layout, layout.lora)
    if problem is None and not any("lora_A" in name for name in tensors):
        problem = Diagnosis(
            code="not_a_lora",
            title=f"“{layout.lora.name}” is not a LoRA.",
            cause="None of its tensors is named lora_A.",
            remedy=f"Fetch it with: {command}",
            facts={"name": layout.lora.name, "command": command},
        )
    return _part("LoRA", tensors, [problem] if problem else [])


def _single_file(layout: CheckpointLayout, name: str, path: Path, landmark: str) -> Part:
    tensors, problem = _read(layout, path)
    if problem is None and landmark not in tensors:
        problem = _file_problem(
            layout, path, DamagedFile(f"belongs to something else: it lacks “{landmark}”")
        )
    return _part(name, tensors, [problem] if problem else [])


def _read(layout: CheckpointLayout, path: Path) -> tuple[Headers, Diagnosis | None]:
    try:
        return read_headers(path), None
    except (DamagedFile, OSError) as error:
        return {}, _file_problem(layout, path, error)


def _file_problem(layout: CheckpointLayout, path: Path, error: Exception) -> Diagnosis:
    inside = path.is_relative_to(layout.folder)
    name = path.relative_to(layout.folder) if inside else path.name
    repository, target = (REPOSITORY, layout.folder) if inside else (LORA_REPOSITORY, path.parent)
    command = f"hf download {repository} {name} --local-dir {target}"
    if isinstance(error, FileNotFoundError):
        return Diagnosis(
            code="missing_file",
            title=f"“{name}” is missing.",
            cause="",
            remedy=f"Fetch it with: {command}",
            facts={"name": str(name), "command": command},
        )
    if isinstance(error, DamagedFile):
        return Diagnosis(
            code="damaged_file",
            title=f"“{name}” {error}.",
            cause="",
            remedy=f"Delete it. Fetch it with: {command}",
            facts={"name": str(name), "command": command},
        )
    return Diagnosis(
        code="unreadable_file",
        title=f"“{name}” cannot be read.",
        cause=f"The system says: {error}.",
        remedy="Check its rights.",
        facts={"name": str(name), "reason": str(error)},
    )


def _part(name: str, tensors: Headers, problems: Sequence[Diagnosis]) -> Part:
    return Part(name=name, tensors=tensors, problems=tuple(problems))
