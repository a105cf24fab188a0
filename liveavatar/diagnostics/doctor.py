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
    fetch = f"Fetch the checkpoint with: hf download {REPOSITORY} --local-dir Wan2.2-S2V-14B"
    if not folder.is_dir():
        kind = "is a file" if folder.exists() else "does not exist"
        return _problem("wrong_folder", f"“{folder}” is not a checkpoint folder.", f"It {kind}.", fetch)
    layout = CheckpointLayout(folder=folder)
    if layout.transformer_config.exists() or layout.transformer_index.exists() or layout.vae.exists():
        return _other_model(layout)
    inner = [
        path for path in sorted(folder.glob("*/")) + sorted(folder.glob("snapshots/*/")) if _has_index(path)
    ]
    if inner:
        title, cause = "The checkpoint lies one folder deeper.", f"“{folder}” only contains it."
        return _problem("wrong_folder", title, cause, f"Name {inner[0]} instead.")
    if (folder / "model_index.json").exists():
        cause = "It is a model in the Diffusers format; the checkpoint is needed in the original format."
        return _problem("wrong_folder", "This is another kind of checkpoint.", cause, fetch)
    if (folder / "liveavatar.safetensors").exists():
        cause = "It holds the LiveAvatar LoRA, which is merged into the checkpoint."
        return _problem("wrong_folder", "This is the LoRA's folder.", cause, fetch)
    cause = "None of the checkpoint's files is in it."
    return _problem("wrong_folder", f"“{folder}” is not a checkpoint folder.", cause, fetch)


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
    return _problem(
        "wrong_model",
        f"This is the checkpoint of {name}, not of the speech model.",
        f"config.json says model_type “{model_type}”; it must be “s2v”.",
        f"Fetch {REPOSITORY} into a folder of its own: hf download {REPOSITORY} --local-dir Wan2.2-S2V-14B",
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
    return [
        _problem(
            "wrong_weights",
            "The transformer's files do not belong to the speech model.",
            cause,
            f"Fetch them again: hf download {REPOSITORY} --include 'diffusion_pytorch_model*' config.json",
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
    remedy = f"Fetch it with: hf download {LORA_REPOSITORY} liveavatar.safetensors --local-dir LiveAvatar"
    if layout.lora is None or not layout.lora.is_file():
        title = "The LiveAvatar LoRA is not there."
        cause = "Without it the model needs many more steps and does not stream."
        return _part("LoRA", {}, [_problem("missing_file", title, cause, remedy)])
    tensors, problem = _read(layout, layout.lora)
    if problem is None and not any("lora_A" in name for name in tensors):
        title = f"“{layout.lora.name}” is not a LoRA."
        problem = _problem("wrong_weights", title, "None of its tensors is named lora_A.", remedy)
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
    remedy = f"Fetch it with: hf download {repository} {name} --local-dir {target}"
    if isinstance(error, FileNotFoundError):
        return _problem("missing_file", f"“{name}” is missing.", "", remedy)
    if isinstance(error, DamagedFile):
        return _problem("damaged_file", f"“{name}” {error}.", "", f"Delete it. {remedy}")
    return _problem(
        "unreadable_file", f"“{name}” cannot be read.", f"The system says: {error}.", "Check its rights."
    )


def _part(name: str, tensors: Headers, problems: Sequence[Diagnosis]) -> Part:
    return Part(name=name, tensors=tensors, problems=tuple(problems))


def _problem(code: str, title: str, cause: str, remedy: str) -> Diagnosis:
    return Diagnosis(code=code, title=title, cause=cause, remedy=remedy)
