"""Words of the page's Gradio part, in English and Chinese. Those of its scripts are in assets/js/strings.js."""

from __future__ import annotations

import gradio as gr

from liveavatar.core.sizes import TIERS

ENGLISH = {
    "portrait": "Portrait",
    "portrait_hint": "Drop a portrait here, or click to choose a file",
    "voice": "Voice",
    "prompt": "Scene and mood",
    "prompt_hint": "e.g. A warm smile, looking into the camera",
    "prompt_info": "Mood, smile and gaze. Scenes need the s2v engine.",
    "size": "Picture size",
    "size_auto": "Auto\nbest fit",
    "size_small": "Small\n{small}",
    "size_standard": "Standard\n{standard}",
    "size_large": "Large\n{large}",
    "more": "More settings",
    "engine": "Engine",
    "engine_auto": "Automatic",
    "engine_portrait": "Built-in (processor)",
    "engine_s2v": "s2v (graphics card)",
    "exact_size": "Exact picture size",
    "exact_size_info": "Overrides the choice above, whatever the portrait's shape.",
    "exact_size_none": "As chosen above",
    "pin_size": "Keep this size",
    "pin_size_info": "Where memory is short, stop instead of making a smaller picture.",
    "steps": "Denoising steps",
    "steps_auto": "Auto",
    "steps_info": "Of the s2v engine: fewer are faster and coarser.",
    "ckpt_dir": "Model of the s2v engine",
    "ckpt_dir_info": "Its folder on this machine; see docs/models.md.",
    "ckpt_dir_fixed": "Named when the app was started.",
    "lora_path": "Adapter file",
    "lora_path_info": "Only where liveavatar.safetensors is neither inside nor beside that folder.",
    "use_model": "Check and use",
    "seed": "Seed",
    "seed_info": "The same seed gives the same blinks and head movements.",
    "generate": "Generate video",
    "upload_text.drop_audio": "Drop a recording here,",
    "upload_text.click_to_upload": "or click to choose a file",
}

CHINESE = {
    "portrait": "人像",
    "portrait_hint": "将人像拖到这里，或点击选择文件",
    "voice": "语音",
    "prompt": "场景与情绪",
    "prompt_hint": "例如：温暖的微笑，看着镜头",
    "prompt_info": "影响情绪、笑容和目光；场景需要 s2v 引擎。",
    "size": "画面尺寸",
    "size_auto": "自动\n最合适",
    "size_small": "小\n{small}",
    "size_standard": "标准\n{standard}",
    "size_large": "大\n{large}",
    "more": "更多设置",
    "engine": "引擎",
    "engine_auto": "自动",
    "engine_portrait": "内置（处理器）",
    "engine_s2v": "s2v（显卡）",
    "exact_size": "精确尺寸",
    "exact_size_info": "优先于上面的选择，不考虑人像的形状。",
    "exact_size_none": "按上面的选择",
    "pin_size": "保持此尺寸",
    "pin_size_info": "显存不足时宁可失败，也不缩小画面。",
    "steps": "去噪步数",
    "steps_auto": "自动",
    "steps_info": "用于 s2v 引擎：步数越少越快，画面越粗。",
    "ckpt_dir": "s2v 引擎的模型",
    "ckpt_dir_info": "本机上的文件夹；见 docs/models.md。",
    "ckpt_dir_fixed": "启动应用时已指定。",
    "lora_path": "适配器",
    "lora_path_info": "liveavatar.safetensors，仅当它不在该文件夹内或旁边时填写。",
    "use_model": "检查并使用",
    "seed": "随机种子",
    "seed_info": "相同的种子得到相同的眨眼和头部动作。",
    "generate": "生成视频",
    "upload_text.drop_audio": "将录音拖到这里，",
    "upload_text.click_to_upload": "或点击选择文件",
}


def _with_sizes(words: dict[str, str]) -> dict[str, str]:
    """Fill each tier's size, in the landscape shape, into its label."""
    sizes = {tier.name: f"{tier.landscape[0]}×{tier.landscape[1]}" for tier in TIERS}
    return {key: text.format(**sizes) if key.startswith("size_") else text for key, text in words.items()}


_ENGLISH, _CHINESE = _with_sizes(ENGLISH), _with_sizes(CHINESE)

# The browser's language chooses among them. WORDS("voice") is a label that Gradio translates there.
WORDS = gr.I18n(en=_ENGLISH, zh=_CHINESE, **{"zh-CN": _CHINESE, "zh-TW": _CHINESE})
