"""The left column: what a person fills in, and the Generate button."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from liveavatar.core.request import AUTO
from liveavatar.core.sizes import SIZES
from ui.callbacks import Callbacks
from ui.samples import Samples
from ui.strings import WORDS

if TYPE_CHECKING:
    from liveavatar.service.facade import Studio

_TIER_CARDS = ("small", "standard", "large")
_STEPS = [(str(number), str(number)) for number in (4, 3, 2)]
_MAX_PROMPT_CHARACTERS = 500


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The fields that a person fills in."""

    portrait: gr.Image
    voice: gr.Audio
    prompt: gr.Textbox
    size: gr.Radio
    exact_size: gr.Dropdown
    pin_size: gr.Checkbox
    engine: gr.Radio
    steps: gr.Radio
    seed: gr.Number
    generate: gr.Button


def input_column(samples: Samples, studio: Studio, callbacks: Callbacks) -> Inputs:
    """Draw the column. Its fields scroll; the button below them is always in view."""
    with gr.Column(elem_id="studio-fields"):
        portrait = _portrait()
        if samples.portraits:
            mount_point("studio-samples")
        voice = _voice()
        mount_point("studio-voices")
        prompt = _prompt()
        size = _size()
        with gr.Accordion(WORDS("more"), open=False, elem_id="studio-more"):
            engine = _engine()
            exact_size, pin_size = _exact_size(), _pin_size()
            steps = _steps()
            seed = _seed()
            if studio.config.is_for_this_machine_alone:
                _model(studio, callbacks)
    with gr.Column(elem_id="studio-submit"):
        mount_point("studio-problem")
        generate = gr.Button(WORDS("generate"), variant="primary", size="lg", elem_id="studio-generate")
    return Inputs(
        portrait=portrait,
        voice=voice,
        prompt=prompt,
        size=size,
        exact_size=exact_size,
        pin_size=pin_size,
        engine=engine,
        steps=steps,
        seed=seed,
        generate=generate,
    )


def mount_point(name: str) -> None:
    """Leave a place for the scripts to draw in."""
    gr.HTML(
        elem_id=f"{name}-host",
        html_template=f"<div id='{name}'></div>",
        js_on_load=None,
        apply_default_css=False,
        container=False,
    )


def picture_field(**options: Any) -> gr.Image:
    """Return an image field that hands over the file exactly as it was uploaded.

    gr.Image decodes and re-encodes pictures, which loses quality and answers a broken file with a traceback; the
    app checks the file itself and says in words what is wrong. (Gradio writes a stub file beside the module of
    every subclass, so this replaces the one method instead.)
    """
    field = gr.Image(type="filepath", **options)
    field.preprocess = lambda payload: payload.path if payload is not None else None  # type: ignore[method-assign]
    return field


def _portrait() -> gr.Image:
    return picture_field(
        label=WORDS("portrait"),
        placeholder=WORDS("portrait_hint"),
        sources=["upload", "webcam", "clipboard"],
        height=164,
        elem_id="studio-portrait",
        buttons=[],
    )


def _voice() -> gr.Audio:
    return gr.Audio(
        label=WORDS("voice"),
        type="filepath",
        sources=["upload", "microphone"],
        elem_id="studio-voice",
        buttons=[],
        waveform_options=gr.WaveformOptions(waveform_color="#b4b8e8", waveform_progress_color="#4f46e5"),
    )


def _prompt() -> gr.Textbox:
    return gr.Textbox(
        label=WORDS("prompt"),
        placeholder=WORDS("prompt_hint"),
        info=WORDS("prompt_info"),
        lines=2,
        max_lines=4,
        max_length=_MAX_PROMPT_CHARACTERS,
        elem_id="studio-prompt",
    )


def _size() -> gr.Radio:
    return gr.Radio(
        [(WORDS(f"size_{name}"), name) for name in (AUTO, *_TIER_CARDS)],
        value=AUTO,
        label=WORDS("size"),
        elem_id="studio-size",
    )


def _engine() -> gr.Radio:
    return gr.Radio(
        [
            (WORDS("engine_auto"), AUTO),
            (WORDS("engine_portrait"), "portrait"),
            (WORDS("engine_s2v"), "s2v"),
        ],
        value=AUTO,
        label=WORDS("engine"),
        elem_id="studio-engine",
    )


def _exact_size() -> gr.Dropdown:
    return gr.Dropdown(
        [(WORDS("exact_size_none"), ""), *((name.replace("*", "×"), name) for name in SIZES)],
        value="",
        label=WORDS("exact_size"),
        info=WORDS("exact_size_info"),
        filterable=False,
        elem_id="studio-exact-size",
    )


def _pin_size() -> gr.Checkbox:
    return gr.Checkbox(False, label=WORDS("pin_size"), info=WORDS("pin_size_info"), elem_id="studio-pin-size")


def _steps() -> gr.Radio:
    return gr.Radio(
        [(WORDS("steps_auto"), ""), *_STEPS],
        value="",
        label=WORDS("steps"),
        info=WORDS("steps_info"),
        elem_id="studio-steps",
    )


def _seed() -> gr.Number:
    return gr.Number(
        0, label=WORDS("seed"), info=WORDS("seed_info"), precision=0, minimum=0, elem_id="studio-seed"
    )


def _model(studio: Studio, callbacks: Callbacks) -> None:
    """Let the operator name the s2v engine's model, where it was not named when the app started."""
    model = studio.model
    options: dict[str, Any] = {"interactive": not model.is_fixed, "max_lines": 1}
    folder = gr.Textbox(
        str(model.folders.ckpt_dir or ""),
        label=WORDS("ckpt_dir"),
        info=WORDS("ckpt_dir_fixed" if model.is_fixed else "ckpt_dir_info"),
        placeholder="/models/Wan2.2-S2V-14B",
        elem_id="studio-ckpt-dir",
        **options,
    )
    lora = gr.Textbox(
        str(model.folders.lora_path or ""),
        label=WORDS("lora_path"),
        info=WORDS("lora_path_info"),
        elem_id="studio-lora-path",
        **options,
    )
    if model.is_fixed:
        return
    use = gr.Button(WORDS("use_model"), size="sm", elem_id="studio-use-model")
    mount_point("studio-model-answer")
    answer = gr.JSON(visible="hidden", elem_id="studio-model-ticket")
    checked = use.click(
        callbacks.use_model,
        [folder, lora],
        answer,
        show_progress="hidden",
        api_visibility="private",
        queue=False,
    )
    tell = "(answer) => { window.studio.modelChecked(answer); return []; }"
    checked.success(None, answer, None, js=tell, api_visibility="private")
