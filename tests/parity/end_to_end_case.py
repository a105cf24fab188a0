"""Whole videos, from picture, prompt tokens and sound to frames, against recorded runs of the published pipelines."""

from __future__ import annotations

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from liveavatar.conditioning.actors import actor_masks
from liveavatar.conditioning.audio import AudioEncoder, build_audio_encoder
from liveavatar.conditioning.image import prepare_picture, size_for_area
from liveavatar.conditioning.reference import STEADY_MOTION_FRAMES, SinkLatents, plain_sink, steady_sink
from liveavatar.conditioning.text import build_text_encoder, embed_tokens
from liveavatar.models.s2v import S2VTransformer, TokenGrid
from liveavatar.models.vae import StreamingVae, build_vae
from liveavatar.pipeline.block_loop import stream_blocks
from liveavatar.pipeline.clips import generate_clips
from liveavatar.pipeline.decode import PICTURES_PER_BLOCK
from liveavatar.pipeline.denoise import BlockDenoiser
from tests.parity.golden import GoldenCase, iterate_cases, relative_error

KINDS: tuple[str, ...] = ("e2e_single_gpu", "e2e_tpp", "e2e_blockwise")

_SKIPPED_PICTURES = 3
_RANDOM_AUDIO_CLIPS = 3  # that the blockwise pipeline starts with


def run_case(case: GoldenCase) -> dict[str, float]:
    """Return the error of what the run recorded on its way, and of the frames."""
    run = _Run(case)
    if case.kind == "e2e_single_gpu":
        video = run.clips()
    else:
        video = run.stream(run.blockwise_speech() if case.kind == "e2e_blockwise" else run.block_speech())
    return run.errors | _frame_errors(case, video)


class _Run:
    """The parts of one recorded run, and how far what goes through them is from the record."""

    def __init__(self, case: GoldenCase) -> None:
        self.case, self.errors = case, dict[str, float]()
        self.picture = _prepared_picture(case)
        self.vae = _recorded_vae(case)
        self.audio_encoder = _recorded_audio_encoder(case)
        self.blocks_per_clip = case.config["infer_frames"] // PICTURES_PER_BLOCK
        self.calls = _CallTable(case)
        self.denoiser = _RecordingDenoiser(self)

    def clips(self) -> Tensor:
        """Run the single-GPU pipeline."""
        sink = steady_sink(self.vae, self.picture)
        speech = torch.cat([self._features(index) for index in range(self._num_actors())])
        self._note("decode_motion", sink.motion[0, :, -19:], "clip0.decode_motion_last19")
        masks = self._masks()
        pieces = generate_clips(
            self.denoiser,
            self.vae,
            sink,
            self.picture[None, :, None].expand(-1, -1, STEADY_MOTION_FRAMES, -1, -1),
            speech,
            self._noise,
            blocks_per_clip=self.blocks_per_clip,
            num_skipped_pictures=_SKIPPED_PICTURES,
            refresh_sink=self.case.config["enable_online_decode"],
            masks=masks,
        )
        return torch.cat(list(pieces), dim=2)[0]

    def stream(self, speech_blocks: list[Tensor]) -> Tensor:
        """Run the pipelines that decode block by block."""
        steady = self.case.kind == "e2e_blockwise"
        sink = (steady_sink if steady else plain_sink)(self.vae, self.picture)
        self._note("warm_up", sink.motion[:, :, :7], "vae.call0.z")
        pieces = stream_blocks(
            self.denoiser,
            self.vae,
            sink,
            speech_blocks,
            self._noise,
            num_steps=lambda: self.denoiser.num_steps,
            blocks_per_clip=self.blocks_per_clip,
            num_skipped_pictures=_SKIPPED_PICTURES,
        )
        return torch.cat(list(pieces), dim=2)[0]

    def block_speech(self) -> list[Tensor]:
        """Return the features of the recorded sound, block by block."""
        return list(self._features(0).split(PICTURES_PER_BLOCK, dim=-1))

    def blockwise_speech(self) -> list[Tensor]:
        """Return recorded noise for the first clips, then features of the sound that arrived meanwhile."""
        num_blocks = self.case.config["max_repeat"] * self.blocks_per_clip
        num_random = _RANDOM_AUDIO_CLIPS * self.blocks_per_clip
        speech = [self.case.io[self.calls.name(block, 0, "audio_input")] for block in range(num_random)]
        for index in range(num_blocks - num_random):
            features = self.audio_encoder.encode(
                self.case.io[f"stream_audio{index}"], frames_per_clip=self.case.config["infer_frames"]
            )
            speech.append(features[..., :PICTURES_PER_BLOCK])
        return speech

    def _features(self, actor: int) -> Tensor:
        length = min(
            self.case.io[f"in.waveform{index}"].shape[0] for index in range(self._num_actors())
        )  # the number of clips is that of the shortest
        frames_per_clip = self.case.config["infer_frames"]
        encode = self.audio_encoder.encode
        shortest = encode(self.case.io["in.waveform0"][:length], frames_per_clip=frames_per_clip).shape[-1]
        features = encode(self.case.io[f"in.waveform{actor}"], frames_per_clip=frames_per_clip)
        num_clips = self.case.config["num_repeat"]
        return features[..., : min(num_clips * frames_per_clip, shortest)]

    def _num_actors(self) -> int:
        return sum(name.startswith("in.waveform") for name in self.case.io)

    def _masks(self) -> Tensor | None:
        if self._num_actors() == 1:
            return None
        grid = self.denoiser.grid
        masks = actor_masks(
            [self.case.io[f"in.mask_u8_{actor}"] for actor in range(self._num_actors())],
            num_latent_frames=self.case.config["infer_frames"] // 4,
            rows=grid.rows,
            columns=grid.columns,
        )
        self._note("mask", masks, "mask")
        return masks

    def _noise(self, clip: int) -> Tensor:
        return self.case.io[f"clip{clip}.noise"]

    def _note(self, output: str, actual: Tensor, recorded: str) -> None:
        """Keep the largest error of an output over the run; records that are not there are passed over."""
        if recorded in self.case.io:
            error = relative_error(actual, self.case.io[recorded])
            self.errors[output] = max(error, self.errors.get(output, 0.0))


class _RecordingDenoiser(BlockDenoiser):
    """Compares what goes in and out with the record."""

    def __init__(self, run: _Run) -> None:
        case = run.case
        model = S2VTransformer(**case.config["model"]).eval()
        model.load_state_dict(load_weights(case, "dit_weights"), assign=True)
        height, width = (side // 8 for side in run.picture.shape[1:])
        self.grid = TokenGrid(latent_height=height, latent_width=width)
        text = _recorded_text(case)
        super().__init__(
            model,
            grid=self.grid,
            text=text,
            sink_distance=run.calls.jitter,
            num_steps=case.config["sampling_steps"],
            blocks_per_clip=run.blocks_per_clip,
        )
        self._run = run
        self._num_sinks = 0
        run._note("context", text, "context")

    def set_sink(self, sink: SinkLatents) -> None:
        prefix = self._run.calls.sink_prefix(self._num_sinks)
        self._run._note("reference", sink.reference, f"{prefix}.ref_latents")
        self._run._note("motion", sink.motion[:, :, -19:], f"{prefix}.motion_latents_last19")
        self._num_sinks += 1
        super().set_sink(sink)

    def denoise(self, latents: Tensor, speech: Tensor, block: int, masks: Tensor | None = None) -> Tensor:
        run = self._run
        run._note("speech", speech, run.calls.name(block, 0, "audio_input"))
        latents = super().denoise(latents, speech, block, masks)
        clip, index = divmod(block, run.blocks_per_clip)
        recorded = run.case.io.get(f"clip{clip}.latents")
        if recorded is not None:
            error = relative_error(latents, recorded[:, 3 * index : 3 * index + 3])
            run.errors["latents"] = max(error, run.errors.get("latents", 0.0))
        run._note("latents", latents[None], f"vae.call{block + 1}.z")
        return latents


class _CallTable:
    """Finds the recorded forward of a block and step; runs of one process and of several are listed differently."""

    def __init__(self, case: GoldenCase) -> None:
        self._per_rank = "calls_per_rank" in case.manifest
        if self._per_rank:
            ranks = case.manifest["calls_per_rank"]
            self._steps = [_streaming(ranks[str(rank)]) for rank in range(case.config["sampling_steps"])]
            self._sinks = [call for call in ranks["0"] if call["sink"]]
        else:
            num_steps = case.config["sampling_steps"]
            calls = _streaming(case.manifest["calls"])
            self._steps = [calls[step::num_steps] for step in range(num_steps)]
            self._sinks = [call for call in case.manifest["calls"] if call["sink"]][::num_steps]

    def jitter(self, block: int, step: int) -> int:
        return int(self._steps[step][block]["rope_jitter"])

    def name(self, block: int, step: int, tensor: str) -> str:
        return f"{self._prefix(step)}call{self._steps[step][block]['call']}.{tensor}"

    def sink_prefix(self, index: int) -> str:
        return f"{self._prefix(0)}call{self._sinks[index]['call']}"

    def _prefix(self, step: int) -> str:
        return f"rank{step}." if self._per_rank else ""


class Recorded:
    """The conditions and the random choices of a recorded run, for those who make its video in another way."""

    def __init__(self, case: GoldenCase) -> None:
        run = _Run(case)
        self._run = run
        self.picture, self.vae, self.blocks_per_clip = run.picture, run.vae, run.blocks_per_clip
        self.text = _recorded_text(case)
        self.block_speech = run.block_speech

    def sink_distance(self, block: int, step: int) -> int:
        """Return what was drawn."""
        return self._run.calls.jitter(block, step)

    def clip_noise(self, clip: int, *, height: int, width: int, like: Tensor) -> Tensor:
        """Return what was drawn."""
        noise = self._run._noise(clip).to(like)
        assert noise.shape[2:] == (height, width)
        return noise

    def errors(self, blocks: list[Tensor], video: Tensor) -> dict[str, float]:
        """Return how far the latents of every block and the frames are from the record."""
        for index, latents in enumerate(blocks):
            self._run._note("latents", latents[None], f"vae.call{index + 1}.z")
        return self._run.errors | _frame_errors(self._run.case, video)


def load_weights(case: GoldenCase, role: str) -> dict[str, Tensor]:
    """Read a weights file that the manifest names outside of `files`."""
    stored = load_file(case.directory / case.manifest[role])
    return {name: tensor.float() for name, tensor in stored.items()}


def _streaming(calls: list[dict[str, float]]) -> list[dict[str, float]]:
    return [call for call in calls if not call["sink"]]


def _prepared_picture(case: GoldenCase) -> Tensor:
    picture = Image.fromarray(case.io["in.image_u8_hwc"].numpy())
    height, width = size_for_area(picture.height, picture.width, case.config["max_area"])
    return prepare_picture(picture, height, width)


def _recorded_vae(case: GoldenCase) -> StreamingVae:
    return build_vae(load_weights(case, "vae_weights"), device="cpu", dtype=torch.float32)


def _recorded_audio_encoder(case: GoldenCase) -> AudioEncoder:
    weights = {
        name.removeprefix("wav2vec2."): tensor
        for name, tensor in case.weights.items()
        if name.startswith("wav2vec2.")
    }
    config = case.config.get("wav2vec2") or _config_of_same_weights(case)
    return build_audio_encoder(weights, config, device="cpu", dtype=torch.float32, norm_last_state=False)


def _config_of_same_weights(case: GoldenCase) -> dict[str, object]:
    """Return the audio encoder's configuration from another case of the folder that shares the weights file."""
    for other in iterate_cases(case.directory, ("e2e_single_gpu",)):
        if other.manifest["files"]["weights"] == case.manifest["files"]["weights"]:
            config: dict[str, object] = other.config["wav2vec2"]
            return config
    raise ValueError(f"no manifest beside {case.name} tells the audio encoder's configuration")


def _recorded_text(case: GoldenCase) -> Tensor:
    weights = {
        name.removeprefix("t5."): tensor for name, tensor in case.weights.items() if name.startswith("t5.")
    }
    encoder = build_text_encoder(weights, device="cpu", dtype=torch.float32)
    return embed_tokens(encoder, case.io["in.ids"][0, : int(case.io["in.ids_mask"].sum())])


def _frame_errors(case: GoldenCase, video: Tensor) -> dict[str, float]:
    exact = video[:, case.io["frames_f32_subset_index"]]
    levels = ((video[:, :, ::2, ::2] + 1) * 127.5).round()
    return {
        "frames": relative_error(exact, case.io["frames_f32_subset"]),
        "all frames, 8 bit": relative_error(levels, case.io["frames_u8_ss2"]),
    }
