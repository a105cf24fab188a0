"""The web page: inputs on the left, stage, machine and videos on the right.

Gradio draws the inputs and carries the calls. What moves (player, progress, memory, videos) is drawn by the scripts
in assets/js, which ask `GET /api/state` once a second.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from liveavatar.core.request import AUTO
from liveavatar.core.sizes import TIERS
from ui.callbacks import Callbacks
from ui.fields import Inputs, input_column, mount_point, picture_field
from ui.routes import ASSETS, StudioRoutes
from ui.samples import SAMPLES_DIR, Samples, load_samples
from ui.strings import WORDS

if TYPE_CHECKING:
    from liveavatar.service.facade import Studio

_MAX_UPLOAD_BYTES = 200_000_000
_DELETE_UPLOADS = (3600, 24 * 3600)  # look every hour, delete what is older than a day
_FONTS = ["ui-sans-serif", "system-ui", "Segoe UI", "Noto Sans", "Noto Sans CJK SC", "sans-serif"]
_MONO_FONTS = ["ui-monospace", "Consolas", "monospace"]


@dataclass(frozen=True, kw_only=True)
class Wires:
    """Invisible components between the scripts and the callbacks."""

    choice: gr.Textbox  # which sample was clicked
    fill: gr.Button
    try_it: gr.Button
    ticket: gr.JSON  # what a submission answered


def build_page(studio: Studio) -> gr.Blocks:
    """Return the page. Launch it with `launch_options(studio)`."""
    samples = load_samples()
    if samples.voices:
        gr.set_static_paths([SAMPLES_DIR / "portraits", SAMPLES_DIR / "voices"])
    callbacks = Callbacks(studio, samples)
    page: gr.Blocks = gr.Blocks(
        title="LiveAvatar Studio", fill_width=True, analytics_enabled=False, delete_cache=_DELETE_UPLOADS
    )
    with page:
        mount_point("studio-top")
        with gr.Row(elem_id="studio-main", equal_height=False):
            with gr.Column(elem_id="studio-inputs", min_width=320):
                inputs = input_column(samples, studio, callbacks)
            with gr.Column(elem_id="studio-outputs", min_width=320):
                for name in ("studio-stage", "studio-machine", "studio-videos"):
                    mount_point(name)
        _connect(inputs, _wires(), callbacks)
        _add_api(callbacks)
    page.queue(default_concurrency_limit=8, max_size=128)
    return page


def launch_options(studio: Studio) -> dict[str, Any]:
    """Return the keyword arguments for `page.launch()` that belong to the page rather than to the server."""
    return {
        "app_kwargs": {"routes": StudioRoutes(studio).routes()},
        "theme": _theme(),
        "head": _head(load_samples(), studio.config.keep_days),
        "i18n": WORDS,
        "favicon_path": ASSETS / "css" / "favicon.svg",
        "footer_links": ["api", "settings"],
        "max_file_size": _MAX_UPLOAD_BYTES,
        "allowed_paths": [],
        "run_history": False,
        "ssr_mode": False,
        "enable_monitoring": False,
        "show_error": True,
        "strict_cors": True,
    }


def _wires() -> Wires:
    return Wires(
        choice=gr.Textbox(visible="hidden", elem_id="studio-choice", show_label=False),
        fill=gr.Button(visible="hidden", elem_id="studio-fill"),
        try_it=gr.Button(visible="hidden", elem_id="studio-try"),
        ticket=gr.JSON(visible="hidden", elem_id="studio-ticket"),
    )


def _connect(inputs: Inputs, wires: Wires, callbacks: Callbacks) -> None:
    """Tie buttons to callbacks. The scripts are told of each answer, and open the new job's video."""
    quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
    chosen = "(choice, ...rest) => [window.studio.choice, ...rest]"
    tell = "(ticket) => { window.studio.submitted(ticket); return []; }"
    submitted = inputs.generate.click(
        callbacks.submit_from_page,
        [
            inputs.portrait,
            inputs.voice,
            inputs.prompt,
            inputs.size,
            inputs.exact_size,
            inputs.engine,
            inputs.seed,
            inputs.steps,
            inputs.pin_size,
        ],
        wires.ticket,
        trigger_mode="once",
        js="(...fields) => { window.studio?.submitting(); return fields; }",
        **quick,
    )
    tried = wires.try_it.click(
        callbacks.try_sample,
        [wires.choice, inputs.prompt, inputs.size],
        [inputs.portrait, inputs.voice, wires.ticket],
        js=chosen,
        **quick,
    )
    for event in (submitted, tried):
        event.success(None, wires.ticket, None, js=tell, api_visibility="private")
        event.failure(None, None, None, js="() => { window.studio.submitted(null); return []; }")
    wires.fill.click(
        callbacks.sample_files, wires.choice, [inputs.portrait, inputs.voice], js=chosen, **quick
    )


def _add_api(callbacks: Callbacks) -> None:
    """Publish the named endpoints for API clients."""
    trigger = gr.Button(visible=False)
    answer = gr.JSON(visible=False)
    fields = [
        picture_field(label="portrait", visible=False),
        gr.Audio(label="voice", type="filepath", visible=False),
        gr.Textbox("", label="prompt", visible=False),
        gr.Textbox(AUTO, label="size", visible=False),
        gr.Number(0, label="seed", precision=0, visible=False),
        gr.Textbox(AUTO, label="engine", visible=False),
        gr.Textbox("", label="clicks", visible=False),
        gr.Checkbox(False, label="whole_picture", visible=False),
        gr.Number(0, label="steps", precision=0, visible=False),
        gr.Checkbox(False, label="pin_size", visible=False),
    ]
    trigger.click(callbacks.submit, fields, answer, api_name="submit", queue=False)
    job_id = gr.Textbox(label="job_id", visible=False)
    trigger.click(callbacks.job_status, job_id, answer, api_name="job_status", queue=False)
    trigger.click(callbacks.cancel_job, job_id, answer, api_name="cancel_job", queue=False)
    trigger.click(callbacks.list_jobs, None, answer, api_name="list_jobs", queue=False)
    trigger.click(callbacks.hardware, None, answer, api_name="hardware", queue=False)


def _head(samples: Samples, keep_days: float) -> str:
    """Return what goes into the page's head: viewport, style, scripts, and what the scripts need to know."""
    told = {
        "portraits": [
            {
                "file": portrait.path.relative_to(ASSETS).as_posix(),
                "title": portrait.title,
                "voice": portrait.voice_index,
            }
            for portrait in samples.portraits
        ],
        "voices": [
            {
                "title": voice.title,
                "language": voice.language,
                "seconds": voice.seconds,
                "chinese": dict(voice.chinese),
            }
            for voice in samples.voices
        ],
        "tiers": {
            tier.name: {"landscape": tier.landscape, "upright": tier.upright, "square": tier.square}
            for tier in TIERS
        },
        "maxUploadBytes": _MAX_UPLOAD_BYTES,
        "keepDays": keep_days,
    }
    as_json = json.dumps(told).replace("<", "\\u003c")
    styles = "".join(
        f'<link rel="stylesheet" href="studio/css/{name}.css">'
        for name in ("base", "inputs", "samples", "settings", "stage", "clicks", "panels", "machine")
    )
    return (
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'{styles}<script type="application/json" id="studio-data">{as_json}</script>'
        '<script type="module" src="studio/js/main.js"></script>'
    )


def _theme() -> gr.themes.Base:
    """Return colours and shapes; only fonts that the computer already has."""
    return gr.themes.Base(
        primary_hue="indigo",
        neutral_hue="slate",
        radius_size="lg",
        font=_FONTS,
        font_mono=_MONO_FONTS,
    ).set(
        body_background_fill="#f5f6fa",
        body_background_fill_dark="#0b0d13",
        block_background_fill="#ffffff",
        block_background_fill_dark="#14171f",
        block_border_color="#e3e6ee",
        block_border_color_dark="#262b38",
        block_shadow="none",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        block_label_text_weight="600",
        block_title_text_weight="600",
        button_primary_background_fill="#4f46e5",
        button_primary_background_fill_hover="#4338ca",
        button_primary_background_fill_dark="#4f46e5",
        button_primary_background_fill_hover_dark="#4338ca",
        button_primary_text_color="#ffffff",
        input_background_fill="#f7f8fc",
        input_background_fill_dark="#0f1219",
    )
