"""Audio tokens against recorded ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from liveavatar.models.s2v.audio_encoder import CausalAudioEncoder
from tests.parity.golden import GoldenCase, relative_error

KINDS: tuple[str, ...] = ("causal_audio_encoder",)
MODEL_PREFIX = "casual_audio_encoder."


def run_case(case: GoldenCase) -> dict[str, float]:
    """Return the relative error of the tokens, with the history before the block and without."""
    config = case.config
    encoder = CausalAudioEncoder(config["audio_dim"], config["dim"], config["num_audio_token"])
    encoder.load_state_dict({name.removeprefix(MODEL_PREFIX): w for name, w in case.weights.items()})
    errors = {}
    names = [name.split(".")[0] for name in case.io if name.endswith(".audio_input")]
    for name in sorted(names):
        speech = case.io[f"{name}.audio_input"]
        history = F.pad(speech.flatten(0, 1), (config["motion_frames"][0], 0), mode="replicate")
        with torch.no_grad():
            full = encoder(history.unflatten(0, speech.shape[:2]))
            used = encoder.encode_block(speech)
        recorded = case.io
        errors[f"{name}.global"] = relative_error(full.global_AtD, recorded[f"{name}.global"][:, :, 0])
        errors[f"{name}.local"] = relative_error(full.local_AtMD, recorded[f"{name}.local"])
        errors[f"{name}.global_used"] = relative_error(
            used.global_AtD, recorded[f"{name}.global_used"][:, :, 0]
        )
        errors[f"{name}.local_used"] = relative_error(used.local_AtMD, recorded[f"{name}.local_used"])
    return errors
